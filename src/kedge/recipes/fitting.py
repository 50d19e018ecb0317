"""From a recipe to the plans of its jobs; and a job that cannot fit is stopped before it begins."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from kedge.errors import ConfigError, KedgeError
from kedge.inspection.cluster import Assumptions, Layout, Simulated, Simulation
from kedge.inspection.doctor import Finding
from kedge.inspection.machine import Machine
from kedge.inspection.plan import Plan, PlannedJob, advise, make_plan
from kedge.inspection.plan_table import amount, as_overrides
from kedge.models.device import pick_device
from kedge.recipes.recipe import Recipe
from kedge.recipes.registry import names, stage_called
from kedge.training.config import TrainingConfig


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
        flops: FLOP/s.
        bandwidth: bytes a second. Default: measured, where it is this machine that is planned for.

    Raises:
        ConfigError: only one of the speeds of a GPU that is not here.
    """
    if gpu is not None and not torch.cuda.is_available() and (flops is None) != (bandwidth is None):
        raise ConfigError("--flops, --bandwidth: neither can be measured of a GPU that is not here; give both, or none")
    for stage in trained(recipe):
        try:
            machine = _machine(_settings(recipe, stage), gpu, flops, bandwidth)
            yield stage, make_plan(planned_job(recipe, stage, machine, model=model))
        except KedgeError as error:
            yield stage, error


def simulations(
    recipe: Recipe,
    layouts: Sequence[Layout | int],
    assumptions: Assumptions,
    *,
    servers: bool = False,
    staleness: int | None = None,
    gpu: int | None = None,
    model: str | None = None,
    flops: float | None = None,
    bandwidth: float | None = None,
) -> Iterator[tuple[str, PlannedJob, list[Simulated] | KedgeError]]:
    """``(stage, job, simulated)`` of every table that trains, in several processes; the error, where one cannot be.

    Args:
        layouts: who does what; or so many GPUs, dealt out as is best.
        assumptions: about what is not measured.
        servers: PPO's answers are written by servers.
        staleness: steps that these may be ahead; None: as the settings say.
        gpu: as :func:`plans` takes it, and with it the next three.
        model: as there.
        flops: as there.
        bandwidth: as there.
    """
    for stage in trained(recipe):
        machine = _machine(_settings(recipe, stage), gpu, flops, bandwidth)
        job = planned_job(recipe, stage, machine, model=model)
        simulation = Simulation(job, assumptions, staleness)
        writes = servers and hasattr(job.config, "response_length")
        try:
            yield (
                stage,
                job,
                [
                    simulation.best(each, servers=writes)
                    if isinstance(each, int)
                    else simulation.of(each if writes else Layout(each.processes))
                    for each in layouts
                ],
            )
        except KedgeError as error:
            yield stage, job, error


def trained(recipe: Recipe) -> list[str]:
    """Its tables that train a model and can be planned."""
    return [stage for stage in names() if stage in recipe.stages and stage_called(stage).trains]


def planned_job(recipe: Recipe, stage: str, machine: Machine, *, model: str | None = None) -> PlannedJob:
    """A table's job, as :func:`kedge.inspection.plan.make_plan` takes it.

    Raises:
        KedgeError: no such model, tokenizer or data.
    """
    settings = _settings(recipe, stage)
    source, tokenizer = (model, None) if model else origin(recipe, stage)
    work = stage_called(stage).work(settings, source, tokenizer, lambda name: _untrained(recipe, name)[0])
    return PlannedJob(stage, source, settings, work, machine)


def origin(recipe: Recipe, stage: str) -> tuple[str, str | None]:
    """The model that a table starts from, and where its tokenizer is when not beside it."""
    settings = _settings(recipe, stage)
    source, tokenizer = _untrained(recipe, getattr(settings, stage_called(stage).trains))
    return source, getattr(settings, "tokenizer", None) or tokenizer


def _settings(recipe: Recipe, stage: str) -> TrainingConfig:
    """The table of a stage that trains.

    Raises:
        ConfigError: it has not what every such table has.
    """
    settings, key = recipe.stages[stage], stage_called(stage).trains
    if not isinstance(settings, TrainingConfig) or key not in type(settings).model_fields:
        raise ConfigError(f"[{stage}]: cannot be planned; its table must be a TrainingConfig with a key {key!r}")
    return settings


def _untrained(recipe: Recipe, source: str) -> tuple[str, str | None]:
    """A run of the same recipe that is not there yet will have the shapes of what it starts from."""
    for stage in trained(recipe):
        if _is_to_come(source, recipe.run_path(stage)):
            return origin(recipe, stage)
    return source, None


def _is_to_come(source: str, run: str) -> bool:
    path = Path(source).expanduser()
    return not path.exists() and path == Path(run).expanduser()


def _machine(settings: TrainingConfig, gpu: int | None, flops: float | None, bandwidth: float | None) -> Machine:
    dtype = torch.bfloat16 if "bfloat16" in (settings.autocast, settings.dtype) else torch.float32
    if gpu is None:
        return Machine.here(pick_device(settings.device)).with_speeds(flops, bandwidth, dtype)
    machine = Machine("cuda", gpu, gpu)
    known = torch.cuda.is_available() or flops is not None
    return machine.with_speeds(flops, bandwidth, dtype) if known else machine


def memory_finding(recipe: Recipe, stage: str) -> Finding:
    """The doctor's check of memory."""
    settings = _settings(recipe, stage)
    try:
        plan = make_plan(planned_job(recipe, stage, Machine.here(pick_device(settings.device))))
    except KedgeError as error:
        return Finding("memory", "skip", str(error))
    machine = plan.job.machine
    found = f"{amount(plan.peak)} at the peak; {amount(machine.free)} of the {machine.device}'s are free"
    remedy = "; ".join(as_overrides(stage, advice.settings) for advice in plan.advice) or "a smaller model"
    if plan.fits:
        return Finding("memory", "pass", found)
    return Finding("memory", "fail", found, f"set {remedy} (see `kedge plan {recipe.path}`), or free some")


def refuse_what_cannot_fit(recipe: Recipe, stage: str) -> None:
    """Raise where a job needs more memory than the machine has in all, before its weights are read.

    One that cannot be planned goes on, and so do several processes: they may be on several machines.

    Raises:
        ConfigError: with the plan's advice.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return
    settings = _settings(recipe, stage)
    try:
        machine = Machine.here(pick_device(settings.device))
        job = planned_job(recipe, stage, replace(machine, free=machine.total))
        if job.plainly_fits():
            return
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
            f"{'  and then ' if number else '  set '}{as_overrides(stage, advice.settings)}: "
            f"{amount(advice.peak)} ({advice.cost})"
        )
    raise ConfigError("\n".join([*lines, f"see `kedge plan {recipe.path}`; a smaller model needs less of everything"]))
