"""PPO of a language model."""

from kedge.training.ppo.config import PPOConfig
from kedge.training.ppo.trainer import PPO

__all__ = ["PPO", "PPOConfig"]
