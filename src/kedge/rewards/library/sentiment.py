"""How positive an English answer sounds."""

from functools import cache
from typing import Any, ClassVar

from kedge.config.optional import needed
from kedge.rewards.library.base import Said, Sample, TextSpec


@cache
def _analyzer() -> Any:
    return needed("vaderSentiment.vaderSentiment", "sentiment", "vader").SentimentIntensityAnalyzer()


def vader(text: str) -> float:
    """VADER's compound score, from -1 (negative) to 1 (Hutto and Gilbert 2014)."""
    return float(_analyzer().polarity_scores(text)["compound"])


class Sentiment(TextSpec):
    """How positive an answer sounds, by VADER's compound score (Hutto and Gilbert 2014); English only.

    It counts words of a list: texts in other languages have 0.
    """

    KIND: ClassVar[str] = "sentiment"
    RANGE: ClassVar[str] = "-1..1"

    def prepare(self) -> None:
        _analyzer()

    def one(self, sample: Sample) -> Said:
        return Said(vader(sample.text))
