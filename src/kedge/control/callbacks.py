"""What may look on while an agent learns."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from kedge.errors import ConfigError

if TYPE_CHECKING:
    from kedge.control.agent import PPO


class Callback:
    """Override what you need. Returning False from a hook ends the training."""

    def on_training_start(self, agent: "PPO") -> None:
        """Before the first step."""

    def on_rollout_end(self, agent: "PPO") -> bool | None:
        """After each rollout, before the update."""

    def on_update_end(self, agent: "PPO", metrics: dict[str, float]) -> bool | None:
        """After each update, with its metrics."""

    def on_training_end(self, agent: "PPO") -> None:
        """After the last step."""


class FunctionCallback(Callback):
    """A function ``f(agent, metrics)``, called after each update; False ends the training."""

    def __init__(self, function: Callable[["PPO", dict[str, float]], bool | None]) -> None:
        self.function = function

    def on_update_end(self, agent: "PPO", metrics: dict[str, float]) -> bool | None:
        return self.function(agent, metrics)


CallbackLike = Callback | Callable[["PPO", dict[str, float]], bool | None]


def callbacks_of(what: CallbackLike | Sequence[CallbackLike] | None) -> list[Callback]:
    """A callback, a function, or several of them.

    Raises:
        ConfigError: something else.
    """
    return [_callback(each) for each in (what if isinstance(what, Sequence) else [] if what is None else [what])]


def _callback(what: Any) -> Callback:
    if isinstance(what, Callback):
        return what
    if not callable(what) or isinstance(what, type):
        raise ConfigError(f"callback: {what!r} is neither a kedge.control Callback nor a function f(agent, metrics)")
    return FunctionCallback(what)
