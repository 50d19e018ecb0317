"""From what a user writes (a function, ``package.module:name``, a reward model, a weighted list) to a reward."""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from kedge.data.encode import Tokenizer
from kedge.errors import ConfigError
from kedge.models.device import Device
from kedge.models.reward_model import RewardModel
from kedge.rewards.foreign import is_function_path
from kedge.rewards.function_spec import FunctionSpec
from kedge.rewards.kinds import kind_of
from kedge.rewards.model import ModelSpec
from kedge.rewards.spec import Loading, RewardSpec
from kedge.rewards.weighted import WeightedReward

__all__ = [
    "RewardLike", "RewardSpec", "build_reward", "refuse_missing_columns", "reward_model_of", "reward_model_sources",
    "spec_of",
]  # fmt: skip

RewardLike = str | Path | RewardModel | Callable[..., Any] | RewardSpec | Mapping[str, Any]


def spec_of(what: RewardLike) -> RewardSpec:
    """One reward's specification, however it was given.

    Raises:
        ConfigError: not a reward.
    """
    if isinstance(what, RewardSpec):
        return what
    if isinstance(what, Mapping):
        return kind_of(what)(**what)
    if isinstance(what, str) and is_function_path(what):
        return FunctionSpec(function=what)
    if isinstance(what, str | Path | RewardModel):
        return ModelSpec(model=what)
    if callable(what):
        return FunctionSpec(function=what)
    raise ConfigError(f"reward: {what!r} is no function, reward model, or list of these")


def build_reward(
    what: RewardLike | Sequence[RewardLike],
    *,
    partial: bool = False,
    device: Device = "auto",
    trust_remote_code: bool = False,
    attn_implementation: str | None = None,
    sharded: bool = False,
    writer: Tokenizer | None = None,
) -> WeightedReward:
    """The reward, ready to score.

    Args:
        what: a function, ``package.module:name``, reward model, specification, or list of these.
        partial: it may leave samples unjudged: a metric may, a reward may not.
        device: as :func:`load_reward_model` takes it, and with it the next two.
        trust_remote_code: as there.
        attn_implementation: as there.
        sharded: reward models will be spread over the processes.
        writer: the tokenizer of the policy whose answers are scored, for rewards that are paid within them.

    Raises:
        ConfigError: not a reward. ModelError: a reward model that cannot be loaded.
    """
    loading = Loading(device, trust_remote_code, attn_implementation, sharded)
    parts = [(spec.weight, spec.built(loading)) for spec in _specs(what)]
    if writer is not None:
        for _, reward in parts:
            reward.written_by(writer)
    return WeightedReward(parts, partial=partial)


def refuse_missing_columns(what: RewardLike | Sequence[RewardLike], there: Collection[str]) -> None:
    """Before anything is loaded: raise where one of the functions must have what is no column of the data.

    Raises:
        RewardError: naming function and column. ConfigError: not a reward.
    """
    for spec in _specs(what):
        spec.refuse_missing_columns(there)


def reward_model_of(reward: WeightedReward) -> RewardModel | None:
    """The first reward model in it, for a critic that starts from one."""
    return next(iter(reward.models()), None)


def reward_model_sources(what: str | RewardSpec | Sequence[str | RewardSpec]) -> list[str]:
    """The reward models that a recipe's reward names, in order; its functions have no weights."""
    return [source for spec in _specs(what) for source in spec.reward_models()]


def _specs(what: RewardLike | Sequence[RewardLike]) -> list[RewardSpec]:
    parts = [what] if not isinstance(what, Sequence) or isinstance(what, str) else what
    return [spec_of(part) for part in parts]
