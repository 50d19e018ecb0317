"""Adam as one call."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.optim.adam import adam

Named = Callable[[Sequence[Tensor]], Mapping[str, Tensor]]


def by_place(tensors: Sequence[Tensor]) -> dict[str, Tensor]:
    """Each under its number."""
    return {str(i): x for i, x in enumerate(tensors)}


class Adam:
    """Adam (Kingma & Ba 2015) with eps 1e-5, by torch's functional form: on few weights half the time of its class.

    Args:
        weights: what it moves, in place.
        named: parts of tensors that are shaped like the weights, as views, under names that do not depend on how the
            weights lie: what is saved is read on another device, where they lie otherwise. Default: their places.
    """

    def __init__(self, weights: Sequence[Tensor], named: Named | None = None) -> None:
        self.weights, self.named = list(weights), named or by_place
        self.means, self.squares = ([torch.zeros_like(w).detach() for w in weights] for _ in range(2))
        self.steps = [torch.zeros((), dtype=torch.float32, device=w.device) for w in weights]

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor], learning_rate: float) -> None:
        """Move the weights against the gradients."""
        adam(
            self.weights, list(gradients), self.means, self.squares, [], self.steps,
            fused=self.weights[0].device.type in ("cpu", "cuda"), amsgrad=False, maximize=False,
            beta1=0.9, beta2=0.999, lr=learning_rate, weight_decay=0.0, eps=1e-5,
        )  # fmt: skip

    def state_dict(self) -> dict[str, Tensor]:
        """What is saved with the agent, so that it can go on learning."""
        return {"steps": self.steps[0], **self._moments(self.named)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Become what was saved."""
        # Up to November 2026 by place, which is the same thing on the same device.
        moments = self._moments(by_place if "means.0" in state else self.named)
        for name, x in moments.items():
            x.copy_(state[name])
        for steps in self.steps:
            steps.copy_(state["steps.0" if "steps.0" in state else "steps"])

    def _moments(self, named: Named) -> dict[str, Tensor]:
        parts = {"means": self.means, "squares": self.squares}
        return {f"{part}.{name}": x for part, tensors in parts.items() for name, x in named(tensors).items()}
