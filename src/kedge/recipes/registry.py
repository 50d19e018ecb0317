"""The stages there are: the built-in ones, and those that other packages bring."""

import inspect
from collections.abc import Mapping

from kedge.config.plugins import load, package_of, plugins
from kedge.errors import ConfigError
from kedge.recipes.stage import Stage
from kedge.recipes.stages.control import ControlStage
from kedge.recipes.stages.evaluate import EvaluateStage
from kedge.recipes.stages.ppo import PPOStage
from kedge.recipes.stages.supervised import RewardStage, SFTStage

GROUP = "kedge.stages"
"""Entry points of packages that bring stages: ``[project.entry-points."kedge.stages"]``, ``name = "module:Class"``."""

BUILT_IN: Mapping[str, Stage] = {
    stage.name: stage for stage in (SFTStage(), RewardStage(), PPOStage(), EvaluateStage(), ControlStage())
}


def names() -> list[str]:
    """Of all stages, in the order in which they are shown. Nothing of another package is imported for it."""
    return list(dict.fromkeys([*BUILT_IN, *plugins(GROUP)]))


def stage_called(name: str) -> Stage:
    """The stage of this name.

    Raises:
        ConfigError: there is none, or it cannot be loaded.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    installed = plugins(GROUP)
    if name not in installed:
        from kedge.config.settings import nearest  # and with it pydantic, which `kedge --help` does without

        raise ConfigError(f"{name}: no stage; {nearest(name, names())}")
    found = load(installed[name])
    brought = f"{name}: {package_of(installed[name])} brings it"
    if not (isinstance(found, type) and issubclass(found, Stage)) or inspect.isabstract(found):
        raise ConfigError(
            f"{brought}, and it is no stage, which is a subclass of kedge.recipes.stage.Stage with table() and job()"
        )
    if (itself := getattr(found, "name", None)) != name:
        raise ConfigError(f"{brought}, and it calls itself {itself!r}; its entry point must have the same name")
    return found()
