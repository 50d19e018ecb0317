"""Steps of experience: gathered from the environments, with advantages estimated by :func:`kedge.core.gae`."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kedge.control.config import ControlConfig
from kedge.control.distributions import Distribution
from kedge.control.environments import Environments, Step
from kedge.control.networks import ActorCritic, Memory
from kedge.control.normalization import Normalization
from kedge.control.observations import batched, flatten, refuse_broken_observations, width
from kedge.core import gae

Played = list[tuple[np.ndarray, ...]]
"""An entry a step: observations, starts, actions, rewards, ended and real, ``[N, ...]`` each."""


@dataclass(frozen=True)
class Steps:
    """T steps in each of N places: a rollout of N environments, or a minibatch of it. Arrays are ``[T, N, ...]``."""

    observations: Tensor
    actions: Tensor
    logprobs: Tensor
    """Of the actions, when they were taken."""
    values: Tensor
    advantages: Tensor
    returns: Tensor
    starts: Tensor | None = None
    """bool: an episode begins here. None where no one asks: nothing is remembered."""
    mask: Tensor | None = None
    """bool: False where the step only reset an environment; never trained on. None: no step did."""
    memory: Tensor | None = None
    """``[4, N, H]``: of an LSTM, hidden and cell state of the policy and of the value network before the first step."""

    def without_resets(self) -> "Steps":
        """The same as ``[1, steps, ...]``, for networks that do not remember: nothing in it only reset."""
        kept = slice(None) if self.mask is None else self.mask.flatten()
        wanted = {name: x for name, x in self._columns().items() if name not in ("mask", "starts")}
        return Steps(**{name: x.flatten(0, 1)[kept][None] for name, x in wanted.items()})

    def minibatches(self, order: Tensor, size: int) -> Iterator["Steps"]:
        """Places in this order, so many at a time."""
        parts = {name: x.index_select(1, order).split(size, 1) for name, x in self._columns().items()}
        for row in zip(*parts.values(), strict=True):
            yield Steps(**dict(zip(parts, row, strict=True)))

    def _columns(self) -> dict[str, Tensor]:
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: x for name, x in columns.items() if x is not None}

    @property
    def memories(self) -> tuple[Memory, Memory]:
        """What policy and value network remember."""
        if self.memory is None:
            return None, None
        acting, acting_cell, judging, judging_cell = self.memory.split(1)
        return (acting, acting_cell), (judging, judging_cell)


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
        self.device = network.log_std.device
        self.generator = torch.Generator()  # on the host: every device plays alike
        self.finished: list[tuple[float, int]] = []
        """``(return, length)`` of the episodes that ended since this was last emptied."""
        self._zeros = np.zeros(environments.n * width(environments.observation_space), np.float32)
        self._now = np.empty(0)  # what the environments show; nothing before they begin

    def begin(self, seed: int) -> None:
        """Begin an episode in every environment, whatever has been done to them since."""
        self.generator.manual_seed(seed)
        self._now = self._seen(self.environments.reset(seed))
        n = self.environments.n
        self.memories: tuple[Memory, Memory] = self.network.memories(n)
        self.starts, self.returns, self.lengths = np.ones(n, bool), np.zeros(n), np.zeros(n, int)
        self.normalization.begin()

    @torch.no_grad()
    def collect(self, steps: int) -> Steps:
        """Play so many steps in every environment."""
        if not len(self._now):
            self.begin(self.config.seed)
        played: Played = []
        cut_off, before = {}, self.memories
        noise = self.distribution.noise((steps, self.environments.n), self.network.log_std, self.generator)
        for t, drawn in enumerate(noise):
            actions = self._act(drawn)
            step = self.environments.step(self.distribution.for_environment(actions))
            ended = step.terminated | step.truncated
            for i, last in step.last_observations.items():
                cut_off[t, i] = self._value_after(last, i)
            played.append((self._now, self.starts, actions, self._earned(step, ended), ended, step.real))
            # After a step that only reset, an episode begins as well.
            self._now, self.starts = self._seen(step.observations), ended | ~step.real
        return self._estimated(played, cut_off, before)

    def _act(self, noise: Tensor) -> np.ndarray:
        """Draw an action for each environment; what is remembered moves on."""
        now, starts, (acting, judging) = self._tensor(self._now)[None], None, self.memories
        if judging is not None:  # what does not remember is asked for all its values at once, later
            starts = self._tensor(self.starts)[None]
            judging = self.network.values(now, starts, judging)[1]
        outputs, acting = self.network.outputs(now, starts, acting)
        self.memories = acting, judging
        actions: np.ndarray = self.distribution.mode(outputs[0] + noise).cpu().numpy()
        return actions

    def _value_after(self, last: Any, i: int) -> Tensor:
        """V of the observation that environment i was cut off at."""
        space = self.environments.observation_space
        row = self._tensor(self._scaled(self._flat(batched(space, [last]), 1), learn=False))
        memory = self.memories[1]
        mine = None if memory is None else (memory[0][:, i : i + 1], memory[1][:, i : i + 1])
        return self.network.values(row[None], torch.zeros(1, 1, dtype=torch.bool, device=row.device), mine)[0][0, 0]

    def _earned(self, step: Step, ended: np.ndarray) -> np.ndarray:
        """The step's rewards as they are trained on; episodes that ended are noted as they were."""
        self.returns += step.rewards * step.real
        self.lengths += step.real
        for i in np.flatnonzero(ended):
            self.finished.append((float(self.returns[i]), int(self.lengths[i])))
            self.returns[i], self.lengths[i] = 0.0, 0
        return self.normalization.rewards(step.rewards, ended, step.real)

    def _estimated(
        self, played: Played, cut_off: dict[tuple[int, int], Tensor], before: tuple[Memory, Memory]
    ) -> Steps:
        """The rollout; ``cut_off``: V of the observation at which environment i was cut off after step t."""
        observations, starts, actions, rewards, ended, real = (
            self._tensor(np.stack(column)) for column in zip(*played, strict=True)
        )
        outputs, _ = self.network.outputs(observations, starts, before[0])
        logprobs = self.distribution.logprobs(outputs, self.network.log_std, actions)
        values, judging = self.network.values(observations, starts, before[1])
        following, _ = self.network.values(self._tensor(self._now)[None], self._tensor(self.starts)[None], judging)
        next_values = torch.cat([values[1:], following]).masked_fill(ended, 0.0)
        for (t, i), value in cut_off.items():
            next_values[t, i] = value
        advantages, returns = gae(
            rewards.to(values.dtype).T, values.T, next_values.T, (real & ~ended).to(values.dtype).T,
            gamma=self.config.gamma, lam=self.config.gae_lambda,
        )  # fmt: skip
        mask = None if bool(real.all()) else real
        memory = None if before[0] is None or before[1] is None else torch.cat([*before[0], *before[1]])
        return Steps(observations, actions, logprobs, values, advantages.T, returns.T, starts, mask, memory)

    def _seen(self, observations: Any) -> np.ndarray:
        return self._scaled(self._flat(observations, self.environments.n), learn=True)

    def _flat(self, observations: Any, n: int) -> np.ndarray:
        space = self.environments.observation_space
        rows = flatten(space, observations, n)
        # The fastest way to ask, for it is asked at every step: only what is not finite is not 0 times 0.
        if rows.dtype == np.float32 and np.dot(rows.ravel(), self._zeros[: rows.size]) != 0.0:
            refuse_broken_observations(observations, n, self.environments.name)
        return rows

    def _scaled(self, rows: np.ndarray, *, learn: bool) -> np.ndarray:
        return self.normalization.observations(rows, learn=learn)

    def _tensor(self, array: np.ndarray) -> Tensor:
        narrow = array.astype(np.float32) if array.dtype == np.float64 else array  # of which some devices have none
        return torch.from_numpy(narrow).to(self.device)
