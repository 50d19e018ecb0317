"""Texts with numbers: what raters gave them, one for each objective."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kedge.data.files import Row, column
from kedge.data.records import TAGS, Preference, Text, demonstrations, joined, number_in, preferences, prompts
from kedge.errors import DataError

RATED = "score"
"""The column that is learnt where no objectives are named."""


@dataclass(frozen=True)
class Rating:
    """A whole text or conversation, and how it was rated."""

    text: Text
    scores: tuple[float | None, ...]
    """One for each objective; None where nobody said."""
    origin: str = "rating"


@dataclass(frozen=True)
class StepLabels:
    """A whole text or conversation whose answer was judged step by step."""

    text: Text
    steps: tuple[str, ...]
    labels: tuple[float | None, ...]
    """One for each step: 1 right, 0 wrong, between them where raters do not agree; None where nobody said."""
    origin: str = "steps"


Labelled = Rating | Preference | StepLabels


def ratings(rows: Sequence[Row], objectives: Sequence[str]) -> list[Rating]:
    """A demonstration's columns, and a column of numbers for each objective, empty where nobody said.

    Raises:
        DataError: a row without text, a column that no row has, what is no number, or a row without any.
    """
    there = {name for row in rows for name in row.columns}
    for name in objectives:
        if name not in there and rows:
            column(rows[0], name)  # says which columns there are
    texts = [each.whole for each in demonstrations(rows)]
    found = []
    for row, text in zip(rows, texts, strict=True):
        scores = tuple(number_in(row, name) for name in objectives)
        if all(score is None for score in scores):
            raise DataError(f"{row.origin}: no number in {', '.join(map(repr, objectives))}; leave the row out")
        found.append(Rating(text, scores, row.origin))
    return found


def step_labels(rows: Sequence[Row], separator: str) -> list[StepLabels]:
    """Columns ``prompt``, ``completions`` (the steps of one answer) and ``labels`` (a number from 0 to 1 for each).

    Raises:
        DataError: a row without them, or of which not every step has its label.
    """
    return [_step_labels(row, separator) for row in rows]


def labelled(
    rows: Sequence[Row], objectives: Sequence[str] = (), *, separator: str = "\n", seed: int = 0
) -> list[Labelled]:
    """What a reward model learns from: ratings where objectives are named, or a column ``score`` says how good a text
    is; labels of steps where there are ``completions``; else preferences.

    Raises:
        DataError: rows that are neither.
    """
    names = rows[0].columns if rows else {}
    alone = RATED in names and not {"chosen", *TAGS} & set(names)
    if objectives or alone:
        return [*ratings(rows, objectives or [RATED])]
    if {"completions", "labels"} <= set(names):
        return [*step_labels(rows, separator)]
    return [*preferences(rows, seed=seed)]


def _step_labels(row: Row, separator: str) -> StepLabels:
    steps, labels = column(row, "completions"), column(row, "labels")
    if not isinstance(steps, list) or not steps or not all(isinstance(step, str) and step.strip() for step in steps):
        raise DataError(f"{row.origin}: 'completions' must be a list of texts, the steps of one answer, none empty")
    if not isinstance(labels, list) or len(labels) != len(steps):
        raise DataError(
            f"{row.origin}: 'labels' must be a list of {len(steps)}, one for each step; it is {labels!r:.60}"
        )
    numbers = tuple(None if label is None else float(label) for label in labels if _is_label(label))
    if len(numbers) < len(labels) or all(number is None for number in numbers):
        raise DataError(f"{row.origin}: 'labels' must be true or false, or from 0 to 1; null where nobody said")
    cleaned = tuple(step.removeprefix(separator).removesuffix(separator) for step in steps)
    if inside := next((step for step in cleaned if separator in step), None):
        raise DataError(
            f"{row.origin}: a step has step_separator={separator!r} in it: {inside!r:.60}; split it, or set another"
        )
    (prompt,) = prompts([Row({"prompt": column(row, "prompt")}, row.origin)])
    return StepLabels(joined(prompt.text, separator.join(cleaned)), cleaned, numbers, row.origin)


def _is_label(label: Any) -> bool:
    return label is None or (isinstance(label, bool | int | float) and 0 <= label <= 1)
