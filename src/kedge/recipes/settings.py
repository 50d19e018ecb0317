"""What can be set, in each table of a recipe: for `kedge settings` and the documentation."""

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

from kedge.config.described import as_table, as_text
from kedge.config.names import PAGE, TABLES
from kedge.config.settings import Config, nearest
from kedge.errors import ConfigError
from kedge.recipes.registry import names, stage_called


@dataclass(frozen=True)
class Table:
    """A table that a recipe may have."""

    name: str
    """Under which it is asked for."""
    head: str
    """As it is headed."""
    about: str
    settings: type[Config]


def tables() -> dict[str, Table]:
    """By name, a stage's own before those within it; without stages that need what is not installed."""
    return {table.name: table for table in _tables()}


def _tables() -> Iterator[Table]:
    for name in names():
        stage = stage_called(name)
        if stage.missing():
            continue
        yield Table(name, f"[{name}]", f"{stage.about} (`kedge {name}`).", stage.table())
        for key, kinds in stage.entries().items():
            for kind, settings in kinds.items():
                meaning = (settings.__doc__ or "").partition("\n")[0]
                head = f'[[{name}.{key}]], kind = "{kind}"'
                yield Table(f"{name}.{key}.{kind}", head, f"One entry of a list of {key}s. {meaning}".strip(), settings)


def settings_text(table: str | None, *, width: int = 79) -> str:
    """Every setting of a table and those within it, or of all of them, with its default and its meaning.

    Raises:
        ConfigError: no such table.
    """
    there = tables()
    shown = [found for name, found in there.items() if table is None or f"{name}.".startswith(f"{table}.")]
    if table is not None and not shown:
        if table in names():
            raise ConfigError(stage_called(table).missing())
        whole = table.partition(".")[0]
        known = TABLES.get(table) or nearest(table, list(there))
        if whole in there and whole != table:
            known = f"its settings stand in [{whole}]: kedge settings {whole}"
        raise ConfigError(f"{table}: no table; {known}")
    return "\n\n".join(
        "\n".join([each.head, *textwrap.wrap(each.about, width), "", as_text(each.settings, width=width, indent="  ")])
        for each in shown
    )


def settings_page() -> str:
    """The same as a page of the documentation."""
    parts = [
        "<!-- Made from the code by `make pages`. -->",
        "# Settings",
        "",
        "Every key of every table of a recipe; `kedge settings [TABLE]` prints the same. `SFTConfig`, `RewardConfig`",
        "and `PPOConfig` are [sft], [reward] and [ppo] without model, data and `run`, which Python takes as arguments.",
        f"Names from other libraries: [coming from elsewhere]({PAGE.removeprefix('docs/')}).",
    ]
    for each in tables().values():
        parts += ["", f"## {each.head}", "", each.about, "", as_table(each.settings)]
    return "\n".join(parts) + "\n"
