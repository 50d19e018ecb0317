"""Texts with numbers: what raters gave them, one for each objective."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kedge.data.files import Row, column
from kedge.data.records import TAGS, Preference, Text, demonstrations, preferences
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


Labelled = Rating | Preference


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
        scores = tuple(_number(row, name) for name in objectives)
        if all(score is None for score in scores):
            raise DataError(f"{row.origin}: no number in {', '.join(map(repr, objectives))}; leave the row out")
        found.append(Rating(text, scores, row.origin))
    return found


def labelled(rows: Sequence[Row], objectives: Sequence[str] = (), *, seed: int = 0) -> list[Labelled]:
    """What a reward model learns from: ratings where objectives are named, or a column ``score`` says how good a text
    is; else preferences.

    Raises:
        DataError: rows that are neither.
    """
    names = rows[0].columns if rows else {}
    alone = RATED in names and not {"chosen", *TAGS} & set(names)
    if objectives or alone:
        return [*ratings(rows, objectives or [RATED])]
    return [*preferences(rows, seed=seed)]


def _number(row: Row, name: str) -> float | None:
    value: Any = row.columns.get(name)
    if value is None or value == "":
        return None
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"{row.origin}: {name!r} must be a number, or empty where nobody said, not {value!r}")
    return number
