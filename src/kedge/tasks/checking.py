"""What can be wrong with a task, found before anything is trained; and what a resumed one must have in common."""

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from kedge.config.settings import nearest
from kedge.data.files import rows_of
from kedge.data.records import Prompt, read_prompts
from kedge.data.records import demonstrations as read_demonstrations
from kedge.errors import ConfigError, DataError
from kedge.runs.fingerprints import of_rows, of_settings
from kedge.storage.writing import strict_json
from kedge.tasks.task import Row, Split, Task
from kedge.training.fingerprints import of_rewards
from kedge.training.ppo.prompts import refuse_overlap

BEST_OF = 4
"""Answers of SFT from which a learnt reward picks one: what else the reward could be used for, with nothing trained."""
SIDES = frozenset(("before", "sft", "ppo", f"best of {BEST_OF}", "baseline"))
"""Who answers in every task."""

ANSWERS = "answers"
"""The column of ``answers.jsonl`` with what each side answered."""


def refuse_unfit(task: Task, rows: Sequence[Row], demonstrations: Sequence[Row]) -> None:
    """Raise before anything is trained rather than at the end.

    Args:
        task: what is to be learnt.
        rows: that will be answered.
        demonstrations: of the task.

    Raises:
        DataError: no demonstrations; rows that are others each time; a held-out prompt is trained on; a row that cannot
            be written. ConfigError: measures that are none, or have the names of judges; others with the name of a
            side; the task's primary metric is none of its measures.
    """
    for split in get_args(Split):
        if of_rows(task.prompts(split)) != of_rows(task.prompts(split)):
            raise DataError(f"{task.name}: rows({split!r}) are others each time; draw them with a seed")
    if not demonstrations:
        raise DataError(f"{task.name}: no demonstrations, from which SFT would learn how to answer")
    answered_to = [Prompt(each.prompt, origin=each.origin) for each in read_demonstrations(rows_of(demonstrations))]
    refuse_overlap([*read_prompts(task.prompts("train")), *answered_to], read_prompts(task.prompts("eval")))
    for number, row in enumerate(rows, start=1):
        for column, value in row.items():
            try:
                strict_json(value)
            except TypeError as error:
                raise DataError(f"{task.name}: row {number}, column {column!r}: {error}; make it plain") from None
        if ANSWERS in row:
            raise DataError(f"{task.name}: row {number}: call the column {ANSWERS!r} something else, answers go there")
    if taken := sorted(task.others(rows[0]).keys() & {*SIDES, ""}):
        raise ConfigError(f"{task.name}: others: {taken[0]!r} is a side already; call it something else")
    judges = [*task.judges()]
    measures = task.measures(rows, [task.read(row, "") for row in rows])
    if not isinstance(measures, dict) or not all(isinstance(value, int | float) for value in measures.values()):
        raise ConfigError(f"{task.name}: measures: not a dict of numbers by name: {measures!r}")
    if both := sorted(measures.keys() & judges):
        raise ConfigError(
            f"{task.name}: measures: {both[0]!r} is the reward or a metric already; call it something else"
        )
    names = [*judges, *measures]
    if task.primary_metric.removeprefix("-") not in names:
        raise ConfigError(
            f"{task.name}: primary_metric: no {task.primary_metric!r}; {nearest(task.primary_metric, names)}"
        )


def refuse_fewer(folder: Path, seeds: int, resume: bool) -> None:
    """Raise where a resumed task would lose seeds of the result that is there.

    Raises:
        ConfigError: naming both numbers.
    """
    there = len([*folder.glob("seed-*/ppo/summary.json")])
    if resume and seeds < there:
        raise ConfigError(f"seeds: {there} are there, and {seeds} would remain; go on with --seeds {there} or more")


def fingerprints(task: Task, demonstrations: Sequence[Row]) -> dict[str, str]:
    """What else a resumed task must have in common with what is there: its rows, its rewards and its new model."""
    rewards = [("reward" if name == "score" else "metric", by) for name, by in task.judges().items()]
    return {
        "demonstrations": of_rows(demonstrations),
        **{f"{split} rows": of_rows(task.prompts(split)) for split in get_args(Split)},
        **{f"{split} preferences": of_rows(task.preferences(split)) for split in get_args(Split)},
        "new model": of_settings(task.new),
        **dict(of_rewards(rewards)),
    }
