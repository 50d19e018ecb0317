"""``[ppo]``: a policy against a reward."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from kedge.recipes.stage import Stage, StageJob, say_where

if TYPE_CHECKING:
    from rich.console import Console

    from kedge.config.plugins import Registry
    from kedge.config.settings import Config
    from kedge.recipes.recipe import Recipe


class PPOStage(Stage):
    """PPO of a language model."""

    name = "ppo"
    about = "PPO: prompts and a reward -> a better policy"
    trains = "policy"

    def table(self) -> "type[Config]":
        from kedge.recipes.tables import PPORecipe

        return PPORecipe

    def entries(self) -> "Mapping[str, Registry[Any]]":
        from kedge.rewards.kinds import KINDS

        return {"reward": KINDS}

    def job(self, recipe: "Recipe", *, overwrite: bool, resume: bool) -> StageJob:
        from kedge.recipes.jobs import ppo_job

        return ppo_job(recipe, overwrite=overwrite, resume=resume)

    def work(self, settings: Any, source: str, tokenizer: str | None, untrained: Callable[[str], str]) -> Any:
        from kedge.data.files import rows_of
        from kedge.inspection.ppo_rehearsal import ppo_work
        from kedge.rewards.build import reward_model_sources

        return ppo_work(
            source,
            settings.prompts,
            settings,
            tokenizer=tokenizer,
            columns=settings.columns,
            rewards=[untrained(name) for name in reward_model_sources(settings.reward)],
            judges=[untrained(name) for name in reward_model_sources(settings.metrics)],
            evaluated=len(rows_of(settings.eval_prompts)) if settings.eval_prompts else settings.eval_size,
        )

    def show(self, summary: Mapping[str, Any], job: Any, console: "Console") -> None:
        from kedge.inspection.tables import comparison_table

        if "after" in summary:
            console.print(comparison_table(summary, title="Before and after PPO"))
        elif not job.eval_prompts:  # else why it was left out has been said
            console.print(
                "no held-out prompts, so no before and after: set eval_size or eval_prompts in the recipe's table"
            )
        say_where(console, job, "policy", f"kedge chat {job.run.path}")
