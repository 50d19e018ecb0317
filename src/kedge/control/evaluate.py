"""An agent's return on whole episodes."""

from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from gymnasium.vector import VectorEnv

from kedge.control.environments import environments_of
from kedge.errors import ConfigError


class Predicts(Protocol):
    """Whatever chooses actions."""

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Any, Any]: ...


def evaluate_policy(
    agent: Predicts,
    env: str | gym.Env[Any, Any],
    n_eval_episodes: int = 10,
    deterministic: bool = True,
    *,
    seed: int = 0,
    return_episode_rewards: bool = False,
) -> Any:
    """Mean and standard deviation of the return over whole episodes, rewards as the environment gives them.

    Args:
        agent: has ``predict`` (a :class:`Agent`, or Stable-Baselines3's).
        env: an id, or an environment.
        seed: of the first episode; the following ones take the next numbers.
        return_episode_rewards: give ``(returns, lengths)`` instead.

    Raises:
        ConfigError: no such id, or a vector environment.
    """
    if isinstance(env, VectorEnv):
        raise ConfigError("evaluate_policy plays whole episodes one after another: give an id or a single environment")
    [environment] = environments_of(env, 1).environments if isinstance(env, str) else [env]  # type: ignore[attr-defined]
    returns, lengths = [], []
    for episode in range(n_eval_episodes):
        observation, _ = environment.reset(seed=seed + episode)
        state, start, total, length, over = None, np.ones(1, bool), 0.0, 0, False
        while not over:
            action, state = agent.predict(observation, state, start, deterministic=deterministic)
            observation, reward, ended, cut_off, _ = environment.step(action)
            total, length, start, over = total + float(reward), length + 1, np.zeros(1, bool), ended or cut_off
        returns.append(total)
        lengths.append(length)
    return (returns, lengths) if return_episode_rewards else (float(np.mean(returns)), float(np.std(returns)))
