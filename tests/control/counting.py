"""An environment whose story is known."""

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Counting(gym.Env):
    """Shows how many steps the episode has taken; ends after ``length``, by itself or cut off. Reward: that number."""

    observation_space = spaces.Box(0, 1e6, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, length=3, *, cut_off=True, reward=None):
        self.length, self.cut_off, self.reward = length, cut_off, reward

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.steps += 1
        over = self.steps >= self.length
        reward = float(self.steps) if self.reward is None else self.reward
        return np.full(1, self.steps, np.float32), reward, over and not self.cut_off, over and self.cut_off, {}
