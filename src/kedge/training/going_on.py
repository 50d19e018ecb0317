"""Taking a run up again from Python: what its recipe says need not be said twice."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kedge.config.settings import Config, nearest, read_recipe
from kedge.errors import ConfigError
from kedge.rewards.build import spec_of
from kedge.rewards.spec import RewardSpec
from kedge.runs.folder import RunFolder
from kedge.sampling.fleet.spec import FleetSpec


@dataclass(frozen=True)
class Sources:
    """What a trainer is given besides its settings, by the names of its constructor and of its recipe's table."""

    stage: str
    """The table."""
    config: type[Config]
    """Its settings."""
    names: Sequence[str]
    """All that it may be given."""
    needed: Sequence[str]
    """What it cannot be without; the model first."""


def folder_for(
    path: str | Path, of: Sources, config: Config, given: Mapping[str, Any], *, resume: bool, overwrite: bool
) -> RunFolder:
    """The folder of a run that begins or goes on from Python; its recipe says of the sources what a file can say.

    Args:
        path: of the folder.
        of: the trainer's.
        config: its settings.
        given: its sources, by name.
        resume: go on with what is there.
        overwrite: delete what is there.
    """
    recipe = Path(path).expanduser() / "recipe.toml"
    before = read_recipe(recipe) if resume and recipe.is_file() else {}
    said = {name: value for name, value in before.get(of.stage, {}).items() if name in of.names}
    said |= {name: plain for name, value in given.items() if (plain := _sayable(name, value)) is not None}
    table = said | {"run": str(path)} | config.resolved()
    return RunFolder(path, before | {of.stage: table}, overwrite=overwrite, resume=resume)


NOT_AGAIN = {
    "config": "a run keeps its own; what a resumed run may change is given by name (steps=300)",
    "resume": "that is what is done",
    "overwrite": "a run is resumed or overwritten, and not both; PPO(..., overwrite=True) begins anew",
}
"""Arguments of a trainer that have no place in its ``resume``."""


def kept(path: str | Path, of: Sources, given: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments of the trainer that goes on with a run.

    Args:
        path: of its folder.
        of: the trainer's.
        given: settings that a resumed run may change, and sources that its recipe cannot say, or anew.

    Raises:
        ConfigError: no such run, nothing of that name to be given, or a source that must be given.
    """
    for name in given:
        if name in NOT_AGAIN:
            raise ConfigError(f"{name}: {NOT_AGAIN[name]}")
    path = Path(path).expanduser()
    recipe = path / "recipe.toml"
    if not recipe.is_file():
        above = path.parent.parent if path.parent.name == "checkpoints" else None
        hint = f"; it is a checkpoint: resume its run, {above}" if above else ""
        raise ConfigError(f"{path}: no run to go on with (no recipe.toml in it){hint}")
    table = read_recipe(recipe).get(of.stage)
    if not isinstance(table, Mapping):
        raise ConfigError(f"{recipe}: no table [{of.stage}]; it is the run of another job")
    sources = {name: value for name, value in table.items() if name not in of.config.model_fields and value != "none"}
    sources.pop("run", None)
    for name in given:
        if name not in (*of.config.model_fields, *of.names):
            raise ConfigError(f"{name}: unknown; {nearest(name, [*of.names, *of.config.model_fields])}")
    default = of.config().resolved()  # what a loaded model does not use must not be set; but for the device it is not
    set_then = {name: value for name, value in table.items() if name in of.config.model_fields}
    settings = {name: value for name, value in set_then.items() if value != default.get(name)}
    sources |= {name: value for name, value in given.items() if name not in of.config.model_fields}
    if not isinstance(sources.get(of.needed[0]), str | Path):
        settings.pop("device", None)
    settings |= {name: value for name, value in given.items() if name in of.config.model_fields}
    for name in of.needed:
        if name not in sources:
            raise ConfigError(
                f"{path}: {name} was an object of Python, which no recipe can say; give it again: resume(run, "
                f"{name}=...)"
            )
    return sources | {"config": of.config(**settings), "run": path, "resume": True}


def _sayable(name: str, value: Any) -> Any:
    """As it reads in a recipe; None where it does not."""
    if isinstance(value, str | Path):
        return str(value)
    if name in ("reward", "metrics"):
        return _judges(value)
    if name == "sampler" and isinstance(value, FleetSpec | Mapping):
        return FleetSpec.of(value).resolved()
    return value if name in ("columns", "eval_size") else None


def _judges(value: Any) -> Any:
    if isinstance(value, RewardSpec | Mapping):
        return spec_of(value).said()
    if isinstance(value, list | tuple):
        items = [str(item) if isinstance(item, str | Path) else _judges(item) for item in value]
        return None if None in items else items
    return None
