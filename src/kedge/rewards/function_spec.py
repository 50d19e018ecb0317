"""The kind of reward that is a Python function: called by the run itself, or by processes of its own."""

from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Self

from pydantic import Field, model_validator

from kedge.errors import ConfigError
from kedge.rewards.foreign import RewardFunction, import_function, is_function_path
from kedge.rewards.function import FunctionReward, refuse_wanting
from kedge.rewards.isolated import IsolatedReward
from kedge.rewards.spec import Loading, RewardSpec


class FunctionSpec(RewardSpec):
    """A Python function."""

    function: Any
    """``package.module:name``; from Python also the function itself."""
    workers: int | None = Field(None, ge=1)
    """Processes that call it, a sample a call; ``none``: the run itself does, with all samples at once."""
    time_limit: float | None = Field(None, gt=0)
    """Seconds a worker's call may take; ``none``: any."""
    default: float | None = None
    """Score of a sample whose call takes longer, raises, ends its process or gives no score; ``none``: the run stops,
    and says which sample it was."""

    SAID_BY: ClassVar[str] = "function"
    USED_WHEN: ClassVar[Mapping[str, tuple[str, tuple[object, ...]]]] = {
        "time_limit": ("workers", ()),
        "default": ("workers", ()),
    }

    @model_validator(mode="after")
    def _is_named(self) -> Self:
        if self.function is None:
            raise ValueError("function: missing; name one, package.module:name")
        return self

    def build(self, loading: Loading) -> FunctionReward:
        if self.workers is None:
            return FunctionReward(self._imported(), self._own_name())
        self._imported()
        return IsolatedReward(self.function, workers=self.workers, time_limit=self.time_limit, default=self.default)

    def refuse_missing_columns(self, there: Collection[str]) -> None:
        refuse_wanting(self._imported(), self.name or self._own_name(), there)

    def fingerprint(self) -> str:
        return ""  # the reward's own is of function and default; how it is called changes no score

    def _imported(self) -> RewardFunction:
        if isinstance(self.function, str) and is_function_path(self.function):
            return import_function(self.function)
        if isinstance(self.function, str) or not callable(self.function):
            raise ConfigError(f"reward: function={self.function!r} must read package.module:name")
        return self.function

    def _own_name(self) -> str | None:
        return self.function.rpartition(":")[2] if isinstance(self.function, str) else None
