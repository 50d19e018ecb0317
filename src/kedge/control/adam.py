"""Adam as one call."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim.adam import adam


class Adam:
    """Adam (Kingma & Ba 2015) with eps 1e-5, by torch's functional form: on few weights half the time of its class.

    Args:
        weights: what it moves, in place.
    """

    def __init__(self, weights: Sequence[Tensor]) -> None:
        self.weights = list(weights)
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
        parts = {"means": self.means, "squares": self.squares, "steps": self.steps}
        return {f"{name}.{i}": x for name, part in parts.items() for i, x in enumerate(part)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Become what was saved."""
        for name, x in self.state_dict().items():
            x.copy_(state[name])
