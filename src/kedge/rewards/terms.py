"""What becomes of one reward's scores on their way into the sum: clipped, ranked, weighted by a schedule, a gate."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from operator import itemgetter
from typing import Literal

from kedge.data.records import Prompt
from kedge.rewards.foreign import TrainerState


@dataclass(frozen=True)
class Terms:
    """How a component counts, besides its weight. By default as it is."""

    final_weight: float | None = None
    """Weight at the last step, to which it goes in a straight line; None: the same throughout."""
    clip: tuple[float, float] | None = None
    """Scores below and above are these."""
    normalize: Literal["rank"] | None = None
    """``rank``: of an answer among those to its prompt, from -1 to 1, in place of its score."""
    gate: float | None = None
    """What scores less gets nothing of the components that are no gates."""

    def weight(self, first: float, state: TrainerState) -> float:
        """In force at a step. Where nothing trains it is the last one."""
        if self.final_weight is None:
            return first
        done = state.global_step / max(1, state.max_steps - 1) if state.max_steps else 1.0
        return first + (self.final_weight - first) * min(1.0, done)

    def shaped(self, scores: Sequence[float], prompts: Sequence[Prompt]) -> list[float]:
        """Scores ``[N]`` as they are summed, before the weight. NaN stays."""
        shaped = list(scores)
        if self.clip is not None:
            low, high = self.clip
            shaped = [score if math.isnan(score) else min(max(score, low), high) for score in shaped]
        if self.normalize == "rank":
            places = groupby(range(len(shaped)), key=lambda i: id(prompts[i]))
            shaped = [rank for _, group in places for rank in _ranks([shaped[i] for i in group])]
        return shaped

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
