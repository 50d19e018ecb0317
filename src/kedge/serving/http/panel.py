"""The reward models of a server, and how far they are apart."""

import statistics
from collections.abc import Sequence
from concurrent.futures import Future
from threading import Lock

from kedge.data.records import Text
from kedge.models.reward_model import RewardModel
from kedge.runs.fingerprints import of_weights
from kedge.serving.guard.scoring import Scorer

WAITING = 1000
"""Answers that wait to be measured; beyond that they are not."""


class Panel:
    """A reward model; or several that were trained apart: on other seeds, or other parts of the data.

    Args:
        members: of it.
    """

    def __init__(self, members: Sequence[RewardModel]) -> None:
        self.members = members
        self._using = Lock()
        self._fingerprint = ""
        self._scorer: Scorer[Text, tuple[float, ...]] = Scorer(self.each, "reward models")

    @property
    def differ(self) -> bool:
        """Whether there are several, which may not agree."""
        return len(self.members) > 1

    def score(self, texts: Sequence[Text], answers: Sequence[str] | None = None) -> list[float]:
        """Their mean for each.

        Args:
            texts: whole texts or conversations.
            answers: what is judged of each, for models that read steps; None: the last message, or all of a text.
        """
        return [statistics.fmean(scores) for scores in self.each(texts, answers)]

    def each(self, texts: Sequence[Text], answers: Sequence[str] | None = None) -> list[tuple[float, ...]]:
        """What every one of them says of each; the arguments are those of :meth:`score`."""
        with self._using:  # a tokenizer serves one thread at a time
            return [*zip(*(member.score(texts, answers) for member in self.members), strict=True)]

    def fingerprint(self) -> str:
        """Of all their weights, and how scores are read from them; taken once."""
        if not self._fingerprint:
            self._fingerprint = ", ".join(f"{of_weights(each.model)} {each.reading}" for each in self.members)
        return self._fingerprint

    def later(self, text: Text) -> "Future[tuple[float, ...]] | None":
        """What every one of them says, when there is time; None where too many wait."""
        return self._scorer.ask(text) if self._scorer.waiting < WAITING else None

    def close(self) -> None:
        """Let go of the thread."""
        self._scorer.close()
