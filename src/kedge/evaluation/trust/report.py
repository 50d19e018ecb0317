"""The numbers of a trust report, from a function that scores and pairs that it was not trained on."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any

from kedge.data.records import Preference, Text, plain
from kedge.evaluation.metrics import wilson_interval
from kedge.evaluation.trust.baselines import bag_of_words_accuracy, length_accuracy
from kedge.evaluation.trust.calibration import (
    Bin,
    calibration_error,
    correlation,
    fitted_temperature,
    log_loss,
    reliability,
    right,
)
from kedge.evaluation.trust.perturbations import PERTURBATIONS, perturbed

Score = Callable[[Sequence[Text]], list[float]]

WORST = 10
PERTURBED = 500
"""Pairs that are changed and scored again, at most."""


@dataclass(frozen=True)
class Error:
    """A pair that the model gets wrong."""

    origin: str
    margin: float
    chosen: str
    rejected: str


@dataclass(frozen=True)
class TrustReport:
    """What is known of a reward model from ``pairs`` held-out pairs."""

    pairs: int
    accuracy: float
    """A tie is half right."""
    low: float
    """Lower end of its 95% interval (Wilson 1927)."""
    high: float
    swapped: float
    """Accuracy with chosen and rejected changed about: 1 - accuracy, or the score depends on more than the text."""
    baselines: dict[str, float]
    """Accuracy on the same pairs of what knows nothing of language."""
    log_loss: float
    """Nats a pair; a coin has 0.693."""
    calibration_error: float
    """Mean gap between how sure it is and how often it is right."""
    temperature: float
    """By which margins have to be divided to be chances; infinite where they say less than a coin."""
    calibration_error_fitted: float
    """The same gap with margins so divided."""
    reliability: list[Bin]
    margin: float
    """Mean score of the chosen less the rejected."""
    margin_spread: float
    length_correlation: float
    """Of a text's score with its characters."""
    agreement: dict[str, float]
    """Share of pairs of which the same side scores higher after a small change of both texts."""
    chosen: list[float]
    """Scores."""
    rejected: list[float]
    worst: list[Error]
    """The pairs that it is surest and wrong about."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values; what is infinite as None, which JSON has."""
        found = asdict(self)
        return found | {"temperature": None if math.isinf(self.temperature) else self.temperature}


def trust_report(
    score: Score, held: Sequence[Preference], train: Sequence[Preference] = (), *, seed: int = 0
) -> TrustReport:
    """Measure a reward model.

    Args:
        score: gives a text's or conversation's score; higher is better.
        held: pairs that it was not trained on.
        train: those that it was trained on, for the baselines; none: without them.
        seed: of the baseline's training.

    Raises:
        ValueError: no pairs.
    """
    if not held:
        raise ValueError("a trust report needs held-out pairs")
    chosen, rejected = score([pair.chosen for pair in held]), score([pair.rejected for pair in held])
    margins = [a - b for a, b in zip(chosen, rejected, strict=True)]
    again, there = score([pair.rejected for pair in held]), score([pair.chosen for pair in held])
    hits = sum(map(right, margins))
    low, high = wilson_interval(hits, len(held))
    temperature = fitted_temperature(margins)
    texts = [plain(text) for side in ("chosen", "rejected") for text in (getattr(pair, side) for pair in held)]
    wrong = sorted((i for i in range(len(held)) if margins[i] < 0), key=lambda i: margins[i])[:WORST]
    return TrustReport(
        pairs=len(held),
        accuracy=hits / len(held),
        low=low,
        high=high,
        swapped=sum(right(a - b) for a, b in zip(again, there, strict=True)) / len(held),
        baselines=_baselines(train, held, seed) if train else {},
        log_loss=log_loss(margins),
        calibration_error=calibration_error(margins),
        temperature=temperature,
        calibration_error_fitted=calibration_error([margin / temperature for margin in margins]),
        reliability=reliability(margins),
        margin=statistics.fmean(margins),
        margin_spread=statistics.pstdev(margins),
        length_correlation=correlation([*chosen, *rejected], [len(text) for text in texts]),
        agreement=_agreement(score, held[:PERTURBED], margins[:PERTURBED]),
        chosen=chosen,
        rejected=rejected,
        worst=[Error(held[i].origin, margins[i], plain(held[i].chosen), plain(held[i].rejected)) for i in wrong],
    )


def _baselines(train: Sequence[Preference], held: Sequence[Preference], seed: int) -> dict[str, float]:
    found = {"length": length_accuracy(train, held)}
    if len(train) > 1 and find_spec("sklearn") is not None:  # one pair has nothing to be told from
        found["TF-IDF"] = bag_of_words_accuracy(train, held, seed=seed)
    return found


def _agreement(score: Score, pairs: Sequence[Preference], margins: Sequence[float]) -> dict[str, float]:
    found = {}
    for name, change in PERTURBATIONS.items():
        sides = [[perturbed(getattr(pair, side), change) for pair in pairs] for side in ("chosen", "rejected")]
        changed = [a - b for a, b in zip(*map(score, sides), strict=True)]
        same = sum(right(new) == right(old) for new, old in zip(changed, margins, strict=True))
        found[name] = same / len(pairs)
    return found
