"""Whether an answer is one of the expected ones: to the letter, normalised, or nearly."""

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from kedge.config.optional import needed
from kedge.rewards.library.base import Said, Sample, TextSpec
from kedge.rewards.library.words import after_last, mentions, normalised


def fuzzy(text: str, expected: str) -> float:
    """How alike two texts are once normalised, 0..1: 1 minus the insertions and deletions between them over both
    lengths (rapidfuzz's ``ratio``)."""
    return float(needed("rapidfuzz.fuzz", "fuzzy").ratio(normalised(text), normalised(expected))) / 100


class Match(TextSpec):
    """Whether an answer is the expected one, exactly, normalised or nearly (rapidfuzz).

    Normalising is SQuAD's (Rajpurkar et al. 2016): case, punctuation, articles and spaces do not count. Of several
    expected answers the nearest counts.
    """

    KIND: ClassVar[str] = "match"
    RANGE: ClassVar[str] = "0 or 1; fuzzy 0..1"

    column: str = "answer"
    """Of the data: the expected answer, or a list of them."""
    how: Literal["normalised", "exact", "contains", "fuzzy"] = "normalised"
    """``exact``: to the letter, but for space around it; ``normalised``: but for case, punctuation and articles;
    ``contains``: normalised, anywhere in the answer; ``fuzzy``: how alike they are, normalised."""
    at_least: float = Field(0.0, ge=0, le=1)
    """What is less alike than this has 0."""
    after: str | None = None
    """Only what follows its last occurrence is the answer, and without it there is none."""

    USED_WHEN: ClassVar = {"at_least": ("how", ("fuzzy",))}

    def wanted(self) -> Mapping[str, str]:
        return {"column": self.column}

    def prepare(self) -> None:
        if self.how == "fuzzy":
            needed("rapidfuzz", "match, how=fuzzy")

    def one(self, sample: Sample) -> Said:
        expected = sample.texts(self.column)
        if expected is None:
            return Said(None)
        text = after_last(sample.text, self.after)
        return Said(max(self._alike(text, each) for each in expected))

    def _alike(self, text: str, expected: str) -> float:
        if self.how == "exact":
            return float(text.strip() == expected.strip())
        if self.how == "normalised":
            return float(normalised(text) == normalised(expected))
        if self.how == "contains":
            right = normalised(expected)
            is_article = right in ("a", "an", "the")
            return float(bool(right) and bool(mentions(normalised(text, articles=is_article), right)))
        alike = fuzzy(text, expected)
        return alike if alike >= self.at_least else 0.0
