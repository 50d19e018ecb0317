"""How long an answer is, against how long it should be."""

import math
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from kedge.errors import RewardError
from kedge.rewards.library.base import Said, Sample, TextSpec
from kedge.rewards.library.words import words_of


def near_target(length: float, target: float, tolerance: float = 0.0) -> float:
    """1 within ``tolerance`` of the target, from there in a straight line to 0, at ``target`` further away."""
    return max(0.0, 1 - max(0.0, abs(length - target) - tolerance) / target)


def soft_overlong(length: float, limit: float, buffer: float) -> float:
    """DAPO's soft overlong punishment (Yu et al. 2025, equation 13): 0 up to ``limit - buffer``, then in a straight
    line to -1 at ``limit``, and -1 beyond."""
    return min(0.0, max(-1.0, (limit - buffer - length) / buffer))


def cosine_length(length: float, limit: float, shortest: float, longest: float, beyond: float) -> float:
    """The cosine reward of "Demystifying Long Chain-of-Thought Reasoning" (Yeo et al. 2025): half a wave from
    ``shortest`` at length 0 to ``longest`` at ``limit``, and ``beyond`` from there on.

    The paper has 2, 1, -10 for right answers and -10, 0, -10 for wrong ones.
    """
    if length >= limit:
        return beyond
    return longest + (shortest - longest) * (1 + math.cos(math.pi * length / limit)) / 2


class Length(TextSpec):
    """How long an answer is: near a target, soft overlong punishment, or half a cosine.

    ``target``: 1 within the tolerance, falling to 0 (0..1). ``overlong``: DAPO's soft overlong punishment (Yu et al.
    2025; -1..0). ``cosine``: from ``shortest`` to ``longest`` (Yeo et al. 2025), which speaks of right and of wrong
    answers in two rewards.
    """

    KIND: ClassVar[str] = "length"
    RANGE: ClassVar[str] = "0..1; overlong -1..0; cosine as set"

    shape: Literal["target", "overlong", "cosine"]
    """``target``: near a length; ``overlong``: punished near the limit (DAPO); ``cosine``: from short to long."""
    unit: Literal["tokens", "words", "characters"] = "tokens"
    """What is counted; the EOS is a token. In scripts without spaces a character is a word."""
    target: float | None = Field(None, gt=0)
    """The length to be near."""
    tolerance: float = Field(0.0, ge=0)
    """So much more or less is as good."""
    limit: float | None = Field(None, gt=0)
    """The longest that is right; ``response_length`` is usual."""
    buffer: float | None = Field(None, gt=0)
    """The punishment begins so much before the limit; DAPO has 4,096 of 20,480."""
    shortest: float = 1.0
    """Score at length 0."""
    longest: float = 0.0
    """Score at the limit."""
    beyond: float = 0.0
    """Score from the limit on."""

    USED_WHEN: ClassVar = {
        "target": ("shape", ("target",)),
        "tolerance": ("shape", ("target",)),
        "limit": ("shape", ("overlong", "cosine")),
        "buffer": ("shape", ("overlong",)),
        "shortest": ("shape", ("cosine",)),
        "longest": ("shape", ("cosine",)),
        "beyond": ("shape", ("cosine",)),
    }

    @model_validator(mode="after")
    def _has_its_lengths(self) -> Self:
        needs = {"target": ("target",), "overlong": ("limit", "buffer"), "cosine": ("limit",)}[self.shape]
        for key in needs:
            if getattr(self, key) is None:
                raise ValueError(f"{key}: missing; shape={self.shape!r} needs it, in {self.unit}")
        if self.shape == "overlong" and (self.buffer or 0) > (self.limit or 0):
            raise ValueError(f"buffer: {self.buffer:g} is more than limit={self.limit:g}; it lies before the limit")
        return self

    def one(self, sample: Sample) -> Said:
        length = self._length(sample)
        if self.shape == "target":
            return Said(near_target(length, self.target or 0, self.tolerance))
        if self.shape == "overlong":
            return Said(soft_overlong(length, self.limit or 0, self.buffer or 0))
        return Said(cosine_length(length, self.limit or 0, self.shortest, self.longest, self.beyond))

    def _length(self, sample: Sample) -> int:
        if self.unit == "tokens":
            if sample.tokens is None:
                raise RewardError(
                    f"{sample.where}: length counts tokens, and this answer has none; set unit to words or characters, "
                    "or give completion_ids"
                )
            return sample.tokens
        return len(words_of(sample.text)) if self.unit == "words" else len(sample.text.strip())
