"""Numbers about sets of completions."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class WinRate:
    """How often one policy's answer scores above another's to the same prompt; a tie is half a win."""

    rate: float
    low: float
    """Lower end of the 95% interval (Wilson 1927)."""
    high: float
    n: int

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def win_rate(ours: Sequence[float], theirs: Sequence[float]) -> WinRate:
    """Win rate of ``ours`` over ``theirs``, scores of answers to the same prompts in the same order.

    Raises:
        ValueError: nothing to compare, or different counts.
    """
    wins = sum((a > b) + (a == b) / 2 for a, b in zip(ours, theirs, strict=True))
    if not ours:
        raise ValueError("win_rate needs at least one pair of answers")
    low, high = wilson_interval(wins, len(ours))
    return WinRate(wins / len(ours), low, high, len(ours))


def wilson_interval(successes: float, n: int, *, z: float = 1.959964) -> tuple[float, float]:
    """95% score interval of a proportion (Wilson 1927). With ties as halves it errs on the wide side."""
    p = successes / n
    center = p + z * z / (2 * n)
    spread = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (center - spread) / scale), min(1.0, (center + spread) / scale)


def mean(values: Sequence[float]) -> float:
    """Mean of the numbers that are not NaN; NaN where there are none."""
    there = [value for value in values if not math.isnan(value)]
    return math.fsum(there) / len(there) if there else math.nan
