"""KL divergence between policy and reference, estimated at the sampled tokens, and its controllers.

Estimators after Schulman, "Approximating KL Divergence" (2020), for tokens drawn from the policy:

- ``k1 = logp - ref``: unbiased, and the one to subtract from a reward;
- ``k2 = k1**2 / 2``: biased as a number, but its *gradient* is that of KL(policy, reference) in expectation, so it
  is the one to add to a loss;
- ``k3 = exp(-k1) - 1 + k1``: unbiased, never negative, low variance: the one to look at.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


def kl(logprobs: Tensor, ref_logprobs: Tensor, *, estimator: str = "k1") -> Tensor:
    """KL(policy, reference) at each sampled token, in nats.

    Args:
        logprobs: ``[..., L]`` log-probabilities of the tokens under the policy that sampled them.
        ref_logprobs: ``[..., L]`` the same tokens under the reference.
        estimator: ``"k1"``, ``"k2"`` or ``"k3"`` (see the module).

    Returns:
        ``[..., L]``. The KL of a sequence is the *sum* over its tokens.

    Raises:
        ValueError: unknown estimator.
    """
    k1 = logprobs - ref_logprobs
    if estimator == "k1":
        return k1
    if estimator == "k2":
        return k1.square() / 2
    if estimator == "k3":
        return torch.expm1(-k1) + k1
    raise ValueError(f"estimator must be 'k1', 'k2' or 'k3', not {estimator!r}")


@dataclass
class FixedKL:
    """A KL coefficient that stays where it is."""

    coefficient: float

    def update(self, kl: float, episodes: int) -> None:
        """Does nothing: the interface of :class:`AdaptiveKL`."""


class AdaptiveKL:
    """A KL coefficient that steers the sequence KL to a target (Ziegler et al. 2019, section 2.2).

    A proportional controller in log space: the relative error is clipped to 20%.

    Args:
        coefficient: where it starts.
        target: the sequence KL to hold, in nats.
        horizon: in episodes; after so many at full error the coefficient has changed by about 20%.
    """

    def __init__(self, coefficient: float, *, target: float, horizon: float) -> None:
        self.coefficient = coefficient
        self.target = target
        self.horizon = horizon

    def update(self, kl: float, episodes: int) -> None:
        """Move the coefficient after ``episodes`` sequences whose mean sequence KL was ``kl`` nats."""
        error = min(max(kl / self.target - 1.0, -0.2), 0.2)
        self.coefficient *= 1.0 + error * episodes / self.horizon
