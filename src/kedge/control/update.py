"""The update: epochs of minibatches, each one gradient step on the losses of :mod:`kedge.core`."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from kedge.control.adam import Adam
from kedge.control.config import ControlConfig
from kedge.control.distributions import Distribution
from kedge.control.networks import ActorCritic
from kedge.control.rollout import Steps
from kedge.core import masked_mean, policy_loss, value_loss, whiten
from kedge.errors import NotFiniteError
from kedge.runs.folder import Metrics

Parts = dict[str, Tensor]


class AgentUpdate:
    """Trains the network on rollouts."""

    def __init__(self, network: ActorCritic, distribution: Distribution, config: ControlConfig) -> None:
        self.network, self.distribution, self.config = network, distribution, config
        self.leaves = network.leaves()
        self.optimizer = Adam(self.leaves, network.by_name)
        self.generator = torch.Generator().manual_seed(config.seed)

    def __call__(self, rollout: Steps, left: float) -> Metrics:
        """Train on a rollout.

        Args:
            left: share of the training that is still to come, for what is annealed.

        Raises:
            NotFiniteError: a loss or a gradient is not finite; the weights are as before that minibatch.
        """
        if rollout.mask is not None and not rollout.mask.any():  # all of it only reset
            return {"updates": 0.0}
        learning_rate, clip = self._annealed(left)
        seen = []
        for minibatch in self._minibatches(rollout):
            loss, parts = self.loss(minibatch, clip)
            if self.config.target_kl is not None and parts["approx_kl"] > self._kl_limit:
                break
            self._apply(loss, learning_rate)
            seen.append(parts)
        averages = {name: float(torch.stack([parts[name] for parts in seen]).mean()) for name in (seen or [{}])[0]}
        return averages | self._after(rollout, clip) | {"updates": float(len(seen))}

    def loss(self, steps: Steps, clip: float) -> tuple[Tensor, Parts]:
        """The loss of some steps, and its parts."""
        config, mask = self.config, steps.mask
        outputs, values = self.network.both(steps.observations, steps.starts, steps.memories)
        logprobs = self.distribution.logprobs(outputs, self.network.log_std, steps.actions)
        advantages = self._normalized(steps.advantages, mask) if config.normalize_advantage else steps.advantages
        surrogate, metrics = policy_loss(
            logprobs, steps.logprobs, advantages, mask, clip=(clip, clip), metrics=config.target_kl is not None
        )
        error = self._value_loss(values, steps)
        loss = surrogate + config.vf_coef * error
        if config.ent_coef:
            entropies = self.distribution.entropies(outputs, self.network.log_std)
            loss = loss - config.ent_coef * masked_mean(entropies, mask)
        parts = {"policy_loss": surrogate.detach(), "value_loss": error.detach()}
        return loss, parts | ({"approx_kl": metrics["approxkl"]} if metrics else {})

    @torch.no_grad()
    def _after(self, rollout: Steps, clip: float) -> Metrics:
        """How far the policy has come from the one that played, and how well the values had foretold the returns."""
        outputs, _ = self.network.outputs(rollout.observations, rollout.starts, rollout.memories[0])
        logprobs = self.distribution.logprobs(outputs, self.network.log_std, rollout.actions)
        entropies = self.distribution.entropies(outputs, self.network.log_std)
        _, moved = policy_loss(logprobs, rollout.logprobs, rollout.advantages, rollout.mask, clip=(clip, clip))
        kept = ... if rollout.mask is None else rollout.mask
        spread, missed = (x[kept].var(correction=0) for x in (rollout.returns, rollout.returns - rollout.values))
        return {
            "approx_kl": float(moved["approxkl"]),
            "clip_fraction": float(moved["clipfrac"]),
            "entropy": float(masked_mean(entropies, rollout.mask)),
            "explained_variance": float(1 - missed / spread) if spread > 0 else 0.0,
        }

    def _annealed(self, left: float) -> tuple[float, float]:
        """Learning rate and clip range for this share of the training to come."""
        config = self.config
        return (
            config.learning_rate * (left if config.learning_rate_schedule == "linear" else 1.0),
            config.clip_range * (left if config.clip_range_schedule == "linear" else 1.0),
        )

    def _minibatches(self, rollout: Steps) -> Iterator[Steps]:
        """Epoch after epoch, each in an order of its own; with an LSTM whole sequences."""
        size = self.config.batch_size
        if rollout.memory is None:
            rollout = rollout.without_resets()
        else:
            size = max(1, size // len(rollout.logprobs))
        places = rollout.logprobs.shape[1]
        for _ in range(self.config.n_epochs):
            # All of it at once is the same in any order.
            yield from [rollout] if places <= size else rollout.minibatches(self._order(places), size)

    def _order(self, n: int) -> Tensor:
        return torch.randperm(n, generator=self.generator).to(self.network.log_std.device)

    def _normalized(self, advantages: Tensor, mask: Tensor | None) -> Tensor:
        if advantages.numel() == 1:  # one alone has no scale, and would be 0
            return advantages
        if self.config.conventions == "kedge":
            return whiten(advantages, mask)
        some = advantages if mask is None else advantages[mask]
        return (advantages - some.mean()) / (some.std() + 1e-8)

    def _value_loss(self, values: Tensor, steps: Steps) -> Tensor:
        clip = self.config.clip_range_vf
        if self.config.conventions == "kedge":
            return value_loss(values, steps.values, steps.returns, steps.mask, clip=clip)
        if clip is not None:
            values = steps.values + (values - steps.values).clamp(-clip, clip)
        kept = ... if steps.mask is None else steps.mask
        return mse_loss(values[kept], steps.returns[kept])

    @property
    def _kl_limit(self) -> float:
        assert self.config.target_kl is not None
        return self.config.target_kl * (1.5 if self.config.conventions == "sb3" else 1.0)

    def _apply(self, loss: Tensor, learning_rate: float) -> None:
        gradients, limit = torch.autograd.grad(loss, self.leaves), self.config.max_grad_norm
        norm = math.hypot(*(float(torch.linalg.vector_norm(gradient)) for gradient in gradients))
        if not math.isfinite(norm):
            raise NotFiniteError(f"the gradient's norm is {norm}: lower learning_rate, or set normalize_rewards")
        if limit is not None and norm > limit:
            gradients = tuple(gradient * (limit / (norm + 1e-6)) for gradient in gradients)
        self.optimizer.step(gradients, learning_rate)
