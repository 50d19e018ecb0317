"""Muon for what it is made for, the matrices within a network, and AdamW for all else, as one optimizer."""

from collections.abc import Callable, Collection, Iterable
from typing import Any

import torch
from torch.nn import Parameter
from torch.optim import AdamW, Muon, Optimizer


class MuonWithAdamW(Optimizer):
    """PyTorch's Muon (Jordan et al. 2024) and AdamW on one set of groups, each on its own weights.

    Args:
        params: groups of weights.
        matrices: those that Muon is for. Embeddings, heads, norms and biases are AdamW's.
        lr: of both. By default Muon's steps are as long as AdamW's (Liu et al. 2025), so that a rate means the same.
        weight_decay: of both.
        momentum: Muon's.
        nesterov: Muon's.
        ns_steps: of Newton and Schulz, Muon's.
        adjust_lr_fn: Muon's: ``match_rms_adamw`` or ``original``.
        betas: AdamW's.
        eps: AdamW's.
    """

    def __init__(
        self,
        params: Iterable[Any],
        matrices: Collection[Parameter] = (),
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 5,
        adjust_lr_fn: str = "match_rms_adamw",
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-5,
    ) -> None:
        self._matrices = {id(weight) for weight in matrices}
        some = [Parameter(torch.zeros(1, 1))]  # an optimizer is never without weights; these are not kept
        muon = Muon(some, momentum=momentum, nesterov=nesterov, ns_steps=ns_steps, adjust_lr_fn=adjust_lr_fn)
        self._parts: tuple[Optimizer, Optimizer] = (muon, AdamW(some, betas=betas, eps=eps))
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """A step of both."""
        for part, is_muons in zip(self._parts, (True, False), strict=True):
            part.state = self.state
            part.param_groups = [
                part.defaults
                | group
                | {"params": [w for w in group["params"] if (id(w) in self._matrices) is is_muons]}
                for group in self.param_groups
            ]
            part.step()
