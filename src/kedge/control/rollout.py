"""Steps of experience: gathered from the environments, with advantages estimated by :func:`kedge.core.gae`."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kedge.control.config import ControlConfig
from kedge.control.distributions import Distribution
from kedge.control.environments import Environments, Step
from kedge.control.networks import ActorCritic, Memory
from kedge.control.normalization import Normalization
from kedge.control.observations import batched, flatten
from kedge.core import gae


@dataclass(frozen=True)
class Rollout:
    """T steps of N environments; each array ``[T, N, ...]``."""

    observations: Tensor
    starts: Tensor
    """bool: an episode begins here."""
    actions: Tensor
    logprobs: Tensor
    """Of the actions, when they were taken."""
    values: Tensor
    advantages: Tensor
    returns: Tensor
    mask: Tensor
    """bool: False where the step only reset an environment; never trained on."""
    memories: tuple[Memory, Memory]
    """What policy and value network remembered at the beginning."""


class Collector:
    """Plays; keeps where the environments stand from one rollout to the next."""

    def __init__(
        self,
        environments: Environments,
        network: ActorCritic,
        distribution: Distribution,
        normalization: Normalization,
        config: ControlConfig,
    ) -> None:
        self.environments, self.network, self.distribution = environments, network, distribution
        self.normalization, self.config = normalization, config
        self.generator = torch.Generator(config.device).manual_seed(config.seed)
        self.memories: tuple[Memory, Memory] = (None, None)
        self.starts = np.ones(environments.n, bool)
        self.returns = np.zeros(environments.n)
        self.lengths = np.zeros(environments.n, int)
        self.finished: list[tuple[float, int]] = []
        """``(return, length)`` of the episodes that ended since this was last emptied."""
        self._now: np.ndarray | None = None

    @torch.no_grad()
    def collect(self, steps: int) -> Rollout:
        """Play so many steps in every environment."""
        if self._now is None:
            self._now = self._seen(self.environments.reset(self.config.seed))
        played, before = Played([], [], [], [], [], [], {}), self.memories
        for t in range(steps):
            now, starts = self._tensor(self._now), self._tensor(self.starts)
            outputs, acting = self.network.outputs(now[None], starts[None], self.memories[0])
            judging = self._remember(now, starts)
            self.memories = acting, judging
            actions = self.distribution.sample(outputs[0], self.network.log_std, self.generator)
            step = self.environments.step(self.distribution.for_environment(actions.cpu().numpy()))
            for i, last in step.last_observations.items():
                played.cut_off[t, i] = self._value_after(last, i)
            played.add(now, starts, actions, self._earned(step), step)
            self._now, self.starts = self._seen(step.observations), step.terminated | step.truncated
        return self._estimated(played, before)

    def _remember(self, now: Tensor, starts: Tensor) -> Memory:
        """What the value network remembers after this observation; values themselves are had all at once later."""
        if self.config.policy == "feedforward":
            return None
        return self.network.values(now[None], starts[None], self.memories[1])[1]

    def _value_after(self, last: Any, i: int) -> Tensor:
        """V of the observation that environment i was cut off at."""
        space = self.environments.observation_space
        row = self._tensor(self._scaled(flatten(space, batched(space, [last]), 1), learn=False))
        memory = self.memories[1]
        mine = None if memory is None else (memory[0][:, i : i + 1], memory[1][:, i : i + 1])
        return self.network.values(row[None], torch.zeros(1, 1, dtype=torch.bool, device=row.device), mine)[0][0, 0]

    def _earned(self, step: Step) -> np.ndarray:
        """The step's rewards as they are trained on; episodes that ended are noted as they were."""
        ended = step.terminated | step.truncated
        self.returns += np.where(step.real, step.rewards, 0.0)
        self.lengths += step.real
        for i in np.flatnonzero(ended):
            self.finished.append((float(self.returns[i]), int(self.lengths[i])))
            self.returns[i], self.lengths[i] = 0.0, 0
        return self.normalization.rewards(step.rewards, ended, step.real)

    def _estimated(self, played: "Played", before: tuple[Memory, Memory]) -> Rollout:
        observations, starts, actions = (torch.stack(x) for x in (played.observations, played.starts, played.actions))
        outputs, _ = self.network.outputs(observations, starts, before[0])
        logprobs, _ = self.distribution.evaluate(outputs, self.network.log_std, actions)
        values, judging = self.network.values(observations, starts, before[1])
        assert self._now is not None
        following, _ = self.network.values(self._tensor(self._now)[None], self._tensor(self.starts)[None], judging)
        ended, real = self._tensor(np.stack(played.ended)), self._tensor(np.stack(played.real))
        next_values = torch.cat([values[1:], following]).masked_fill(ended, 0.0)
        for (t, i), value in played.cut_off.items():
            next_values[t, i] = value
        rewards = self._tensor(np.stack(played.rewards)).to(values.dtype)
        advantages, returns = gae(
            rewards.T, values.T, next_values.T, (real & ~ended).to(values.dtype).T,
            gamma=self.config.gamma, lam=self.config.gae_lambda,
        )  # fmt: skip
        return Rollout(observations, starts, actions, logprobs, values, advantages.T, returns.T, real, before)

    def _seen(self, observations: Any) -> np.ndarray:
        return self._scaled(flatten(self.environments.observation_space, observations, self.environments.n), learn=True)

    def _scaled(self, rows: np.ndarray, *, learn: bool) -> np.ndarray:
        return self.normalization.observations(rows, learn=learn)

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.as_tensor(array, device=self.config.device)


@dataclass
class Played:
    """A rollout while it is played: an entry a step, ``[N, ...]`` each."""

    observations: list[Tensor]
    starts: list[Tensor]
    actions: list[Tensor]
    rewards: list[np.ndarray]
    ended: list[np.ndarray]
    real: list[np.ndarray]
    cut_off: dict[tuple[int, int], Tensor]
    """``{(t, environment): V}`` of the observation at which an episode was cut off."""

    def add(self, observations: Tensor, starts: Tensor, actions: Tensor, rewards: np.ndarray, step: Step) -> None:
        """A step."""
        self.observations.append(observations)
        self.starts.append(starts)
        self.actions.append(actions)
        self.rewards.append(rewards)
        self.ended.append(step.terminated | step.truncated)
        self.real.append(step.real)
