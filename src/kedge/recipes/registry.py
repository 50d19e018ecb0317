"""The stages there are: the built-in ones, and those that other packages bring."""

from kedge.config.plugins import Registry, package_of, plugins
from kedge.errors import ConfigError
from kedge.recipes.stage import Stage
from kedge.recipes.stages.control import ControlStage
from kedge.recipes.stages.evaluate import EvaluateStage
from kedge.recipes.stages.loop import LoopStage
from kedge.recipes.stages.ppo import PPOStage
from kedge.recipes.stages.supervised import RewardStage, SFTStage

STAGES = Registry[Stage](
    "stage",
    Stage,
    "kedge.stages",
    {stage.name: stage for stage in (SFTStage, RewardStage, PPOStage, EvaluateStage, ControlStage, LoopStage)},
)

COMMANDS = (
    "quickstart", "doctor", "chat", "plan", "export", "runs", "new", "settings", "rewards", "score", "label-next",
    "serve", "deploy", "feedback", "audit", "tasks", "task", "launch",
)  # fmt: skip
"""Of kedge's own, besides those of stages."""

TAKEN = ("name", "needs", *COMMANDS)
"""What no stage can be called: keys that a recipe has beside its tables, and commands."""


def names() -> list[str]:
    """Of all stages, in the order in which they are shown. Nothing of another package is imported for it."""
    return STAGES.names()


def stage_called(name: str) -> Stage:
    """The stage of this name.

    Raises:
        ConfigError: there is none, or it cannot be loaded, or has a name that is taken.
    """
    found = STAGES.get(name)
    if name not in STAGES.built_in:
        brought = f"{name}: {package_of(plugins(STAGES.group)[name])} brings it, and"
        if name in TAKEN:
            raise ConfigError(f"{brought} it has a name that kedge uses itself; that package must call it otherwise")
        if found.name != name:
            raise ConfigError(f"{brought} it calls itself {found.name!r}; its entry point must have the same name")
    return found()
