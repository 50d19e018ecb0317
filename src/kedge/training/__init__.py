"""The loops: supervised fine-tuning, reward modelling, PPO; what they keep, and how they go on."""

from typing import TYPE_CHECKING

from kedge.lazy import lazily

if TYPE_CHECKING:
    from kedge.training.loop import Trainer
    from kedge.training.ppo import PPO, PPOConfig
    from kedge.training.reward_modeling import RewardConfig, RewardModeling
    from kedge.training.sft import SFT, SFTConfig

__all__ = ["PPO", "SFT", "PPOConfig", "RewardConfig", "RewardModeling", "SFTConfig", "Trainer"]

_HOMES = {
    "PPO": "kedge.training.ppo",
    "PPOConfig": "kedge.training.ppo",
    "RewardConfig": "kedge.training.reward_modeling",
    "RewardModeling": "kedge.training.reward_modeling",
    "SFT": "kedge.training.sft",
    "SFTConfig": "kedge.training.sft",
    "Trainer": "kedge.training.loop",
}

__getattr__, __dir__ = lazily(__name__, _HOMES)
