"""From a recipe to the job it describes, checked and ready to train."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from kedge.config import Config
from kedge.data.files import rows_of
from kedge.errors import ConfigError, KedgeError
from kedge.evaluation.evaluate import Comparison, evaluate
from kedge.inspection.machine import Machine
from kedge.inspection.plan import Job, Plan, advise, make_plan
from kedge.inspection.plan_table import amount, settings_text
from kedge.inspection.ppo_rehearsal import ppo_work
from kedge.inspection.supervised_rehearsal import demonstration_work, preference_work
from kedge.models.language_model import pick_device
from kedge.recipe import EvaluateRecipe, PPORecipe, Recipe, RewardRecipe, SFTRecipe
from kedge.rewards.build import reward_model_sources
from kedge.training.ppo import PPO
from kedge.training.reward_modeling import RewardModeling
from kedge.training.sft import SFT

TRAINING = ("sft", "reward", "ppo")
"""The tables that train."""


def sft_job(recipe: Recipe, *, overwrite: bool = False, resume: bool = False) -> SFT:
    """``[sft]``, ready to train."""
    settings = recipe.stage("sft", SFTRecipe)
    refuse_what_cannot_fit(recipe, "sft")
    run = recipe.run_folder("sft", overwrite=overwrite, resume=resume)
    return SFT(settings.model, settings.data, settings, run=run, **_supervised(settings))


def reward_job(recipe: Recipe, *, overwrite: bool = False, resume: bool = False) -> RewardModeling:
    """``[reward]``, ready to train."""
    settings = recipe.stage("reward", RewardRecipe)
    refuse_what_cannot_fit(recipe, "reward")
    run = recipe.run_folder("reward", overwrite=overwrite, resume=resume)
    return RewardModeling(settings.model, settings.data, settings, run=run, **_supervised(settings))


def ppo_job(recipe: Recipe, *, overwrite: bool = False, resume: bool = False) -> PPO:
    """``[ppo]``, ready to train."""
    settings = recipe.stage("ppo", PPORecipe)
    refuse_what_cannot_fit(recipe, "ppo")
    return PPO(
        settings.policy,
        settings.prompts,
        settings.reward,
        settings,
        tokenizer=settings.tokenizer,
        eval_prompts=settings.eval_prompts,
        eval_size=settings.eval_size,
        metrics=settings.metrics,
        columns=settings.columns,
        run=recipe.run_folder("ppo", overwrite=overwrite, resume=resume),
    )


def evaluate_job(recipe: Recipe, *, overwrite: bool = False) -> tuple[Comparison, Path]:
    """``[evaluate]``, done: the comparison, and the run folder where it stands."""
    settings = recipe.stage("evaluate", EvaluateRecipe)
    run = recipe.run_folder("evaluate", overwrite=overwrite, resume=False)
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
    )
    run.start()
    for policy, evaluation in (("baseline", comparison.before), ("policy", comparison.after)):
        run.write_samples({"policy": policy} | sample for sample in evaluation.samples())
    run.write_summary(comparison.summary())
    return comparison, run.path


def plans(
    recipe: Recipe,
    *,
    gpu: int | None = None,
    model: str | None = None,
    flops: float | None = None,
    bandwidth: float | None = None,
) -> Iterator[tuple[str, Plan | KedgeError]]:
    """``(stage, plan)`` of every table that trains; the error, where one cannot be planned.

    Args:
        gpu: plan for a GPU of so many bytes, here or elsewhere; default is the table's device as it is now.
        model: takes the place of each table's model, with its own tokenizer.
        flops: FLOP/s. bandwidth: bytes a second. Default: measured, where it is this machine that is planned for.
    """
    for stage, settings in recipe.stages.items():
        if stage in TRAINING:
            try:
                machine = _machine(settings, gpu, flops, bandwidth)
                yield stage, make_plan(planned_job(stage, settings, machine, model=model))
            except KedgeError as error:
                yield stage, error


def _machine(settings: Any, gpu: int | None, flops: float | None, bandwidth: float | None) -> Machine:
    dtype = torch.bfloat16 if "bfloat16" in (settings.autocast, settings.dtype) else torch.float32
    if gpu is None:
        return Machine.here(pick_device(settings.device)).with_speeds(flops, bandwidth, dtype)
    if torch.cuda.is_available():
        return replace(Machine.here(torch.device("cuda")), free=gpu, total=gpu).with_speeds(flops, bandwidth, dtype)
    elsewhere = Machine("cuda", gpu, gpu)
    # What a small operation costs the host is measured here; nothing else of this machine says anything about that GPU.
    known = flops is not None and bandwidth is not None
    return elsewhere.with_speeds(flops, bandwidth, dtype) if known else elsewhere


def planned_job(stage: str, settings: Config, machine: Machine, *, model: str | None = None) -> Job:
    """A table's job, as :func:`kedge.inspection.plan.make_plan` takes it.

    Raises:
        KedgeError: no such model, tokenizer or data.
    """
    assert isinstance(settings, SFTRecipe | RewardRecipe | PPORecipe)
    source = model or (settings.policy if isinstance(settings, PPORecipe) else settings.model)
    tokenizer = None if model else settings.tokenizer
    work: Any
    if isinstance(settings, PPORecipe):
        held_out = len(rows_of(settings.eval_prompts)) if settings.eval_prompts else settings.eval_size
        judges = [name for metric in settings.metrics for name in reward_model_sources(metric)]
        work = ppo_work(
            source,
            settings.prompts,
            settings,
            tokenizer=tokenizer,
            columns=settings.columns,
            rewards=reward_model_sources(settings.reward),
            judges=judges,
            evaluated=held_out,
        )
    else:
        make = demonstration_work if isinstance(settings, SFTRecipe) else preference_work
        work = make(source, settings.data, settings, tokenizer=tokenizer, columns=settings.columns)
    return Job(stage, source, settings, work, machine)


def refuse_what_cannot_fit(recipe: Recipe, stage: str) -> None:
    """Raise where a job needs more memory than the machine has in all, before its weights are read.

    One that cannot be planned goes on, and so do several processes: they may be on several machines.

    Raises:
        ConfigError: with the plan's advice.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return
    settings: Any = recipe.stages[stage]
    try:
        machine = Machine.here(pick_device(settings.device))
        job = planned_job(stage, settings, replace(machine, free=machine.total))
        phases = job.rehearse()
    except KedgeError:  # if anything is wrong with the job, it will say so itself
        return
    worst = max(phases, key=lambda phase: phase.peak)
    if worst.peak <= machine.total:
        return
    lines = [
        f"[{stage}] needs about {amount(worst.peak)} at its peak ({worst.name}), and this machine's {machine.device} "
        f"has {amount(machine.total)} in all"
    ]
    for number, advice in enumerate(advise(job, phases)):
        lines.append(
            f"{'  and then ' if number else '  set '}{settings_text(stage, advice.settings)}: "
            f"{amount(advice.peak)} ({advice.cost})"
        )
    raise ConfigError("\n".join([*lines, f"see `kedge plan {recipe.path}`; a smaller model needs less of everything"]))


def _supervised(settings: SFTRecipe | RewardRecipe) -> dict[str, Any]:
    names = ("tokenizer", "eval_data", "eval_size", "columns")
    return {name: getattr(settings, name) for name in names}
