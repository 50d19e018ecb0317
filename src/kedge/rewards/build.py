"""From what a user writes (a function, ``package.module:name``, a reward model, a weighted list) to a reward."""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, model_validator

from kedge.config.settings import Config
from kedge.errors import ConfigError
from kedge.models.language_model import Device
from kedge.models.reward_model import RewardModel, load_reward_model
from kedge.rewards.foreign import import_function, is_function_path
from kedge.rewards.function import FunctionReward
from kedge.rewards.function import refuse_missing_columns as check_columns
from kedge.rewards.isolated import IsolatedReward
from kedge.rewards.model import ModelReward
from kedge.rewards.weighted import WeightedReward


class RewardSpec(Config):
    """One entry of a list of rewards."""

    function: Any = None
    """``package.module:name``; from Python also the function itself."""
    model: Any = None
    """Reward model: a folder, hub id, or run of ``kedge reward``; from Python also a loaded one."""
    weight: float = 1.0
    """Factor on its scores."""
    name: str | None = None
    """Under which it is logged; default the function's name, or ``reward_model``."""
    workers: int | None = Field(None, ge=1)
    """Processes that call it, a sample a call; ``none``: the run itself does, with all samples at once."""
    time_limit: float | None = Field(None, gt=0)
    """Seconds a worker's call may take; ``none``: any."""
    default: float | None = None
    """Score of a sample whose call takes longer, raises, ends its process or gives no score; ``none``: the run stops,
    and says which sample it was."""

    USED_WHEN: ClassVar[Mapping[str, tuple[str, tuple[object, ...]]]] = {
        "workers": ("function", ()),
        "time_limit": ("workers", ()),
        "default": ("workers", ()),
    }

    @model_validator(mode="after")
    def _one_of(self) -> "RewardSpec":
        if (self.function is None) == (self.model is None):
            raise ValueError("a reward names either function= or model=")
        return self


RewardLike = str | Path | RewardModel | Callable[..., Any] | RewardSpec | Mapping[str, Any]


def build_reward(
    what: RewardLike | Sequence[RewardLike],
    *,
    partial: bool = False,
    device: Device = "auto",
    trust_remote_code: bool = False,
    attn_implementation: str | None = None,
) -> WeightedReward:
    """The reward, ready to score. A ``partial`` one may leave samples unjudged: a metric may, a reward may not.

    The other settings are those of :func:`load_reward_model`.

    Raises:
        ConfigError: not a reward. ModelError: a reward model that cannot be loaded.
    """
    loading: dict[str, Any] = {
        "device": device,
        "trust_remote_code": trust_remote_code,
        "attn_implementation": attn_implementation,
    }
    return WeightedReward([_part(part, loading) for part in _parts(what)], partial=partial)


def refuse_missing_columns(what: RewardLike | Sequence[RewardLike], there: Collection[str]) -> None:
    """Before anything is loaded: raise where one of the functions must have what is no column of the data.

    Raises:
        RewardError: naming function and column. ConfigError: not a reward.
    """
    for part in _parts(what):
        spec = RewardSpec(**part) if isinstance(part, Mapping) else part
        function = spec.function if isinstance(spec, RewardSpec) else spec
        name = spec.name if isinstance(spec, RewardSpec) else None
        if isinstance(function, str) and is_function_path(function):
            name = name or function.rpartition(":")[2]
            function = import_function(function)
        if callable(function) and not isinstance(function, RewardModel):
            check_columns(function, name, there)


def reward_model_of(reward: WeightedReward) -> RewardModel | None:
    """The first reward model in it, for a critic that starts from one."""
    return next((part.model for _, part in reward.parts if isinstance(part, ModelReward)), None)


def reward_model_sources(what: str | RewardSpec | Sequence[str | RewardSpec]) -> list[str]:
    """The reward models that a recipe's reward names, in order; its functions have no weights."""
    parts = [what] if isinstance(what, str | RewardSpec) else what
    models = [part.model if isinstance(part, RewardSpec) else part for part in parts]
    return [str(model) for model in models if model is not None and not is_function_path(str(model))]


def _parts(what: RewardLike | Sequence[RewardLike]) -> Sequence[RewardLike]:
    return [what] if not isinstance(what, Sequence) or isinstance(what, str) else what


def _part(what: RewardLike, loading: Mapping[str, Any]) -> tuple[float, FunctionReward | ModelReward]:
    if isinstance(what, Mapping):
        what = RewardSpec(**what)
    if isinstance(what, RewardSpec):
        part = _named_part(what, loading)
        if what.name:
            part.name = what.name
        return what.weight, part
    if isinstance(what, str) and is_function_path(what):
        return 1.0, FunctionReward(import_function(what), what.rpartition(":")[2])
    if isinstance(what, str) and "." in what and "/" not in what and not Path(what).exists():
        raise ConfigError(f"reward: {what!r} is no folder; a function is written package.module:name, with a colon")
    if isinstance(what, str | Path):
        return 1.0, ModelReward(load_reward_model(what, **loading))
    if isinstance(what, RewardModel):
        return 1.0, ModelReward(what)
    if callable(what):
        return 1.0, FunctionReward(what)
    raise ConfigError(f"reward: {what!r} is no function, reward model, or list of these")


def _named_part(spec: RewardSpec, loading: Mapping[str, Any]) -> FunctionReward | ModelReward:
    if isinstance(spec.function, str) and not is_function_path(spec.function):
        raise ConfigError(f"reward: function={spec.function!r} must read package.module:name")
    if spec.workers is None:
        return _part(spec.model if spec.function is None else spec.function, loading)[1]
    return IsolatedReward(spec.function, workers=spec.workers, time_limit=spec.time_limit, default=spec.default)
