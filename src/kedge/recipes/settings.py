"""What can be set, in each table of a recipe: for `kedge settings` and the documentation."""

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kedge.config.described import as_table, as_text
from kedge.config.names import PAGE, TABLES
from kedge.config.plugins import Registry
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
    settings: type[Config] | None
    """None where they cannot be had; ``about`` says why."""


def tables() -> dict[str, Table]:
    """By name, a stage's own before those within it; without stages that need what is not installed."""
    return {table.name: table for table in _tables()}


def _tables() -> Iterator[Table]:
    for name in names():
        try:
            stage = stage_called(name)
            missing, settings = stage.missing(), None if stage.missing() else stage.table()
        except (ConfigError, ImportError) as error:  # one package's fault, and the others are asked for too
            yield Table(name, f"[{name}]", str(error), None)
            continue
        if missing:
            continue
        yield Table(name, f"[{name}]", f"{stage.about} (`kedge {name}`).", settings)
        for key, registry in stage.entries().items():
            for kind in registry.names():
                yield _of_an_entry(f"{name}.{key}", kind, registry)


def _of_an_entry(key: str, kind: str, registry: Registry[Any]) -> Table:
    name, head = f"{key}.{kind}", f'[[{key}]], kind = "{kind}"'
    try:
        settings = registry.get(kind)
    except ConfigError as error:
        return Table(name, head, str(error), None)
    meaning = (settings.__doc__ or "").partition("\n")[0]
    return Table(name, head, f"One entry of a list of {key.rpartition('.')[2]}s. {meaning}".strip(), settings)


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
    if table is not None and shown[0].settings is None:
        raise ConfigError(shown[0].about)
    return "\n\n".join("\n".join(_lines(each, width)) for each in shown)


def _lines(table: Table, width: int) -> Iterator[str]:
    yield table.head
    yield from textwrap.wrap(table.about, width)
    if table.settings is not None:
        yield ""
        yield as_text(table.settings, width=width, indent="  ")


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
        parts += [
            "",
            f"## {each.head}",
            "",
            each.about,
            *([] if each.settings is None else ["", as_table(each.settings)]),
        ]
    return "\n".join(parts) + "\n"
