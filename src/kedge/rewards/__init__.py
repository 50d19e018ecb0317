"""Completions -> scores. Imports nothing by itself: workers that call a reward function want no torch."""

from typing import TYPE_CHECKING

from kedge.lazy import lazily

if TYPE_CHECKING:
    from kedge.rewards.build import build_reward
    from kedge.rewards.foreign import TrainerState
    from kedge.rewards.scores import Reward, Scores
    from kedge.rewards.spec import RewardSpec

__all__ = ["Reward", "RewardSpec", "Scores", "TrainerState", "build_reward"]

_HOMES = {
    "Reward": "kedge.rewards.scores",
    "RewardSpec": "kedge.rewards.spec",
    "Scores": "kedge.rewards.scores",
    "TrainerState": "kedge.rewards.foreign",
    "build_reward": "kedge.rewards.build",
}

__getattr__, __dir__ = lazily(__name__, _HOMES)
