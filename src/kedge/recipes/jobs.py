"""From a recipe to the job it describes, checked and ready to train."""

from functools import partial
from pathlib import Path
from typing import Any

from kedge.data.records import plain, preferences
from kedge.evaluation.evaluate import evaluate
from kedge.inspection.doctor import Finding, Pairs, examine
from kedge.inspection.trained_on import prompts_trained_on
from kedge.recipes.fitting import memory_finding, refuse_what_cannot_fit
from kedge.recipes.recipe import Recipe
from kedge.recipes.tables import EvaluateRecipe, PPORecipe, RewardRecipe, SFTRecipe
from kedge.runs.folder import RunFolder
from kedge.sampling.local.engine import Engine
from kedge.training.ppo import PPO
from kedge.training.reward_modeling import RewardModeling
from kedge.training.sft import SFT
from kedge.training.supervised import read_split

# Preferences on which the doctor tries a reward model.
DOCTORS_PAIRS = 128


def sft_job(recipe: Recipe, *, overwrite: bool = False, resume: bool = False) -> SFT:
    """``[sft]``, ready to train."""
    settings = recipe.stage("sft", SFTRecipe)
    refuse_what_cannot_fit(recipe, "sft")
    run = recipe.run_folder("sft", overwrite=overwrite, resume=resume)
    with recipe.where_from("sft"):
        return SFT(settings.model, settings.data, settings, run=run, **_supervised(settings))


def reward_job(recipe: Recipe, *, overwrite: bool = False, resume: bool = False) -> RewardModeling:
    """``[reward]``, ready to train."""
    settings = recipe.stage("reward", RewardRecipe)
    refuse_what_cannot_fit(recipe, "reward")
    run = recipe.run_folder("reward", overwrite=overwrite, resume=resume)
    with recipe.where_from("reward"):
        return RewardModeling(settings.model, settings.data, settings, run=run, **_supervised(settings))


def ppo_job(recipe: Recipe, *, overwrite: bool = False, resume: bool = False) -> PPO:
    """``[ppo]``, ready to train."""
    settings = recipe.stage("ppo", PPORecipe)
    refuse_what_cannot_fit(recipe, "ppo")
    with recipe.where_from("ppo"):
        return _ppo(settings, recipe.run_folder("ppo", overwrite=overwrite, resume=resume))


def doctor_job(recipe: Recipe, scratch: Path) -> list[Finding]:
    """``[ppo]``, examined; with ``[reward]``, reward models on its pairs too. ``scratch`` is a folder to write in."""
    settings = recipe.stage("ppo", PPORecipe)

    def build() -> PPO:
        return _ppo(settings, RunFolder(scratch / "run", {"ppo": settings.resolved()}))

    def pairs() -> Pairs:
        preferred = recipe.stages.get("reward")
        if not isinstance(preferred, RewardRecipe):
            return Pairs()
        # As the reward model's own job splits them.
        trained_on, held_out = read_split(
            partial(preferences, seed=preferred.seed),
            preferred.data,
            preferred.eval_data,
            eval_size=preferred.eval_size,
            columns=preferred.columns,
            seed=preferred.seed,
        )
        if held_out:
            return Pairs(held_out[:DOCTORS_PAIRS], "held-out pairs")
        return Pairs(trained_on[:DOCTORS_PAIRS], "training pairs")

    return [memory_finding(recipe, "ppo"), *examine(build, pairs)]


def _ppo(settings: PPORecipe, run: RunFolder) -> PPO:
    return PPO(
        settings.policy,
        settings.prompts,
        settings.reward,
        settings,
        tokenizer=settings.tokenizer,
        eval_prompts=settings.eval_prompts,
        eval_size=settings.eval_size,
        metrics=settings.metrics,
        sampler=settings.sampler or Engine,
        columns=settings.columns,
        run=run,
    )


class Evaluating:
    """``[evaluate]``, ready to be done."""

    def __init__(self, recipe: Recipe, *, overwrite: bool = False) -> None:
        self.recipe = recipe
        self.settings = recipe.stage("evaluate", EvaluateRecipe)
        self.run = recipe.run_folder("evaluate", overwrite=overwrite, resume=False)

    def train(self) -> dict[str, Any]:
        """Nothing learns: the comparison, as the run's summary has it, with how many of its prompts each run was
        trained on, where that is known."""
        settings = self.settings
        with self.recipe.where_from("evaluate"):
            comparison = evaluate(
                settings.policy,
                settings.baseline,
                settings.prompts,
                reward=settings.reward,
                metrics=settings.metrics,
                sampling=settings.sampling,
                tokenizer=settings.tokenizer,
                stop_tokens=settings.stop_tokens,
                columns=settings.columns,
                limit=settings.limit,
                seed=settings.seed,
                device=settings.device,
                dtype=settings.dtype,
                trust_remote_code=settings.trust_remote_code,
                attn_implementation=settings.attn_implementation,
            )
        self.run.start()
        for policy, evaluation in (("baseline", comparison.before), ("policy", comparison.after)):
            self.run.write_samples({"policy": policy} | sample for sample in evaluation.samples())
        asked = [plain(prompt.text) for prompt in comparison.after.prompts]
        known = {run: prompts_trained_on(run) for run in (settings.policy, settings.baseline)}
        trained_on = {run: sum(text in texts for text in asked) for run, texts in known.items() if texts is not None}
        summary = comparison.summary() | {"trained_on": trained_on}
        self.run.write_summary(summary)
        return summary


def _supervised(settings: SFTRecipe | RewardRecipe) -> dict[str, Any]:
    names = ("tokenizer", "eval_data", "eval_size", "columns")
    return {name: getattr(settings, name) for name in names}
