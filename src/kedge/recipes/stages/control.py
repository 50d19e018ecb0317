"""``[control]``: the same PPO on a Gymnasium task."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from kedge.recipes.stage import Stage, StageJob

if TYPE_CHECKING:
    from rich.console import Console

    from kedge.config.settings import Config
    from kedge.recipes.recipe import Recipe


class ControlStage(Stage):
    """An agent."""

    name = "control"
    about = "PPO on a Gymnasium task"

    def missing(self) -> str:
        return "" if find_spec("gymnasium") else "control tasks need Gymnasium: pip install 'kedge[control]'"

    def table(self) -> "type[Config]":
        from kedge.control.job import ControlRecipe

        return ControlRecipe

    def run_path(self, name: str, settings: "Config") -> str:
        return getattr(settings, "run", None) or f"runs/{name}"

    def job(self, recipe: "Recipe", *, overwrite: bool, resume: bool) -> StageJob:
        from kedge.control.job import ControlJob, ControlRecipe

        settings = recipe.stage("control", ControlRecipe)
        return ControlJob(recipe.run_path("control"), settings, overwrite=overwrite, resume=resume)

    def job_of(self, env: str, overrides: Sequence[str], *, overwrite: bool, resume: bool) -> StageJob:
        """The job of an environment's id and ``key=value``, without a recipe.

        Args:
            env: the id.
            overrides: settings of the table.
            overwrite: delete the run that is there.
            resume: go on from the agent that was saved last.

        Raises:
            KedgeError: anything that does not fit, before any training.
        """
        from kedge.control.job import ControlJob, settings_of

        settings = settings_of(env, overrides)
        path = self.run_path(env.replace("/", "-"), settings)
        return ControlJob(path, settings, overwrite=overwrite, resume=resume)

    def show(self, summary: Mapping[str, Any], job: Any, console: "Console") -> None:
        if "return" in summary:
            console.print(
                f"return {summary['return']:.2f} ± {summary['deviation']:.2f} over {summary['episodes']} episodes, "
                f"{summary['steps_per_second']:,} steps/s",
                highlight=False,
            )
        run = job.run.path
        lines = [f"run: {run}", f"curve: {run}/curve.png", f"next: kedge control --watch {run}"]
        console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)
