"""What a check found, and the examined that it looks at."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from kedge.data.records import Preference
from kedge.errors import NotFiniteError
from kedge.models.reward_model import RewardModel
from kedge.runs.folder import Metrics
from kedge.training.optimization import precision, schedule, set_learning_rate
from kedge.training.ppo import PPO
from kedge.training.ppo.experience import Experience
from kedge.training.ppo.trust_region import TrustRegion

Status = Literal["pass", "warn", "fail", "skip"]


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's table."""

    check: str
    status: Status
    found: str
    remedy: str = ""

    def as_dict(self) -> dict[str, str]:
        """For JSON."""
        return asdict(self)


class NoAnswersError(Exception):
    """What a check looks at is not there, and an earlier check has said why."""


@dataclass(frozen=True)
class Pairs:
    """Preferences of the recipe's reward table; empty where it has none."""

    preferences: Sequence[Preference] = ()
    kind: str = "pairs"
    """What to call them: whether the reward model was trained on them."""


@dataclass
class Examined:
    """A run before its first step. What several checks need is made once, when the first of them asks."""

    ppo: PPO
    pairs: Pairs = Pairs()
    _experience: Experience | None = field(default=None, init=False)
    _tried: bool = field(default=False, init=False)

    @property
    def experience(self) -> Experience:
        """A first step's answers, scored. Nothing is trained by that.

        Raises:
            NoAnswersError: they could not be made or scored before.
        """
        if self._experience is None:
            if self._tried:
                raise NoAnswersError("there are no scored answers to look at; see the failure above")
            self._tried = True
            with precision(self.ppo.config, self.ppo.policy.device):
                self._experience = self.ppo.collect()
        return self._experience

    @cached_property
    def sampled(self) -> Tensor:
        """``[B, L]`` log-probabilities of the answers by a forward pass of the policy, before any update."""
        with precision(self.ppo.config, self.ppo.policy.device):
            return self.ppo.estimate.logprobs(self.ppo.policy, self.experience.rollouts)

    @cached_property
    def first_weights(self) -> list[tuple[Tensor, Tensor]]:
        """What is trained, and what it was before any update: the reference's, where that has it, or else a copy."""
        there = dict(self.ppo.reference.model.named_parameters())
        policy = self.ppo.policy.model.named_parameters()
        pairs = [(weight, there.get(name)) for name, weight in policy if weight.requires_grad]
        pairs += [] if self.ppo.critic is None else [(weight, None) for weight in self.ppo.critic.trained()]
        return [(weight, weight.detach().clone() if first is None else first) for weight, first in pairs]

    @cached_property
    def updated(self) -> Metrics:
        """One update on those answers, at the peak learning rate. The policy is another one after that."""
        ppo, batch = self.ppo, self.experience.batch
        _ = self.sampled, self.first_weights
        set_learning_rate(ppo.optimizer, 1.0)
        with precision(ppo.config, ppo.policy.device):
            metrics = ppo.update(batch, ppo.config.critic_warmup_steps, ppo.kl_controller.coefficient)
        ppo.answers.publish(ppo.step_done)
        return metrics

    def moved_by(self, learning_rate: float) -> float:
        """How far a first update at this learning rate, held back by nothing, moves the policy: nats a token."""
        ppo, batch = self.ppo, self.experience.batch
        with torch.no_grad():
            for weight, first in self.first_weights:
                weight.copy_(first)
        ppo.optimizer.state.clear()
        beginning = schedule(ppo.config, 0, ppo.config.steps)
        set_learning_rate(ppo.optimizer, beginning * learning_rate / ppo.config.learning_rate)
        free = replace(ppo.update, region=TrustRegion(ppo.optimizer, None))
        try:
            with precision(ppo.config, ppo.policy.device):
                metrics = free(batch, ppo.config.critic_warmup_steps, ppo.kl_controller.coefficient)
        except NotFiniteError:
            return math.inf
        finally:
            ppo.answers.publish(ppo.step_done)
        return metrics["policy/update_kl"]

    @property
    def reward_models(self) -> list[RewardModel]:
        """Those that the reward has in it."""
        return self.ppo.reward.models()
