"""An answer, as plain data: what every sampler gives, whatever wrote it. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

FinishReason = Literal["eos", "stop", "length", "cancelled"]


@dataclass(frozen=True)
class Completion:
    """One answer. What is a token wide lines up with :attr:`ids`."""

    prompt_ids: list[int]
    ids: list[int]
    """The answer's tokens as drawn, EOS included."""
    logprobs: list[float]
    """Of each, in nats, under the distribution it was drawn from."""
    text: str
    """Without special tokens, and cut before a stop string."""
    finish_reason: FinishReason
    """``eos``, ``stop`` (a stop string), ``length`` (cut off), or ``cancelled``."""
    versions: Sequence[int] = ()
    """Of the weights that drew each token; empty where nobody counts them."""
    top_logprobs: Sequence[Sequence[tuple[int, float]]] | None = None
    """At each token the likeliest ones, ``(id, nats)``, the likeliest first; None where they were not asked for."""
