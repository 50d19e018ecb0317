"""What a side's answers are worth, with how sure that is."""

import math
import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

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

    A row is drawn with what all seeds answered to it, because their answers to one row resemble each other, and with
    the other rows of its :meth:`Task.group <kedge.tasks.task.Task.group>`.

    Args:
        task: whose measures.
        rows: that were answered.
        side: the answers.
    """
    groups: dict[Any, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        group = task.group(row)
        groups[("row", place) if group is None else ("group", group)].append(place)
    seeds = _seeds(task, rows, side)

    def at(places: Sequence[int]) -> dict[str, float]:
        each = [of_seed(places) for of_seed in seeds]
        return {name: sum(found.get(name, math.nan) for found in each) / len(each) for name in each[0]}

    return _with_intervals(at, list(groups.values()))


def of_each_seed(task: Task, rows: Sequence[Row], side: Side) -> dict[str, list[float]]:
    """``{measure: [seeds]}``: what the seeds come to by themselves, so that one sees how they differ."""
    each = [of_seed(range(len(rows))) for of_seed in _seeds(task, rows, side)]
    return {name: [found.get(name, math.nan) for found in each] for name in each[0]}


def _seeds(task: Task, rows: Sequence[Row], side: Side) -> list[Callable[[Sequence[int]], dict[str, float]]]:
    """For each seed, what its answers to the rows of some places come to."""

    def of_seed(scores: Mapping[str, Sequence[float]], said: Sequence[Any], places: Sequence[int]) -> dict[str, float]:
        means = {name: mean([values[i] for i in places]) for name, values in scores.items()}
        return means | task.measures([rows[i] for i in places], [said[i] for i in places])

    said = [[task.read(row, answer) for row, answer in zip(rows, each, strict=True)] for each in side.answers]
    return [partial(of_seed, scores, read) for scores, read in zip(side.scores, said, strict=True)]


def _with_intervals(
    at: Callable[[Sequence[int]], dict[str, float]], groups: Sequence[Sequence[int]]
) -> dict[str, Interval]:
    rng = random.Random(0)
    whole = at([place for group in groups for place in group])
    drawn = [at([place for group in rng.choices(groups, k=len(groups)) for place in group]) for _ in range(DRAWS)]
    found = {}
    for name, value in whole.items():
        values = sorted(each[name] for each in drawn if not math.isnan(each.get(name, math.nan)))
        if not values or math.isnan(value):
            continue  # nothing there that it measures
        cut = round((1 - LEVEL) / 2 * len(values))
        found[name] = Interval(value, values[cut], values[-1 - cut])
    return found
