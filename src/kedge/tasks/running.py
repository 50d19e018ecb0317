"""A task from its rows to what was learnt: SFT, PPO, and what their answers are worth beside a baseline's."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, get_args

from kedge.config.settings import Config
from kedge.data.records import plain
from kedge.errors import ConfigError
from kedge.evaluation.evaluate import Evaluation
from kedge.rewards.build import RewardLike
from kedge.runs.folder import RunFolder
from kedge.storage.writing import strict_json, write_text
from kedge.tasks.answering import answered, best_of
from kedge.tasks.checking import ANSWERS, BEST_OF, fingerprints, refuse_fewer, refuse_unfit
from kedge.tasks.measuring import Interval, Side, measured, of_each_seed
from kedge.tasks.starting import new_model
from kedge.tasks.task import Row, Split, Task
from kedge.training.loop import Trainer
from kedge.training.ppo import PPO, PPOConfig
from kedge.training.reward_modeling import RewardConfig, RewardModeling
from kedge.training.sft import SFT, SFTConfig

FILES = ("recipe.toml", "fingerprints.json", "data", "result.json", "answers.jsonl", "kept")
HELD_OUT = 500
"""Rows of ``eval`` that are answered, at most."""

WATCHED = 128
"""Held-out rows, at most, that PPO looks at on its way."""

_Settings = TypeVar("_Settings", bound=Config)


@dataclass(frozen=True)
class Result:
    """What came of a task."""

    rows: Sequence[Row]
    """Held out, and answered."""
    sides: Mapping[str, Side]
    """``before``, ``sft``, ``ppo``; ``best of 4`` of SFT where the reward is learnt; ``baseline`` and the task's
    :meth:`others <kedge.tasks.task.Task.others>` where it has them."""
    measures: Mapping[str, Mapping[str, Interval]]
    """``{side: {measure: its value}}``."""
    by_seed: Mapping[str, Mapping[str, Sequence[float]]]
    """``{side: {measure: [seeds]}}``."""


def run_task(
    task: Task,
    folder: Path,
    *,
    seeds: Sequence[int] = (0,),
    held_out: int = HELD_OUT,
    model: str | Path | None = None,
    sft: Mapping[str, Any] | None = None,
    reward: Mapping[str, Any] | None = None,
    ppo: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    resume: bool = False,
    progress: bool = True,
) -> Result:
    """Learn a task in a folder: its data, ``seed-0/sft``, ``seed-0/ppo`` and so on, ``answers.jsonl``, ``result.json``,
    and in ``kept`` what the task keeps.

    Policies answer the held-out rows at the task's temperature.

    Args:
        task: what is learnt.
        folder: to work in.
        seeds: everything is done with each of them.
        held_out: rows that are answered, at most, from anywhere in the split.
        model: what to begin with; None: what the task says.
        sft: settings in place of the task's own.
        reward: also, of the reward model where the reward is learnt.
        ppo: also.
        overwrite: delete what is there.
        resume: keep the stages that are done; there may be more seeds now.
        progress: show it.

    Raises:
        ConfigError: the folder is there; the task has no reward and no preferences, or its primary metric is none of
            its measures; settings that do not fit, or are others than those that a resumed one began with.
        DataError: no demonstrations; a held-out prompt is trained on. KedgeError: as the stages raise them.
    """
    if task.reward is None and not task.preferences("train"):
        raise ConfigError(f"{task.name}: has neither a reward for PPO nor preferences to learn one from")
    if task.reward is not None and reward:
        raise ConfigError(f"reward.{min(reward)}: the reward of {task.name} is not learnt; take it out")
    stages = Stages.of(task, {"sft": sft, "reward": reward, "ppo": ppo}, model, progress)
    rows, demonstrations = task.all_rows("eval", held_out), task.demonstrations()
    refuse_unfit(task, rows, demonstrations)
    shown = "".join(strict_json(row) + "\n" for row in demonstrations)
    folder = folder.expanduser()
    files = (*FILES, *(path.name for path in folder.glob("seed-*")))
    run = RunFolder(folder, {"task": {"task": task.name}}, overwrite=overwrite, resume=resume, files=files)
    refuse_fewer(folder, len(seeds), resume)
    run.began_with(stages.fingerprints() | fingerprints(task, demonstrations), "begin anew with overwrite=True")
    run.start()
    data = folder / "data" / "demonstrations.jsonl"
    data.parent.mkdir(exist_ok=True)
    write_text(data, shown)
    homes = {seed: folder / f"seed-{seed}" for seed in seeds}
    starts = [beginning(task, stages, home, data, seed) for seed, home in homes.items()]
    # Before anything is trained, should rows, judges, measures or baseline be at fault.
    before = [answered(task, rows, start, stages.ppo.sampling) for start in starts]
    measured(task, rows, Side.of(before))
    judged = partial(task.evaluate_baseline, "eval", limit=held_out, tokenizer=starts[0])
    baselines = {"baseline": [judged()]} if any(task.baseline(row) is not None for row in rows) else {}
    baselines |= {name: [judged(other=name)] for name in task.others(rows[0])}
    evaluations: dict[str, list[Evaluation]] = {"before": before}
    for (seed, home), start in zip(homes.items(), starts, strict=True):
        policies, judge = trained(task, stages, home, data, start, seed)
        for name, policy in policies.items():
            evaluations.setdefault(name, []).append(answered(task, rows, policy, stages.ppo.sampling))
        if task.reward is None:
            best = best_of(BEST_OF, task, rows, policies["sft"], judge, stages.ppo.sampling)
            evaluations.setdefault(f"best of {BEST_OF}", []).append(best)
    evaluations |= baselines
    sides = {name: Side.of(each) for name, each in evaluations.items()}
    result = Result(
        rows,
        sides,
        {name: measured(task, rows, side) for name, side in sides.items()},
        {name: of_each_seed(task, rows, side) for name, side in sides.items()},
    )
    write(task, result, folder)
    kept = folder / "kept"
    kept.mkdir(exist_ok=True)
    task.keep(kept, rows, sides["ppo"].answers[0])
    run.close()
    return result


@dataclass(frozen=True)
class Stages:
    """How a task is learnt."""

    sft: SFTConfig
    reward: RewardConfig
    """Of the reward model, where the reward is learnt."""
    ppo: PPOConfig
    start: str | Path | None
    """What it begins with; None: a new model of the task's sizes."""
    progress: bool
    """Whether it is shown."""

    @classmethod
    def of(
        cls, task: Task, settings: Mapping[str, Mapping[str, Any] | None], model: str | Path | None, progress: bool
    ) -> "Stages":
        """As the task says, but for these settings of ``sft``, ``reward`` and ``ppo``, and this model.

        Raises:
            ConfigError: settings that do not fit.
        """
        given = {stage: each or {} for stage, each in settings.items()}
        for stage, each in given.items():
            if "seed" in each:
                raise ConfigError(f"{stage}.seed: the seeds are 0, 1, ... for all stages; take it out, see --seeds")
            if each.get("best_metric"):
                raise ConfigError(f"{stage}.best_metric: would choose by the rows that are reported; take it out")
        return cls(
            _settings("sft", SFTConfig, {**task.sft, **given["sft"]}),
            _settings("reward", RewardConfig, {**task.reward_modeling, **given["reward"]}),
            _settings("ppo", PPOConfig, {**task.ppo, **given["ppo"]}),
            model or task.model,
            progress,
        )

    def of_seed(self, seed: int) -> "Stages":
        """The same with another seed."""
        settings = {name: getattr(self, name).model_copy(update={"seed": seed}) for name in ("sft", "reward", "ppo")}
        return replace(self, **settings)

    def fingerprints(self) -> dict[str, str]:
        """What a resumed task must have in common with what is there."""
        settings = {name: getattr(self, name).resolved() for name in ("sft", "reward", "ppo")}
        each = {f"{name}.{key}": strict_json(value) for name, table in settings.items() for key, value in table.items()}
        return {"model": str(self.start), **each}


def trained(
    task: Task, stages: Stages, home: Path, data: Path, start: str | Path, seed: int
) -> tuple[dict[str, Path], RewardLike | Sequence[RewardLike]]:
    """One seed's policies, ``sft`` and ``ppo``, and the reward; stages that are done are as they are.

    Args:
        task: what is learnt.
        stages: how.
        home: where.
        data: the demonstrations.
        start: what it begins with.
        seed: of everything.
    """
    stages, progress = stages.of_seed(seed), stages.progress
    sft, reward, ppo = (home / name for name in ("sft", "reward", "ppo"))
    once(sft, SFT, start, str(data), stages.sft, progress=progress)
    judge = task.reward if task.reward is not None else reward
    if task.reward is None:
        pairs, held = (task.preferences(split) for split in get_args(Split))
        once(reward, RewardModeling, sft, pairs, stages.reward, eval_data=held or None, progress=progress)
    once(
        ppo, PPO, sft, task.prompts("train"), judge, stages.ppo, eval_prompts=task.prompts("eval", WATCHED),
        metrics=task.metrics, progress=progress,
    )  # fmt: skip
    return {"sft": sft, "ppo": ppo}, judge


def beginning(task: Task, stages: Stages, home: Path, data: Path, seed: int) -> str | Path:
    """What a seed begins with; a new model is made where none is there yet."""
    if stages.start is not None:
        return stages.start
    model = home / "model"
    if not model.exists():
        new_model(data, model, seed=seed, **task.new)
    return model


def once(run: Path, stage: Callable[..., Trainer], *what: Any, **how: Any) -> None:
    """A stage, unless it is done; what was left in its midst goes on from its last checkpoint."""
    if not (run / "summary.json").is_file():
        begun = (run / "checkpoints").is_dir()
        stage(*what, **how, run=run, resume=begun, overwrite=not begun).train()


def _settings(stage: str, config: type[_Settings], given: Mapping[str, Any]) -> _Settings:
    """Raise: naming the stage, as several have settings of a name."""
    try:
        return config.of(given)
    except ConfigError as error:
        raise ConfigError(f"{stage}.{error}") from None


def write(task: Task, result: Result, folder: Path) -> None:
    """``answers.jsonl``: a held-out row a line, with what each side answered; ``result.json``: what that is worth."""
    lines = []
    for i, row in enumerate(result.rows):
        said = {name: [answers[i] for answers in side.answers] for name, side in result.sides.items()}
        lines.append(strict_json({**row, "prompt": plain(task.prompt(row)), ANSWERS: said}))
    write_text(folder / "answers.jsonl", "\n".join(lines) + "\n")
    about = {
        "task": task.name,
        "primary_metric": task.primary_metric,
        "rows": len(result.rows),
        "seeds": len(result.sides["ppo"].answers),
    }
    values = {side: {name: each._asdict() for name, each in found.items()} for side, found in result.measures.items()}
    about |= {"measures": values, "by_seed": result.by_seed}
    write_text(folder / "result.json", json.dumps(about, indent=2) + "\n")
