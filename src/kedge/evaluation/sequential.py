"""Two streams of numbers compared while they come in, by intervals that hold at every moment at once.

An interval of the usual kind is meant to be looked at once. Whoever looks after every answer, and stops when it leaves
zero, is wrong far more often than it says; so what decides while it watches needs wider ones, which are right at all
times together with the stated probability (Robbins 1970; for experiments: Johari et al. 2017, "Peeking at A/B tests").
"""

import math
from dataclasses import dataclass


@dataclass
class Moments:
    """Count, mean and spread of a stream (Welford 1962)."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    """Sum of squared deviations from the mean."""

    def add(self, number: float) -> None:
        """Take one in."""
        self.count += 1
        before = number - self.mean
        self.mean += before / self.count
        self.squares += before * (number - self.mean)

    @property
    def variance(self) -> float:
        """Of one number, unbiased; infinite before there are two."""
        return self.squares / (self.count - 1) if self.count > 1 else math.inf


@dataclass(frozen=True)
class Difference:
    """The mean of one stream less that of another, and where it may be."""

    mean: float
    low: float
    high: float


def difference(new: Moments, old: Moments, *, error: float, effect: float = 0.3) -> Difference:
    """How far two streams' means are apart, with an interval that may be looked at after every number.

    The difference, in the time of its precision (one over its variance), is a Brownian motion with the true difference
    as its drift; against a normal mixture of drifts the likelihood ratio of no drift stays below ``1 / error`` at all
    times with probability ``1 - error`` (Robbins 1970). The variances are those seen so far, and no stream's less than
    that of both together, so this holds for means of some tens of numbers, and not of three.

    Args:
        new: one stream.
        old: the other one, drawn independently.
        error: probability, at most, that the interval ever leaves the true difference out.
        effect: the difference at which the interval is to be narrowest, in spreads of one number. It changes the width,
            and not what the interval promises.

    Returns:
        In the streams' own units; infinitely wide before there are two numbers on each side.
    """
    apart = new.mean - old.mean
    if min(new.count, old.count) < 2:
        return Difference(apart, -math.inf, math.inf)
    pooled = (new.squares + old.squares) / (new.count + old.count - 2)
    if pooled == 0.0:  # every number is its stream's mean
        return Difference(apart, apart, apart)
    # A short stream of rare events may not have had one yet, and is not as sure as it looks.
    variance = sum(max(stream.variance, pooled) / stream.count for stream in (new, old))
    prior = effect**2 * pooled  # variance of the mixture
    whole = variance + prior
    width = math.sqrt(variance * whole / prior * (2 * math.log(1 / error) + math.log(whole / variance)))
    return Difference(apart, apart - width, apart + width)
