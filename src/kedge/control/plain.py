"""PPO for those who bring their own networks and their own data: nothing but the update."""

import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Normal

from kedge.core import gae, policy_loss, value_loss, whiten


class PlainPPO:
    """The update of PPO on transitions.

    Args:
        policy_net: observations ``[N, ...]`` -> logits ``[N, A]``, or a ``torch.distributions`` distribution, or (for
            continuous actions) a pair ``(mean, standard deviation)``.
        value_net: observations -> values, ``[N]`` or ``[N, 1]``.
        lr_policy: Adam's learning rate for the policy.
        lr_value: the same for the value network.
        gamma: discount a step.
        ppo_epochs: passes over the data.
        eps_clip: how far the ratio counts from 1.
        lam: λ of GAE.
        ent_coef: weight of the entropy bonus.
    """

    def __init__(
        self, policy_net: nn.Module, value_net: nn.Module, lr_policy: float = 3e-4, lr_value: float = 1e-3,
        gamma: float = 0.99, ppo_epochs: int = 10, eps_clip: float = 0.2, *, lam: float = 0.95, ent_coef: float = 0.0,
    ) -> None:  # fmt: skip
        self.policy_net, self.value_net = policy_net, value_net
        self.gamma, self.lam, self.ppo_epochs, self.eps_clip, self.ent_coef = gamma, lam, ppo_epochs, eps_clip, ent_coef
        self.policy_optimizer = torch.optim.Adam(policy_net.parameters(), lr=lr_policy, eps=1e-5)
        self.value_optimizer = torch.optim.Adam(value_net.parameters(), lr=lr_value, eps=1e-5)

    @torch.no_grad()
    def act(self, state: Any) -> Any:
        """An action for one state."""
        return self._distribution(_tensor(state)[None]).sample()[0].numpy()

    def update(self, states: Any, actions: Any, rewards: Any, next_states: Any, dones: Any) -> dict[str, float]:
        """Train on N transitions in the order they happened, episodes one after another.

        Args:
            dones: ``[N]`` True where the episode ended after the step, so that nothing follows. Where the data stop in
                the midst of an episode, its value goes on from ``next_states``.

        Raises:
            ValueError: rewards or ends that are not finite, or not one for each state; or actions of another shape.

        Returns:
            Means over the passes: ``policy_loss``, ``value_loss``, ``entropy``, ``approx_kl``, ``clip_fraction``.
        """
        states, next_states, actions = _tensor(states), _tensor(next_states), torch.as_tensor(actions)
        rewards = _column("rewards", rewards, len(states))
        carry = 1.0 - _column("dones", dones, len(states))
        with torch.no_grad():
            old_logprobs = self._logprobs(states, actions)[0]
            values, after = self._values(states), self._values(next_states) * carry
            advantages, returns = gae(rewards, values, after, carry, gamma=self.gamma, lam=self.lam)
            advantages = whiten(advantages, None)
        seen = []
        for _ in range(self.ppo_epochs):
            logprobs, entropy = self._logprobs(states, actions)
            surrogate, metrics = policy_loss(
                logprobs, old_logprobs, advantages, None, clip=(self.eps_clip, self.eps_clip)
            )
            _step(self.policy_optimizer, surrogate - self.ent_coef * entropy.mean())
            error = value_loss(self._values(states), values, returns, None)
            _step(self.value_optimizer, error)
            parts = [surrogate, error, entropy.mean(), metrics["approxkl"], metrics["clipfrac"]]
            seen.append(torch.stack([part.detach() for part in parts]))
        names = ("policy_loss", "value_loss", "entropy", "approx_kl", "clip_fraction")
        return dict(zip(names, torch.stack(seen).mean(0).tolist(), strict=True))

    def _values(self, states: Tensor) -> Tensor:
        values: Tensor = self.value_net(states)
        return values.reshape(len(states))

    def _logprobs(self, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        distribution = self._distribution(states)
        shape = (*distribution.batch_shape, *distribution.event_shape)
        if actions.numel() != math.prod(shape):
            raise ValueError(f"actions: {list(actions.shape)}, but the policy chooses {list(shape)}")
        logprobs, entropy = distribution.log_prob(actions.reshape(shape)), distribution.entropy()
        return logprobs.reshape(len(states), -1).sum(-1), entropy.reshape(len(states), -1).sum(-1)

    def _distribution(self, states: Tensor) -> Distribution:
        out = self.policy_net(states)
        if isinstance(out, Distribution):
            return out
        return Normal(*out) if isinstance(out, Sequence) else Categorical(logits=out)


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _column(name: str, x: Any, n: int) -> Tensor:
    """``[N]``, whether it came as that or as ``[N, 1]``."""
    column = _tensor(x)
    if column.numel() != n:
        raise ValueError(f"{name}: {list(column.shape)}, but there are {n} states")
    if not column.isfinite().all():
        raise ValueError(f"{name}: not all of them are finite")
    return column.reshape(n)


def _tensor(x: Any) -> Tensor:
    return torch.as_tensor(x, dtype=torch.float32)


def __getattr__(name: str) -> type[PlainPPO]:
    if name == "PPO":
        warnings.warn("kedge.control.plain.PPO is called PlainPPO now", DeprecationWarning, stacklevel=2)
        return PlainPPO
    raise AttributeError(f"module 'kedge.control.plain' has no attribute {name!r}")
