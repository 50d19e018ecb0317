"""Where the steps of an answer end, and one score of what a model says at each end (process reward models: Lightman et
al. 2023, "Let's verify step by step"; Wang et al. 2024, "Math-Shepherd")."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from kedge.data.encode import answer_start
from kedge.data.records import Text

Pooling = Literal["min", "mean", "product"]
"""``min``: the weakest step; ``mean``; ``product``: of the chances that each step is right."""


@dataclass(frozen=True)
class Steps:
    """How an answer falls into steps, and their outputs into one."""

    separator: str = "\n"
    pooling: Pooling = "min"

    def of(self, answer: str) -> list[int]:
        """Where each step of it ends, in characters: behind its last one, before the separator. What is empty is no
        step; an answer of nothing is one."""
        parts = answer.split(self.separator)
        starts = [0, *accumulate(len(part) + len(self.separator) for part in parts)]
        return [start + len(part) for start, part in zip(starts, parts, strict=False) if part.strip()] or [len(answer)]

    def pooled(self, outputs: Tensor) -> Tensor:
        """One number ``[]``, log-odds, of those ``[S]`` of an answer's steps."""
        if self.pooling == "min":
            return outputs.min()
        if self.pooling == "mean":
            return outputs.mean()
        log_chance = logsigmoid(outputs).sum()
        return log_chance - torch.log(-torch.expm1(log_chance.clamp(max=-1e-7)))


def places_of(
    encode: Callable[[Text], list[int]], text: Text, answer: str, ends: Sequence[int], separator: str
) -> list[int]:
    """At which token of a text each step of the answer that ends it has been read: the last one that the text up to
    there begins with too. What ends all of the text, such as an EOS, is behind the last step.

    Args:
        encode: gives a text's token ids.
        text: all of it; of messages the last one ends with the answer.
        answer: what is judged of it.
        ends: of the steps, as :meth:`Steps.of` gives them.
        separator: between steps.
    """
    whole, last = encode(text), len(answer)
    found = [encode(_ending(text, end - last) if end < last else _ending(text, None, f"{separator}x")) for end in ends]
    return [max(0, answer_start(ids, whole) - 1) for ids in found]


def answer_in(text: Text) -> str:
    """What is judged where nobody says: of a conversation the last message, of a text all of it."""
    return text if isinstance(text, str) else str(text[-1]["content"])


def _ending(text: Text, end: int | None, more: str = "") -> Text:
    """The text up to a character, and more."""
    if isinstance(text, str):
        return text[:end] + more
    *before, message = text
    return [*before, {**message, "content": message["content"][:end] + more}]
