"""Whether an answer's list has what is relevant at its top."""

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

from pydantic import Field

from kedge.errors import RewardError
from kedge.rewards.library.base import Said, Sample, TextSpec
from kedge.rewards.library.words import after_last, items_of, same


def ndcg(ranked: Sequence[str], gains: Mapping[str, float], k: int | None = None) -> float:
    """Normalised discounted cumulative gain, 0..1 (Järvelin and Kekäläinen 2002): the sum of ``gain / log2(rank + 1)``
    over the first ``k``, divided by the best one there can be; 0 where nothing is relevant.

    Args:
        ranked: the first is the best. What is named again has no gain.
        gains: of what is relevant; nothing else has any.
        k: None: all.
    """
    earned = [0.0 if item in ranked[:i] else gains.get(item, 0.0) for i, item in enumerate(ranked)]
    best = _discounted(sorted(gains.values(), reverse=True)[:k])
    return _discounted(earned[:k]) / best if best else 0.0


def _discounted(gains: Sequence[float]) -> float:
    return math.fsum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, 1))


class Ranking(TextSpec):
    """NDCG of the list that an answer gives, against relevant items (Järvelin and Kekäläinen 2002).

    The answer is a JSON list, a line each (with numbers or bullets), or separated by commas. Case and punctuation do
    not count; an item that is named again has no gain.
    """

    KIND: ClassVar[str] = "ranking"
    RANGE: ClassVar[str] = "0..1"

    column: str = "relevant"
    """Of the data: a list of relevant items, each of gain 1, or ``{item: gain}``."""
    k: int | None = Field(None, ge=1)
    """Only so many at the top count; ``none``: all."""
    after: str | None = None
    """Only what follows its last occurrence is the answer, and without it there is none."""

    def wanted(self) -> Mapping[str, str]:
        return {"column": self.column}

    def one(self, sample: Sample) -> Said:
        value = sample.columns.get(self.column)
        if value is None:
            return Said(None)
        if isinstance(value, str):
            value = items_of(value)
        if isinstance(value, list):
            value = dict.fromkeys(map(str, value), 1.0)
        # Rows of a table have every row's keys, and None where they say nothing.
        gains = {same(item): gain for item, gain in value.items() if gain} if isinstance(value, dict) else {}
        if not gains or not all(isinstance(gain, int | float) and gain > 0 for gain in gains.values()):
            raise RewardError(
                f"{sample.where}: column {self.column!r} must hold a list of relevant items, or {{item: gain}} with "
                f"gains above 0; it is {value!r}"
            )
        return Said(ndcg([same(item) for item in items_of(after_last(sample.text, self.after))], gains, self.k))
