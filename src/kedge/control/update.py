"""The update: epochs of minibatches, each one gradient step on the losses of :mod:`kedge.core`."""

import math
from collections.abc import Iterator
from dataclasses import fields

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from kedge.control.config import ControlConfig
from kedge.control.distributions import Distribution
from kedge.control.networks import ActorCritic
from kedge.control.rollout import Rollout
from kedge.core import policy_loss, value_loss, whiten
from kedge.errors import NotFiniteError

Metrics = dict[str, float]


class Update:
    """Trains the network on rollouts."""

    def __init__(self, network: ActorCritic, distribution: Distribution, config: ControlConfig) -> None:
        self.network, self.distribution, self.config = network, distribution, config
        self.parameters = list(network.parameters())
        self.optimizer = torch.optim.Adam(
            self.parameters, lr=config.learning_rate, eps=1e-5, fused=config.device != "mps"
        )
        self.generator = torch.Generator().manual_seed(config.seed)

    def __call__(self, rollout: Rollout, left: float) -> Metrics:
        """Train on a rollout.

        Args:
            left: share of the training that is still to come, for what is annealed.

        Raises:
            NotFiniteError: a loss or a gradient is not finite; the weights are as before that minibatch.
        """
        config, seen = self.config, []
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * (left if config.learning_rate_schedule == "linear" else 1.0)
        clip = config.clip_range * (left if config.clip_range_schedule == "linear" else 1.0)
        for minibatch in self._minibatches(rollout):
            loss, metrics = self.loss(minibatch, clip)
            if config.target_kl is not None and metrics["approx_kl"] > self._kl_limit:
                break
            self._apply(loss)
            seen.append(metrics)
        averages = {name: float(torch.stack([m[name] for m in seen]).mean()) for name in (seen[0] if seen else ())}
        return averages | {"updates": float(len(seen)), "explained_variance": _explained(rollout)}

    def loss(self, minibatch: Rollout, clip: float) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of some of a rollout's steps, and its parts."""
        config, mask = self.config, minibatch.mask
        outputs, _ = self.network.outputs(minibatch.observations, minibatch.starts, minibatch.memories[0])
        values, _ = self.network.values(minibatch.observations, minibatch.starts, minibatch.memories[1])
        logprobs, entropies = self.distribution.evaluate(outputs, self.network.log_std, minibatch.actions)
        advantages = (
            self._normalized(minibatch.advantages, mask) if config.normalize_advantage else minibatch.advantages
        )
        surrogate, metrics = policy_loss(logprobs, minibatch.logprobs, advantages, mask, clip=(clip, clip))
        error = self._value_loss(values, minibatch)
        entropy = entropies[mask].mean()
        loss = surrogate + config.vf_coef * error - config.ent_coef * entropy
        parts = {"loss": loss, "policy_loss": surrogate, "value_loss": error, "entropy": entropy}
        parts |= {"approx_kl": metrics["approxkl"], "clip_fraction": metrics["clipfrac"]}
        return loss, {name: value.detach() for name, value in parts.items()}

    def _minibatches(self, rollout: Rollout) -> Iterator[Rollout]:
        """``[1, M, ...]`` steps each; with an LSTM ``[T, M, ...]``, whole sequences with what was remembered before."""
        names = [field.name for field in fields(Rollout) if field.name != "memories"]
        columns = {name: getattr(rollout, name) for name in names}
        steps, n = rollout.mask.shape
        if self.config.policy == "lstm":
            size = max(1, self.config.batch_size // steps)
            for rows in self._orders(n, size):
                memories = tuple(None if m is None else (m[0][:, rows], m[1][:, rows]) for m in rollout.memories)
                yield Rollout(**{k: x[:, rows] for k, x in columns.items()}, memories=memories)  # type: ignore[arg-type]
            return
        flat = {name: x.flatten(0, 1)[rollout.mask.flatten()] for name, x in columns.items()}
        for rows in self._orders(len(flat["mask"]), self.config.batch_size):
            yield Rollout(**{name: x[rows][None] for name, x in flat.items()}, memories=(None, None))

    def _orders(self, n: int, size: int) -> Iterator[Tensor]:
        for _ in range(self.config.n_epochs):
            yield from torch.randperm(n, generator=self.generator).split(size)

    def _normalized(self, advantages: Tensor, mask: Tensor) -> Tensor:
        if self.config.conventions == "kedge":
            return whiten(advantages, mask)
        some = advantages[mask]
        return (advantages - some.mean()) / (some.std() + 1e-8) if len(some) > 1 else advantages

    def _value_loss(self, values: Tensor, minibatch: Rollout) -> Tensor:
        clip = self.config.clip_range_vf
        if self.config.conventions == "kedge":
            return value_loss(values, minibatch.values, minibatch.returns, minibatch.mask, clip=clip)
        if clip is not None:
            values = minibatch.values + (values - minibatch.values).clamp(-clip, clip)
        return mse_loss(values[minibatch.mask], minibatch.returns[minibatch.mask])

    @property
    def _kl_limit(self) -> float:
        assert self.config.target_kl is not None
        return self.config.target_kl * (1.5 if self.config.conventions == "sb3" else 1.0)

    def _apply(self, loss: Tensor) -> None:
        self.optimizer.zero_grad()
        loss.backward()
        limit = math.inf if self.config.max_grad_norm is None else self.config.max_grad_norm
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, limit)
        if not norm.isfinite():
            raise NotFiniteError(f"the gradient's norm is {norm.item()}: lower learning_rate, or set normalize_rewards")
        self.optimizer.step()


def _explained(rollout: Rollout) -> float:
    """1 - Var(returns - values) / Var(returns)."""
    values, returns = rollout.values[rollout.mask], rollout.returns[rollout.mask]
    spread = float(returns.var())
    return 1.0 - float((returns - values).var()) / spread if spread > 0 else 0.0
