"""Environments side by side, one way of stepping them whatever their kind: each step says what it was.

Gymnasium's vector environments differ in what happens after an episode's end (their autoreset mode). Here a step after
an end is a step of the next episode, and a step that only reset an environment is marked as none.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from kedge.control.observations import batched
from kedge.errors import ConfigError


@dataclass(frozen=True)
class Step:
    """What a step of N environments gave."""

    observations: Any
    """Batched as Gymnasium does; of the next episode where one ended and was begun anew."""
    rewards: np.ndarray
    """``[N]``."""
    terminated: np.ndarray
    """``[N]`` bool: the episode ended, and nothing follows."""
    truncated: np.ndarray
    """``[N]`` bool: the episode was cut off, and something would have followed."""
    real: np.ndarray
    """``[N]`` bool: False where the step only reset the environment."""
    last_observations: dict[int, Any]
    """The observation that an episode was cut off at, of each environment where one was."""


class Environments(Protocol):
    """N environments that go on for ever."""

    n: int
    name: str
    """The environments' id, or their class where they have none."""
    observation_space: gym.Space[Any]
    action_space: gym.Space[Any]

    def reset(self, seed: int) -> Any:
        """Begin anew; returns observations, batched."""
        ...

    def step(self, actions: np.ndarray) -> Step:
        """Take a step in each."""
        ...


class ManyEnvironments:
    """Plain environments in a row: for light ones faster than any vector environment."""

    def __init__(self, environments: Sequence[gym.Env[Any, Any]]) -> None:
        self.environments = list(environments)
        self.n = len(self.environments)
        self.name = _name(self.environments[0])
        self.observation_space = self.environments[0].observation_space
        self.action_space = self.environments[0].action_space

    def reset(self, seed: int) -> Any:
        first = [environment.reset(seed=seed + i)[0] for i, environment in enumerate(self.environments)]
        return batched(self.observation_space, first)

    def step(self, actions: np.ndarray) -> Step:
        seen, rewards, last = [], np.empty(self.n), {}
        terminated, truncated = np.zeros(self.n, bool), np.zeros(self.n, bool)
        for i, environment in enumerate(self.environments):
            observation, rewards[i], ended, cut_off, _ = environment.step(actions[i])
            if ended or cut_off:
                terminated[i], truncated[i] = ended, cut_off and not ended
                if truncated[i]:
                    last[i] = copy.deepcopy(observation)  # the reset may write into the same array
                observation, _ = environment.reset()
            seen.append(observation)
        return Step(batched(self.observation_space, seen), rewards, terminated, truncated, np.ones(self.n, bool), last)


class Vectorized:
    """A vector environment of Gymnasium, in whichever autoreset mode."""

    def __init__(self, environment: VectorEnv[Any, Any, Any]) -> None:
        self.environment = environment
        self.n = environment.num_envs
        self.name = _name(environment)
        self.observation_space = environment.single_observation_space
        self.action_space = environment.single_action_space
        self.mode = AutoresetMode(environment.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))
        self._ended = np.zeros(self.n, bool)

    def reset(self, seed: int) -> Any:
        self._ended = np.zeros(self.n, bool)
        return self.environment.reset(seed=seed)[0]

    def step(self, actions: np.ndarray) -> Step:
        observations, rewards, terminated, truncated, infos = self.environment.step(actions)
        real = ~self._ended if self.mode is AutoresetMode.NEXT_STEP else np.ones(self.n, bool)
        terminated, truncated = terminated & real, truncated & ~terminated & real
        ended = terminated | truncated
        at = infos["final_obs"] if self.mode is AutoresetMode.SAME_STEP and ended.any() else None
        last = {int(i): at[i] if at is not None else _one(observations, int(i)) for i in np.flatnonzero(truncated)}
        if self.mode is AutoresetMode.DISABLED and ended.any():
            observations = self.environment.reset(options={"reset_mask": ended})[0]
        self._ended = ended
        return Step(observations, np.asarray(rewards, float), terminated, truncated, real, last)


class NoVelocities(gym.ObservationWrapper[Any, Any, Any]):
    """CartPole that shows where things are and not how fast they move: a task that takes memory."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        bounds = env.observation_space
        assert isinstance(bounds, gym.spaces.Box)
        self.observation_space = gym.spaces.Box(bounds.low[::2], bounds.high[::2], dtype=np.float32)

    def observation(self, observation: Any) -> Any:
        return observation[::2]


def cartpole_without_velocities(**kwargs: Any) -> gym.Env[Any, Any]:
    """The environment behind the id ``kedge/CartPoleNoVel-v1``."""
    return NoVelocities(gym.make("CartPole-v1", disable_env_checker=True, **kwargs))


gym.register("kedge/CartPoleNoVel-v1", entry_point=cartpole_without_velocities)


def environments_of(what: str | gym.Env[Any, Any] | VectorEnv[Any, Any, Any], n: int) -> Environments:
    """Environments to train in: n of an id, the one given, or a vector of them.

    Raises:
        ConfigError: no such id, or more copies wanted of one that was given.
    """
    if isinstance(what, VectorEnv):
        return Vectorized(what)
    if isinstance(what, gym.Env):
        if n != 1:
            raise ConfigError(
                f"n_envs: {n} copies of an environment that is given; give its id, or a vector environment"
            )
        return ManyEnvironments([what])
    return ManyEnvironments([make(what) for _ in range(n)])


def make(name: str, **kwargs: Any) -> gym.Env[Any, Any]:
    """An environment by its id.

    Raises:
        ConfigError: no such id, or what it needs is not installed.
    """
    try:
        return gym.make(name, disable_env_checker=True, **kwargs)
    except gym.error.Error as error:
        raise ConfigError(f"environment {name!r}: {error}") from None


def _name(environment: Any) -> str:
    spec = getattr(environment, "spec", None)
    return type(environment).__name__ if spec is None else str(spec.id)


def _one(observations: Any, i: int) -> Any:
    if isinstance(observations, dict):
        return {name: _one(part, i) for name, part in observations.items()}
    return observations[i].copy()
