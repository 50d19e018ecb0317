"""What becomes of one reward's scores on their way into the sum: clipped, ranked, weighted by a schedule, a gate."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from operator import itemgetter
from typing import Literal

import torch

from kedge.core import RunningMoments
from kedge.data.records import Prompt
from kedge.rewards.foreign import TrainerState

Normalization = Literal["rank", "running"]
"""``rank``: an answer's rank among those to its prompt, from -1 to 1; ``running``: its score less the mean of all so
far, in their standard deviations."""


@dataclass(frozen=True)
class Terms:
    """How a component counts, besides its weight. By default as it is."""

    final_weight: float | None = None
    """Weight at the last step, to which it goes in a straight line; None: the same throughout."""
    clip: tuple[float, float] | None = None
    """Scores below and above are these."""
    normalize: Normalization | None = None
    """What is trained on in place of its scores."""
    gate: float | None = None
    """What scores less gets nothing of the components that are no gates."""

    def weight(self, first: float, state: TrainerState) -> float:
        """In force at a step. Where nothing trains it is the last one."""
        if self.final_weight is None:
            return first
        done = state.global_step / max(1, state.max_steps - 1) if state.max_steps else 1.0
        return first + (self.final_weight - first) * min(1.0, done)

    def clipped(self, scores: Sequence[float]) -> list[float]:
        """Scores ``[N]`` within the limits. NaN stays."""
        if self.clip is None:
            return list(scores)
        low, high = self.clip
        return [score if math.isnan(score) else min(max(score, low), high) for score in scores]

    def normalized(self, scores: Sequence[float], prompts: Sequence[Prompt], moments: RunningMoments) -> list[float]:
        """Scores ``[N]`` of a step as they are trained on, before the weight. NaN stays.

        Args:
            scores: clipped ones.
            prompts: to which they are; the answers to one stand together.
            moments: of all scores so far, which these become a part of.
        """
        if self.normalize == "rank":
            places = groupby(range(len(scores)), key=lambda i: id(prompts[i]))
            return [rank for _, group in places for rank in _ranks([scores[i] for i in group])]
        if self.normalize == "running":
            moments.update(torch.tensor([score for score in scores if not math.isnan(score)], dtype=torch.float64))
            return [(score - moments.mean) / moments.std for score in scores]
        return list(scores)

    def passed(self, scores: Sequence[float]) -> list[bool]:
        """``[N]`` whether the others count. What is not judged passes."""
        return [self.gate is None or not score < self.gate for score in scores]

    def said(self) -> str:
        """Of a resumed run's reward, that it is the same; nothing where all is as by default."""
        return "".join(f", {f.name} {getattr(self, f.name)}" for f in fields(self) if getattr(self, f.name) is not None)


def _ranks(scores: Sequence[float]) -> list[float]:
    """From -1 for the lowest to 1 for the highest; equal scores share the middle of their ranks, one alone has 0."""
    judged = sorted(((score, i) for i, score in enumerate(scores) if not math.isnan(score)), key=itemgetter(0))
    ranks, below, last = [math.nan] * len(scores), 0, max(1, len(judged) - 1)
    for _, group in groupby(judged, key=itemgetter(0)):
        same = [i for _, i in group]
        for i in same:
            ranks[i] = 2 * (below + (len(same) - 1) / 2) / last - 1 if len(judged) > 1 else 0.0
        below += len(same)
    return ranks
