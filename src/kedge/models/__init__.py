"""Trunks, heads and the roles that models play: load, save, and the passes that the others read."""

from typing import TYPE_CHECKING

from kedge.lazy import lazily

if TYPE_CHECKING:
    from kedge.models.critic import Critic, new_critic
    from kedge.models.forward import forward_tokens
    from kedge.models.language_model import LanguageModel, load_language_model
    from kedge.models.reward_loading import load_reward_model, new_reward_model
    from kedge.models.reward_model import RewardModel
    from kedge.models.role import Role

__all__ = [
    "Critic",
    "LanguageModel",
    "RewardModel",
    "Role",
    "forward_tokens",
    "load_language_model",
    "load_reward_model",
    "new_critic",
    "new_reward_model",
]

_HOMES = {
    "Critic": "kedge.models.critic",
    "LanguageModel": "kedge.models.language_model",
    "RewardModel": "kedge.models.reward_model",
    "Role": "kedge.models.role",
    "forward_tokens": "kedge.models.forward",
    "load_language_model": "kedge.models.language_model",
    "load_reward_model": "kedge.models.reward_loading",
    "new_critic": "kedge.models.critic",
    "new_reward_model": "kedge.models.reward_loading",
}

__getattr__, __dir__ = lazily(__name__, _HOMES)
