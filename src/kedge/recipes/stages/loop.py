"""``[loop]``: rounds of feedback, reward model, PPO, gate and canary."""

from typing import TYPE_CHECKING

from kedge.errors import ConfigError
from kedge.recipes.stage import Stage, StageJob

if TYPE_CHECKING:
    from kedge.config.settings import Config
    from kedge.recipes.recipe import Recipe


class LoopStage(Stage):
    """What ``kedge loop`` reads. A round is of several jobs, and needs the server's rooms, which are above this one:
    :class:`kedge.serving.loop.Loop`."""

    name = "loop"
    about = "Feedback -> reward model -> PPO -> gate -> canary, round by round"

    def table(self) -> "type[Config]":
        from kedge.recipes.loop_table import LoopRecipe

        return LoopRecipe

    def job(self, recipe: "Recipe", *, overwrite: bool, resume: bool) -> StageJob:
        raise ConfigError("[loop]: several jobs, and no single one; `kedge loop` does them (kedge.serving.loop.Loop)")
