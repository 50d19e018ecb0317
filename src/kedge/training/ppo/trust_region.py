"""How far one update may move the policy. A step that went too far is taken again with a lower learning rate.

Adam's first steps are the learning rate times a sign, whatever the gradient: with a rate a little too high they throw a
policy further than all that follows can bring back. So the KL from the policy that sampled is watched where it is free,
at the next minibatch, and measured on answers of the whole step where that one is too far or too small to tell, and
after the last. Beyond ``target_kl`` the step before is shortened until it is within, the update ends there, and the
policy's learning rate stays lower; it rises again, to the recipe's at most, while updates stay well within. (A line
search on the KL, as TRPO has: Schulman et al. 2015, appendix C; a learning rate steered by the KL, as in Rudin et al.
2022.)
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.optim import Optimizer

from kedge.training.optimization import can_be_read_off, retake_step

# Answers on which an update is measured. The KL of a minibatch with fewer is too noisy to go by: every so many answers
# it is measured in any case, and sooner, but not at every minibatch, where one finds it too large.
MEASURED, SOONER = 32, 8

# Near the old policy the KL grows with the square of a step's length. A step is shortened by a little more than that
# asks for, and by so much at least and at most at a time; after so many times it is taken back whole.
MARGIN, SHORTENED, TRIES = 0.9, (0.1, 0.7), 6

# The learning rate rises by this factor where an update stayed within this share of the target.
RISE, WELL_WITHIN = 1.5, 0.5


@dataclass
class TrustRegion:
    """Holds updates of the policy within a KL.

    Args:
        optimizer: its first group holds the policy's weights.
        target: nats a token, a mean over the answers' tokens; None: updates go as far as they go.
    """

    optimizer: Optimizer
    target: float | None
    scale: float = 1.0
    """Factor on the policy's learning rate, at most 1."""
    retaken: Callable[[], object] = lambda: None
    """Is called where a step was taken again: what else was done after it is to be done once more."""

    _since: float = field(default=math.inf, init=False)
    """Answers trained on since the KL was last measured."""
    _before: list[Tensor] = field(default_factory=list, init=False)
    """The policy's weights before the last step, where that cannot be read off the optimizer."""

    def begin(self) -> float:
        """Before an update, whose learning rate has been set. Returns the policy's for its steps."""
        self._since = math.inf
        if self.target is not None:
            self._policy["lr"] *= self.scale
        return float(self._policy["lr"])

    @torch.no_grad()
    def remember(self) -> None:
        """Before each step: what it takes to take it again."""
        if self.target is not None and not can_be_read_off(self.optimizer):
            self._before = [weight.clone() for weight in self._policy["params"]]

    def is_left(self, divergence: float, answers: int, measure: Callable[[], float]) -> bool:
        """Whether the policy is too far from the one that sampled; to be asked before each minibatch is trained on.

        Args:
            divergence: the minibatch's own KL, nats a token.
            answers: how many it has.
            measure: gives the KL over answers of the whole step.
        """
        if self.target is None:
            return False
        is_due = self._since >= MEASURED > answers
        is_left = False
        if is_due or (self._since >= SOONER and not divergence <= self.target):
            is_left = not measure() <= self.target
            self._since = 0
        self._since += answers
        return is_left

    def end(self, measure: Callable[[], float]) -> float:
        """After an update's last step: shorten it where it went too far. Returns the KL that the update ends with."""
        divergence = measure()
        if self.target is None:
            return divergence
        if divergence <= WELL_WITHIN * self.target:
            self.scale = min(1.0, RISE * self.scale)
        elif not divergence <= self.target:
            self.scale *= self._root(divergence, SHORTENED[0], 1.0)
        for tried in range(TRIES + 1):
            if divergence <= self.target:
                break
            factor = MARGIN * self._root(divergence, *SHORTENED) if tried < TRIES else 0.0
            self._retake(factor)
            self.retaken()
            divergence = measure()
        self._before = []
        return divergence

    @torch.no_grad()
    def _retake(self, factor: float) -> None:
        """Take the last step again, with so much of its learning rate."""
        if can_be_read_off(self.optimizer):
            retake_step(self._policy, self.optimizer, factor)
            return
        for weight, before in zip(self._policy["params"], self._before, strict=True):
            # What has run over is no number, and 0 times that is none either.
            weight.copy_(before if factor == 0 else before + (weight - before) * factor)
        self._policy["lr"] *= factor
        torch.clear_autocast_cache()

    def _root(self, divergence: float, low: float, high: float) -> float:
        """By how much shorter the update should have been."""
        assert self.target is not None
        return min(max(math.sqrt(self.target / divergence), low), high) if math.isfinite(divergence) else low

    @property
    def _policy(self) -> dict:
        group: dict = self.optimizer.param_groups[0]
        return group
