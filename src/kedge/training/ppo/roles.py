"""From what the user gives to the models of a run: the policy, and the critic that the settings ask for."""

import warnings
from dataclasses import replace
from pathlib import Path

from torch import nn
from transformers import PreTrainedModel

from kedge.data.encode import Tokenizer
from kedge.errors import ConfigError
from kedge.models.bottom import bottom_of, freeze_bottom
from kedge.models.critic import Critic, new_critic
from kedge.models.language_model import LanguageModel, find, load_language_model, load_tokenizer, wrap
from kedge.rewards.build import reward_model_of
from kedge.rewards.weighted import WeightedReward
from kedge.training.ppo.config import PPOConfig


def policy_of(
    policy: str | Path | PreTrainedModel, tokenizer: str | Path | Tokenizer | None, config: PPOConfig
) -> LanguageModel:
    """The policy, loaded or as it was given.

    Raises:
        ConfigError: a model of another kind, or without its tokenizer. ModelError: it cannot be loaded.
    """
    if isinstance(policy, nn.Module) and not isinstance(policy, PreTrainedModel):
        raise ConfigError(f"policy: a {type(policy).__name__} is no transformers model; merge its adapters first")
    if isinstance(policy, PreTrainedModel):
        if tokenizer is None:
            raise ConfigError("policy: a loaded model needs its tokenizer beside it: PPO(..., tokenizer=...)")
        if isinstance(tokenizer, str | Path):
            tokenizer = load_tokenizer(
                find(tokenizer, "policy"), key="tokenizer", trust_remote_code=config.trust_remote_code
            )
        for key in {"device", "dtype", "attn_implementation"} & config.model_fields_set:
            raise ConfigError(f"{key}: not used with a loaded model, which is where and what it is; take it out")
        return _frozen_below(wrap(policy, tokenizer, config.stop_tokens), config)
    lm = load_language_model(policy, tokenizer=tokenizer, stop_tokens=config.stop_tokens, **config.loading)
    return _frozen_below(lm, config)


def _frozen_below(lm: LanguageModel, config: PPOConfig) -> LanguageModel:
    """With as many layers frozen as the settings ask for."""
    if config.num_layers_unfrozen is None:
        return lm
    freeze_bottom(lm.model, config.num_layers_unfrozen)
    bottom = bottom_of(lm.model, config.num_layers_unfrozen)
    if bottom is None:
        name = type(lm.model).__name__
        warnings.warn(f"{name}: its frozen layers are run in every pass; they cannot be answered for", stacklevel=1)
    return replace(lm, bottom=bottom)


def critic_of(config: PPOConfig, policy: LanguageModel, reward: WeightedReward) -> Critic | None:
    """The critic; None where advantages do without one.

    Raises:
        ConfigError: it is to start from a reward model and there is none.
    """
    if config.advantage_estimator != "gae":
        return None
    if config.critic == "shared" or config.critic_init == "policy":
        return new_critic(config.critic, policy)
    model = reward_model_of(reward)
    if model is None:
        raise ConfigError("critic_init='reward': the reward has no reward model in it; use critic_init='policy'")
    return new_critic(config.critic, policy, model)
