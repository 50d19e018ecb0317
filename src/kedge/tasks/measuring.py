"""What a side's answers are worth, with how sure that is."""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from kedge.evaluation.evaluate import Evaluation
from kedge.evaluation.metrics import mean
from kedge.tasks.task import Row, Task

DRAWS = 400
"""Resamples of the rows."""

LEVEL = 0.95


class Interval(NamedTuple):
    """A number, and the ends of its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Side:
    """Who answered, and what became of it, over one seed or several."""

    answers: Sequence[Sequence[str]]
    """``[seeds][rows]``; the same rows in all of them."""
    scores: Sequence[Mapping[str, Sequence[float]]]
    """``[seeds]{judge: [rows]}``."""

    @classmethod
    def of(cls, evaluations: Sequence[Evaluation]) -> "Side":
        """One evaluation a seed."""
        answers = [[completion.text for completion in each.completions] for each in evaluations]
        return cls(answers, [each.scores for each in evaluations])


def measured(task: Task, rows: Sequence[Row], side: Side) -> dict[str, Interval]:
    """Every judge's mean and the task's own measures, with intervals by the bootstrap over rows (Efron 1979).

    A row is drawn with what all seeds answered to it, because their answers to one row resemble each other.

    Args:
        task: whose measures.
        rows: that were answered.
        side: the answers.
    """

    said = [[task.read(row, answer) for row, answer in zip(rows, each, strict=True)] for each in side.answers]

    def at(places: Sequence[int]) -> dict[str, float]:
        means = {
            name: mean([scores[name][i] for scores in side.scores for i in places]) for name in side.scores[0]
        }  # fmt: skip
        own = [task.measures([rows[i] for i in places], [each[i] for i in places]) for each in said]
        return means | {name: sum(each[name] for each in own) / len(own) for name in own[0]}

    return _with_intervals(at, len(rows))


def _with_intervals(at: Callable[[Sequence[int]], dict[str, float]], count: int) -> dict[str, Interval]:
    rng = random.Random(0)
    whole = at(range(count))
    drawn = [at(rng.choices(range(count), k=count)) for _ in range(DRAWS)]
    found = {}
    for name, value in whole.items():
        values = sorted(each[name] for each in drawn if not math.isnan(each[name]))
        if not values or math.isnan(value):
            continue  # nothing there that it measures
        cut = round((1 - LEVEL) / 2 * len(values))
        found[name] = Interval(value, values[cut], values[-1 - cut])
    return found
