"""What can be set, in each table of a recipe: for `kedge settings` and the documentation."""

import textwrap
from importlib.util import find_spec

from kedge.config.described import as_table, as_text
from kedge.config.names import PAGE, TABLES
from kedge.config.settings import Config, nearest
from kedge.errors import ConfigError
from kedge.recipes.recipe import STAGES
from kedge.rewards.build import RewardSpec

ABOUT = {
    "sft": "Demonstrations -> a policy: `kedge sft`.",
    "reward": "Preferences -> a reward model: `kedge reward`.",
    "ppo": "Prompts and a reward -> a better policy: `kedge ppo`.",
    "ppo.reward": "One entry of a list of rewards, [[ppo.reward]]; one of function and model must be given.",
    "evaluate": "One policy against another on the same prompts: `kedge evaluate`.",
    "control": "PPO on a Gymnasium task: `kedge control`.",
}


def tables() -> dict[str, type[Config]]:
    """The settings of each table; the control agent's where Gymnasium is there."""
    found: dict[str, type[Config]] = {}
    for stage, cls in STAGES.items():
        found[stage] = cls
        if stage == "ppo":
            found["ppo.reward"] = RewardSpec
    if find_spec("gymnasium"):
        from kedge.control.job import ControlRecipe

        found["control"] = ControlRecipe
    return found


def settings_text(table: str | None, *, width: int = 79) -> str:
    """Every setting of a table, or of all of them, with its default and its meaning.

    Raises:
        ConfigError: no such table.
    """
    there = tables()
    if table is not None and table not in there:
        if table == "control":
            raise ConfigError("control tasks need Gymnasium: pip install 'kedge[control]'")
        whole = table.partition(".")[0]
        known = TABLES.get(table) or nearest(table, list(there))
        if whole in there and whole != table:
            known = f"its settings stand in [{whole}]: kedge settings {whole}"
        raise ConfigError(f"{table}: no table; {known}")
    shown = (
        there
        if table is None
        else {name: cls for name, cls in there.items() if name.split(".")[0] == table} or {table: there[table]}
    )
    parts = [
        "\n".join([f"[{name}]", *textwrap.wrap(ABOUT[name], width), "", as_text(cls, width=width, indent="  ")])
        for name, cls in shown.items()
    ]
    return "\n\n".join(parts)


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
    for name, cls in tables().items():
        parts += ["", f"## [{name}]", "", ABOUT[name], "", as_table(cls)]
    return "\n".join(parts) + "\n"
