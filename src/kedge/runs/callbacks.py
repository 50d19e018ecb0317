"""What may look on while something is trained, and end the training."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kedge.errors import ConfigError


class Callback:
    """Override what you need. Returning False from a hook that may return something ends the training after that step;
    what comes at the end of a training comes then too.

    Under torchrun each process calls its own: what writes does so where ``trainer.processes.leads``, and
    ``trainer.save`` is called by all of them.

    ``trainer`` is the :class:`~kedge.PPO`, ``SFT``, ``RewardModeling`` or control agent that learns.
    """

    def on_training_start(self, trainer: Any) -> None:
        """Before the first step."""

    def on_rollout_end(self, trainer: Any) -> bool | None:
        """After a rollout, before the update. Of control agents."""

    def on_step(self, trainer: Any, metrics: dict[str, float]) -> bool | None:
        """After each step (of control agents: each update), with its metrics, and those of an evaluation then."""

    def on_evaluation(self, trainer: Any, metrics: dict[str, float]) -> bool | None:
        """After an evaluation on held-out rows during the training, with its metrics, ``eval/...``."""

    def on_checkpoint(self, trainer: Any, folder: Path) -> None:
        """After a checkpoint was written to ``folder``."""

    def on_training_end(self, trainer: Any) -> None:
        """After the last step, or the one at which a callback ended it; not where it was stopped or left."""


HOOKS = [name for name in vars(Callback) if name.startswith("on_")]


class FunctionCallback(Callback):
    """A function ``f(trainer, metrics)``, called after each step; False ends the training."""

    def __init__(self, function: Callable[[Any, dict[str, float]], bool | None]) -> None:
        self.function = function

    def on_step(self, trainer: Any, metrics: dict[str, float]) -> bool | None:
        return self.function(trainer, metrics)


CallbackLike = Callback | Callable[[Any, dict[str, float]], bool | None]


def callbacks_of(what: CallbackLike | Sequence[CallbackLike] | None) -> list[Callback]:
    """A callback, a function, or several of them.

    Raises:
        ConfigError: something else.
    """
    return [_callback(each) for each in (what if isinstance(what, Sequence) else [] if what is None else [what])]


def is_end(answer: Any) -> bool:
    """Whether a hook's answer is False, NumPy's and torch's included."""
    return answer is False or (hasattr(answer, "item") and answer.item() is False)


def _callback(what: Any) -> Callback:
    if isinstance(what, Callback):
        for name in dir(what):
            like_a_hook = name.lstrip("_").startswith("on_") and callable(getattr(what, name))
            if like_a_hook and name not in HOOKS:  # as other libraries call theirs
                raise ConfigError(
                    f"callback: {type(what).__name__}.{name} is never called; hooks are {', '.join(HOOKS)}"
                )
        return what
    if not callable(what) or isinstance(what, type):
        raise ConfigError(f"callback: {what!r} is neither a kedge.Callback nor a function f(trainer, metrics)")
    return FunctionCallback(what)
