"""``[sft]`` and ``[reward]``: what is learned from rows that say what is right."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from kedge.recipes.stage import Stage, StageJob, say_where

if TYPE_CHECKING:
    from rich.console import Console

    from kedge.config.settings import Config
    from kedge.recipes.recipe import Recipe


class _Supervised(Stage):
    trains = "model"
    result: str

    def show(self, summary: Mapping[str, Any], job: Any, console: "Console") -> None:
        from kedge.inspection.tables import held_out_table

        if "after" in summary:
            console.print(held_out_table(summary, title=f"{job.label}: {summary['steps']} steps"))
        else:
            console.print("nothing held out, so nothing to measure: set eval_size or eval_data in the recipe's table")
        self.tell_more(summary, job, console)
        say_where(console, job, self.result, self.then(job))

    def tell_more(self, summary: Mapping[str, Any], job: Any, console: "Console") -> None:
        """What else came of it."""

    def then(self, job: StageJob) -> str | None:
        """The command to type next."""
        return None


class SFTStage(_Supervised):
    """Supervised fine-tuning."""

    name = "sft"
    about = "Supervised fine-tuning: demonstrations -> a policy"
    result = "policy"

    def table(self) -> "type[Config]":
        from kedge.recipes.tables import SFTRecipe

        return SFTRecipe

    def job(self, recipe: "Recipe", *, overwrite: bool, resume: bool) -> StageJob:
        from kedge.recipes.jobs import sft_job

        return sft_job(recipe, overwrite=overwrite, resume=resume)

    def work(self, settings: Any, source: str, tokenizer: str | None, untrained: Callable[[str], str]) -> Any:
        from kedge.inspection.supervised_rehearsal import demonstration_work

        return demonstration_work(source, settings.data, settings, tokenizer=tokenizer, columns=settings.columns)

    def then(self, job: StageJob) -> str | None:
        return f"kedge chat {job.run.path}" if job.run is not None else None


class RewardStage(_Supervised):
    """A reward model."""

    name = "reward"
    about = "Preferences -> a reward model"
    result = "reward_model"

    def table(self) -> "type[Config]":
        from kedge.recipes.tables import RewardRecipe

        return RewardRecipe

    def job(self, recipe: "Recipe", *, overwrite: bool, resume: bool) -> StageJob:
        from kedge.recipes.jobs import reward_job

        return reward_job(recipe, overwrite=overwrite, resume=resume)

    def work(self, settings: Any, source: str, tokenizer: str | None, untrained: Callable[[str], str]) -> Any:
        from kedge.inspection.supervised_rehearsal import reward_work

        return reward_work(source, settings.data, settings, tokenizer=tokenizer, columns=settings.columns)

    def tell_more(self, summary: Mapping[str, Any], job: Any, console: "Console") -> None:
        from kedge.inspection.tables import trust_table

        if job.trust is not None:
            console.print(trust_table(job.trust.rows, title=f"Trust report: {job.run.path}/trust/trust.md"))
        if scale := summary.get("reference"):
            mean, std = scale["mean"], scale["std"]
            console.print(f"scores of the reference's answers: mean {mean:.3f}, spread {std:.3f}; now 0 and 1")
