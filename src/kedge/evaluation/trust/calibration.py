"""How far a reward model's margins can be read as chances (Guo et al. 2017), and what else its scores follow."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

BINS = 10
STEEPEST = 1e2
"""Margins are multiplied by no more than this: where every pair is right, no factor is too large."""


@dataclass(frozen=True)
class Bin:
    """Pairs of which the model is about equally sure."""

    confidence: float
    """Mean chance that it gives to its own choice."""
    accuracy: float
    """How often that choice is right."""
    pairs: int


def chance(margin: float) -> float:
    """That the first of two answers is preferred, by Bradley & Terry (1952)."""
    return 1 / (1 + math.exp(-margin)) if margin >= 0 else math.exp(margin) / (1 + math.exp(margin))


def right(margin: float) -> float:
    """1 where the chosen answer scores higher, a half where both score the same."""
    return 1.0 if margin > 0 else 0.5 if margin == 0 else 0.0


def log_loss(margins: Sequence[float]) -> float:
    """Mean negative log-likelihood of the labels, nats a pair; log 2 is what a coin gets.

    Args:
        margins: score of the chosen answer less that of the rejected one.
    """
    return math.fsum(max(-m, 0.0) + math.log1p(math.exp(-abs(m))) for m in margins) / len(margins)


def reliability(margins: Sequence[float], bins: int = BINS) -> list[Bin]:
    """Confidence against accuracy, in bins of equal width from a half to 1; empty ones are left out."""
    found: list[list[tuple[float, float]]] = [[] for _ in range(bins)]
    for margin in margins:
        sure = chance(abs(margin))
        found[min(bins - 1, int((sure - 0.5) * 2 * bins))].append((sure, right(margin)))
    return [
        Bin(math.fsum(sure for sure, _ in part) / len(part), math.fsum(hit for _, hit in part) / len(part), len(part))
        for part in found
        if part
    ]


def calibration_error(margins: Sequence[float], bins: int = BINS) -> float:
    """Expected calibration error (Naeini et al. 2015): mean gap of confidence and accuracy over the pairs."""
    curve = reliability(margins, bins)
    return math.fsum(part.pairs * abs(part.confidence - part.accuracy) for part in curve) / len(margins)


def fitted_temperature(margins: Sequence[float]) -> float:
    """What the margins have to be divided by to be as likely as can be; infinite where they say less than a coin."""
    factor = fitted_factor(margins)
    return 1 / factor if factor > 0 else math.inf


def fitted_factor(margins: Sequence[float]) -> float:
    """By what differences have to be multiplied to be margins under which the labels are as likely as can be.

    The log-likelihood is concave in the factor, so its slope is bisected.
    """
    ahead = torch.tensor(margins, dtype=torch.float64)

    def slope(factor: float) -> float:
        return float((ahead * torch.sigmoid(-factor * ahead)).sum())

    low, high = -STEEPEST, STEEPEST
    if slope(0.0) == 0.0:
        return 0.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) > 0 else (low, middle)
    return (low + high) / 2


def correlation(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Pearson's, of numbers that belong together; 0 where one of them never changes."""
    x, y = math.fsum(xs) / len(xs), math.fsum(ys) / len(ys)
    both = math.fsum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True))
    spread = math.sqrt(math.fsum((a - x) ** 2 for a in xs) * math.fsum((b - y) ** 2 for b in ys))
    return both / spread if spread else 0.0
