"""A task from its rows to what was learnt: SFT, PPO, and what their answers are worth beside a baseline's."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kedge.data.records import read_prompts
from kedge.errors import ConfigError, DataError
from kedge.evaluation.evaluate import Evaluation, measure_policy
from kedge.models.language_model import load_language_model
from kedge.runs.folder import RunFolder
from kedge.sampling.local.engine import Engine
from kedge.sampling.settings import Sampling
from kedge.storage.writing import strict_json, write_text
from kedge.tasks.measuring import Interval, Side, measured
from kedge.tasks.starting import new_model
from kedge.tasks.task import Row, Task
from kedge.training.ppo import PPO, PPOConfig
from kedge.training.sft import SFT, SFTConfig

FILES = ("recipe.toml", "data", "result.json", "answers.jsonl")
HELD_OUT = 500
"""Rows of ``eval`` that are answered, at most."""

WATCHED = 128
"""Of those, at most, that PPO looks at on its way."""


@dataclass(frozen=True)
class Result:
    """What came of a task."""

    rows: Sequence[Row]
    """Held out, and answered."""
    sides: Mapping[str, Side]
    """``before``, ``sft``, ``ppo``, and ``baseline`` where there is one."""
    measures: Mapping[str, Mapping[str, Interval]]
    """``{side: {measure: its value}}``."""


def run_task(
    task: Task,
    folder: Path,
    *,
    seeds: Sequence[int] = (0,),
    held_out: int = HELD_OUT,
    model: str | Path | None = None,
    sft: Mapping[str, Any] | None = None,
    ppo: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Result:
    """Learn a task in a folder: its data, ``seed-0/sft``, ``seed-0/ppo`` and so on, ``answers.jsonl``, ``result.json``.

    Policies answer the held-out rows greedily.

    Args:
        task: what is learnt; it has a reward.
        folder: to work in.
        seeds: everything is done with each of them.
        held_out: rows that are answered, at most, from anywhere in the split.
        model: what to begin with; None: what the task says.
        sft: settings in place of the task's own.
        ppo: also.
        overwrite: delete what is there.
        progress: show it.

    Raises:
        ConfigError: the folder is there; the task has no reward or no demonstrations; settings that do not fit.
        KedgeError: as the stages raise them.
    """
    if task.reward is None:
        raise ConfigError(f"{task.name}: has no reward for PPO; one is learnt by kedge reward")
    stages = Stages(SFTConfig.of({**task.sft, **(sft or {})}), PPOConfig.of({**task.ppo, **(ppo or {})}), progress)
    rows, demonstrations = task.all_rows("eval", held_out), task.demonstrations()
    if not demonstrations:
        raise DataError(f"{task.name}: no demonstrations, from which SFT would learn how to answer")
    folder = folder.expanduser()
    begins = {"task": task.name, "seeds": list(seeds), "held_out": held_out}
    files = (*FILES, *(f"seed-{seed}" for seed in seeds))
    run = RunFolder(folder, {"task": begins}, overwrite=overwrite, resume=None, files=files)
    run.start()
    data = folder / "data" / "demonstrations.jsonl"
    data.parent.mkdir()
    write_text(data, "".join(strict_json(row) + "\n" for row in demonstrations))
    evaluations: dict[str, list[Evaluation]] = {}
    for seed in seeds:
        for name, policy in trained(task, stages, folder / f"seed-{seed}", data, model or task.model, seed).items():
            evaluations.setdefault(name, []).append(answered(task, rows, policy, stages.ppo.sampling))
    if task.baseline(rows[0]) is not None:
        evaluations["baseline"] = [task.evaluate_baseline("eval", limit=held_out)]
    sides = {name: Side.of(each) for name, each in evaluations.items()}
    result = Result(rows, sides, {name: measured(task, rows, side) for name, side in sides.items()})
    write(result, folder)
    run.close()
    return result


@dataclass(frozen=True)
class Stages:
    """How a task is learnt."""

    sft: SFTConfig
    ppo: PPOConfig
    progress: bool
    """Whether it is shown."""


def trained(
    task: Task, stages: Stages, home: Path, data: Path, start: str | Path | None, seed: int
) -> dict[str, str | Path]:
    """The policies of one seed: ``before``, ``sft`` and ``ppo``.

    Args:
        task: what is learnt.
        stages: how.
        home: where.
        data: the demonstrations.
        start: what to begin with; None: a new model of the task's sizes.
        seed: of everything.
    """
    if start is None:
        start = home / "model"
        new_model(data, start, seed=seed, **task.new)
    sft, ppo = stages.sft.model_copy(update={"seed": seed}), stages.ppo.model_copy(update={"seed": seed})
    SFT(start, str(data), sft, run=home / "sft", progress=stages.progress).train()
    assert task.reward is not None
    PPO(
        home / "sft", task.prompts("train"), task.reward, ppo, eval_prompts=task.prompts("eval", WATCHED),
        metrics=task.metrics, run=home / "ppo", progress=stages.progress,
    ).train()  # fmt: skip
    return {"before": start, "sft": home / "sft", "ppo": home / "ppo"}


def answered(task: Task, rows: Sequence[Row], policy: str | Path, sampling: Sampling) -> Evaluation:
    """A policy's greedy answers to some rows, judged."""
    lm = load_language_model(policy)
    prompts = read_prompts(task.prompts("eval", len(rows)))
    return measure_policy(lm, Engine(lm), prompts, task.judges(), replace(sampling, temperature=0.0))


def write(result: Result, folder: Path) -> None:
    """``answers.jsonl``: a held-out row a line, with what each side answered; ``result.json``: what that is worth."""
    lines = []
    for i, row in enumerate(result.rows):
        said = {name: [answers[i] for answers in side.answers] for name, side in result.sides.items()}
        lines.append(strict_json({**row, "answers": said}))
    write_text(folder / "answers.jsonl", "\n".join(lines) + "\n")
    values = {side: {name: each._asdict() for name, each in found.items()} for side, found in result.measures.items()}
    write_text(folder / "result.json", json.dumps({"rows": len(result.rows), "measures": values}, indent=2) + "\n")
