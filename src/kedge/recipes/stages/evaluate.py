"""``[evaluate]``: two policies beside each other."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kedge.recipes.stage import Stage, StageJob, say_where

if TYPE_CHECKING:
    from rich.console import Console

    from kedge.config.settings import Config
    from kedge.recipes.recipe import Recipe


class EvaluateStage(Stage):
    """A comparison."""

    name = "evaluate"
    about = "One policy against another on the same prompts"
    resumes = False

    def table(self) -> "type[Config]":
        from kedge.recipes.tables import EvaluateRecipe

        return EvaluateRecipe

    def job(self, recipe: "Recipe", *, overwrite: bool, resume: bool) -> StageJob:
        from kedge.recipes.jobs import Evaluating

        return Evaluating(recipe, overwrite=overwrite)

    def show(self, summary: Mapping[str, Any], job: Any, console: "Console") -> None:
        from kedge.inspection.tables import comparison_table, prompts_caption

        prompts = prompts_caption(summary["trained_on"])
        console.print(comparison_table(summary, title="Baseline (before) and policy (after)", prompts=prompts))
        say_where(console, job, "samples.jsonl")
