"""A new version beside the present one: it answers a share of the people, until it is clear what it is worth."""

import hashlib
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from kedge.evaluation.sequential import Difference, Moments, difference
from kedge.serving.http.version import Version

Verdict = Literal["promoted", "rolled back"]

REMEMBERED = 100_000
"""Answers whose version is known when somebody speaks of them."""


@dataclass(frozen=True)
class Measure:
    """A number of each answer."""

    better: Literal["higher", "lower", "neither"]
    tolerated: float = 0.0
    """How much worse the mean may be, as a part of the present one's."""
    speaks: bool = False
    """Whether it says that an answer is good, and not only that nothing is wrong with it."""

    def is_worse(self, found: Difference, present: float) -> bool:
        """Whether it is sure that the new version is worse by more than is tolerated."""
        spare = self.tolerated * abs(present)
        return (self.better != "lower" and found.high < -spare) or (self.better != "higher" and found.low > spare)

    def is_as_good(self, found: Difference, spare: float) -> bool:
        """Whether it is sure that the new version is not worse by more than ``spare``."""
        # Where all numbers are alike, so is the spare with them: nothing.
        return found.low >= -spare if self.better == "higher" else found.high <= spare


MEASURES: Mapping[str, Measure] = {
    "reward": Measure("higher", speaks=True),
    "thumbs": Measure("higher", speaks=True),
    "held": Measure("lower"),
    "tokens": Measure("neither", tolerated=0.5),
    "seconds_a_token": Measure("lower", tolerated=1.0),
}
"""``reward``: by the server's reward models. ``thumbs``: the first of an answer, 1 or 0. ``held``: 1 where the guard
did something. A version whose answers have half or one and a half times the length, or come half as fast, goes back
too."""


@dataclass(frozen=True)
class Terms:
    """How a canary is decided."""

    share: float
    """Of the people, who are answered by the new version."""
    error: float = 0.05
    """Probability, at most, that a version as good as the present one is rolled back, however long it takes."""
    margin: float = 0.2
    """How much worse, in spreads of an answer's number, it may be and still count as good."""
    least: int = 50
    """Numbers of each version before anything is made of them."""


@dataclass(eq=False)
class Arm:
    """A version, and what its answers came to."""

    version: Version
    moments: dict[str, Moments] = field(default_factory=lambda: {name: Moments() for name in MEASURES})


class Canary:
    """Two versions that answer, compared with every answer.

    Each difference of means has an interval that holds at all times at once (:mod:`kedge.evaluation.sequential`); the
    measures share the probability of an error. The new version is rolled back where one of them is sure to be worse,
    and promoted where those that speak for an answer are sure to be no worse than the margin, and none is held by the
    guard more often than that.

    Args:
        present: answers everybody else.
        candidate: is tried.
        terms: how it is decided.
    """

    def __init__(self, present: Version, candidate: Version, terms: Terms) -> None:
        self.terms = terms
        self.present, self.candidate = Arm(present), Arm(candidate)
        self._wrote: dict[str, int] = {}  # answers nobody has spoken of, and who wrote them

    def answering(self, person: str | None) -> Version:
        """Who answers a person: always the same; of those who do not say who they are, each time another."""
        if person is None:
            drawn = random.random()
        else:
            digest = hashlib.sha256(f"{self.candidate.version.number}:{person}".encode("utf-8", "surrogatepass"))
            drawn = int.from_bytes(digest.digest()[:8]) / 2**64
        return (self.candidate if drawn < self.terms.share else self.present).version

    def wrote(self, answer: str, version: int) -> None:
        """Whose an answer is, so that what is said of it counts for that version."""
        if len(self._wrote) == REMEMBERED:
            del self._wrote[next(iter(self._wrote))]
        self._wrote[answer] = version

    def hear(self, answer: str, *, thumb: int) -> None:
        """Somebody has spoken of an answer; who does so again is not heard twice."""
        version = self._wrote.pop(answer, None)
        if version is not None:
            self.count(version, thumbs=thumb)

    def count(self, version: int, **numbers: float) -> None:
        """Numbers of an answer of a version, by the measures' names."""
        for arm in (self.present, self.candidate):
            if arm.version.number == version:
                for name, number in numbers.items():
                    if math.isfinite(number):
                        arm.moments[name].add(number)

    def verdict(self) -> tuple[Verdict, str] | None:
        """What is sure by now, and why; None: nothing yet."""
        known = {name: self._difference(name) for name in MEASURES if self._is_known(name)}
        for name, found in known.items():
            if MEASURES[name].is_worse(found, self.present.moments[name].mean):
                return "rolled back", f"{name}: {_said(found)} against version {self.present.version.number}"
        speaking = [name for name in known if MEASURES[name].speaks]
        decisive = [*speaking, *(name for name in known if name == "held")]
        if speaking and all(MEASURES[name].is_as_good(known[name], self._spare(name)) for name in decisive):
            why = ", ".join(f"{name}: {_said(known[name])}" for name in decisive)
            return "promoted", f"{why} against version {self.present.version.number}"
        return None

    def told(self) -> dict[str, Any]:
        """For whoever keeps the server: JSON."""
        measures = {}
        for name in MEASURES:
            counted = {"present": self.present.moments[name], "candidate": self.candidate.moments[name]}
            row: dict[str, Any] = {
                who: {"count": each.count, "mean": each.mean if each.count else None} for who, each in counted.items()
            }
            found = self._difference(name)
            row["difference"] = [found.low, found.high] if math.isfinite(found.low) else None
            measures[name] = row
        return self.candidate.version.told() | {"share": self.terms.share, "measures": measures}

    def _is_known(self, name: str) -> bool:
        return min(arm.moments[name].count for arm in (self.present, self.candidate)) >= self.terms.least

    def _difference(self, name: str) -> Difference:
        new, old = self.candidate.moments[name], self.present.moments[name]
        return difference(new, old, error=self.terms.error / len(MEASURES))

    def _spare(self, name: str) -> float:
        present, candidate = (arm.moments[name].variance for arm in (self.present, self.candidate))
        return self.terms.margin * math.sqrt(present or candidate)


def _said(found: Difference) -> str:
    return f"{found.mean:+.3g} ({found.low:+.3g} to {found.high:+.3g})"
