"""Several reward models, and how far they are apart."""

import statistics
from collections.abc import Sequence
from concurrent.futures import Future
from threading import Lock
from typing import Protocol

from kedge.data.records import Text
from kedge.models.reward_model import RewardModel
from kedge.serving.guard.scoring import Scorer

WAITING = 1000
"""Answers that wait to be measured; beyond that they are not."""


class Scoring(Protocol):
    """What ``/v1/score`` asks."""

    def score(self, texts: Sequence[Text]) -> list[float]:
        """A score for each."""


class Panel:
    """Reward models that were trained apart: on other seeds, or other parts of the data.

    Args:
        members: of it.
    """

    def __init__(self, members: Sequence[RewardModel]) -> None:
        self.members = members
        self._using = Lock()
        self._scorer: Scorer[Text] = Scorer(self.spread, "disagreement")

    def score(self, texts: Sequence[Text]) -> list[float]:
        """Their mean for each."""
        return [statistics.fmean(scores) for scores in self._each(texts)]

    def spread(self, texts: Sequence[Text]) -> list[float]:
        """Their standard deviation for each, as that of the reward ``ensemble``."""
        return [statistics.pstdev(scores) for scores in self._each(texts)]

    def later(self, text: Text) -> "Future[float] | None":
        """The spread, when there is time; None where too many wait."""
        return self._scorer.ask(text) if self._scorer.waiting < WAITING else None

    def close(self) -> None:
        """Let go of the thread."""
        self._scorer.close()

    def _each(self, texts: Sequence[Text]) -> list[tuple[float, ...]]:
        with self._using:  # a tokenizer serves one thread at a time
            return [*zip(*(member.score(texts) for member in self.members), strict=True)]
