"""From what the user gives to the models of a run: the policy, and the critic that the settings ask for."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import nn
from transformers import PreTrainedModel

from kedge.data.encode import Tokenizer
from kedge.errors import ConfigError
from kedge.models.adapters import adapter_of, base_within
from kedge.models.bottom import freeze_bottom, layers_of
from kedge.models.critic import Critic, new_critic
from kedge.models.head import trunk_of
from kedge.models.language_model import LanguageModel, load_language_model, wrap
from kedge.models.loading import find, load_tokenizer
from kedge.models.prefix import is_prefix
from kedge.models.quantized import is_quantized, settle
from kedge.models.reward_model import adapted_part
from kedge.models.sharding import refuse_sharded
from kedge.rewards.build import reward_model_of
from kedge.rewards.weighted import WeightedReward
from kedge.training.config import adapt
from kedge.training.ppo.config import PPOConfig


def policy_of(
    policy: str | Path | nn.Module, tokenizer: str | Path | Tokenizer | None, config: PPOConfig
) -> LanguageModel:
    """The policy, loaded or as it was given, with what is not trained frozen.

    Raises:
        ConfigError: a model of another kind, or without its tokenizer; settings that do not fit it. ModelError: it
            cannot be loaded.
    """
    lm = _given(policy, tokenizer, config) if isinstance(policy, nn.Module) else _loaded(policy, tokenizer, config)
    bottom = None
    if config.num_layers_unfrozen is not None:
        if adapter_of(lm.model) is not None:
            raise ConfigError("num_layers_unfrozen: not used with a policy that has an adapter already; take it out")
        bottom = freeze_bottom(lm.model, config.num_layers_unfrozen)
        if bottom is None:
            name = type(lm.model).__name__
            warnings.warn(f"{name}: its frozen layers are run in every pass; they cannot be answered for", stacklevel=1)
    if adapter_of(lm.model) is not None:
        adapt(lm.model, config)
    elif config.adapter:
        lm.model.requires_grad_(False)  # the adapter comes when the reference has been taken, which has none
    return replace(lm, bottom=bottom)


def frozen_modules(policy: LanguageModel, config: PPOConfig) -> Sequence[nn.Module]:
    """What ``num_layers_unfrozen`` leaves below: layers, and embeddings."""
    if config.num_layers_unfrozen is None:
        return ()
    trunk = trunk_of(policy.model)
    embeddings = [module for module in trunk.modules() if isinstance(module, nn.Embedding)]
    return [*embeddings, *layers_of(trunk)[: -config.num_layers_unfrozen]]


def _loaded(policy: str | Path, tokenizer: str | Path | Tokenizer | None, config: PPOConfig) -> LanguageModel:
    return load_language_model(
        policy,
        tokenizer=tokenizer,
        stop_tokens=config.stop_tokens,
        merged=not config.adapter,
        **config.loading_to_train,
    )


def _given(model: nn.Module, tokenizer: str | Path | Tokenizer | None, config: PPOConfig) -> LanguageModel:
    if not isinstance(model, PreTrainedModel):  # PEFT's class, around one
        model = base_within(model)
    refuse_sharded(model, "policy")
    settle(model)
    if tokenizer is None:
        raise ConfigError("policy: a loaded model needs its tokenizer beside it: PPO(..., tokenizer=...)")
    if isinstance(tokenizer, str | Path):
        tokenizer = load_tokenizer(
            find(tokenizer, "policy"), key="tokenizer", trust_remote_code=config.trust_remote_code
        )
    for key in {"device", "dtype", "attn_implementation", "quantization"} & config.model_fields_set:
        raise ConfigError(f"{key}: not used with a loaded model, which is where and what it is; take it out")
    return wrap(model, tokenizer, config.stop_tokens)


def critic_of(config: PPOConfig, policy: LanguageModel, reward: WeightedReward) -> Critic | None:
    """The critic; None where advantages do without one.

    Raises:
        ConfigError: it is to start from a reward model and there is none.
    """
    if config.advantage_estimator != "gae":
        return None
    if config.critic == "shared" or config.critic_init == "policy":
        return new_critic(config.critic, policy, sharded=config.is_sharded)
    model = reward_model_of(reward)
    if model is None:
        raise ConfigError("critic_init='reward': the reward has no reward model in it; use critic_init='policy'")
    if is_quantized(model.trunk):
        raise ConfigError("critic_init='reward': a quantised reward model is not trained; use critic_init='policy'")
    if is_prefix(adapter_of(adapted_part(model))):
        raise ConfigError(
            "critic_init='reward': a reward model's prefix is no part of a trunk; use critic_init='policy'"
        )
    return new_critic(config.critic, policy, model)
