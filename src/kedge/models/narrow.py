"""The linear layers' weights in autocast's precision, for passes without gradients that follow each other.

Autocast casts a weight wherever it meets it. Within a forward pass for training it keeps the copy; a recorded step may
not (the copy would be gone, or stale, at the next replay) and casts every weight at every token: four bytes read and
two written where two read would do. So the copies are kept here, in one place, and filled anew when the weights are.
What they give is what autocast gives, to the bit.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

LINEAR = (nn.Linear, Conv1D)
"""Layers that do nothing with their weights but multiply; a subclass may."""


class NarrowWeights:
    """Low-precision copies of a model's linear layers; none until :meth:`refresh` is told of a precision."""

    def __init__(self, model: nn.Module) -> None:
        self._layers = [module for module in model.modules() if type(module) in LINEAR]
        self._dtype: torch.dtype | None = None
        self._copies: list[dict[str, Tensor]] = []

    @property
    def tensors(self) -> list[Tensor]:
        """The copies."""
        return [copy for copies in self._copies for copy in copies.values()]

    @torch.no_grad()
    def refresh(self, dtype: torch.dtype | None) -> None:
        """Copy the weights as they are now; to the same memory, unless the precision is another one (None: none)."""
        if dtype != self._dtype:
            self._dtype = dtype
            self._copies = [] if dtype is None else [_copies(layer, dtype) for layer in self._layers]
            return
        for layer, copies in zip(self._layers, self._copies, strict=bool(self._copies)):
            for name, copy in copies.items():
                copy.copy_(getattr(layer, name))

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Inside, the layers multiply by the copies. What else reads the same weights (tied embeddings) does not."""
        used = list(zip(self._layers, self._copies, strict=bool(self._copies)))
        for layer, copies in used:
            vars(layer).update(copies)  # found before the parameters, which stay where they are
        try:
            yield
        finally:
            for layer, copies in used:
                for name in copies:
                    del vars(layer)[name]


def _copies(layer: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    own = layer.named_parameters(recurse=False)
    return {name: weight.to(dtype) for name, weight in own if weight.dtype == torch.float32}
