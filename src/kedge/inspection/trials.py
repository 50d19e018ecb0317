"""How long operations take on this CPU: each is tried on tensors of its shapes, once for a whole plan."""

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from transformers import AutoConfig, AutoModelForCausalLM

FAILURES = (RuntimeError, NotImplementedError, IndexError, TypeError, ValueError)
"""What an operation raises that cannot be tried on any numbers."""

RUNS, LONG = 3, 0.05
"""Of each the fastest of so many; what has taken so many seconds is not run again."""

CACHE = 2**23
"""Bytes that are touched before each, so that what it reads is in memory and not in a cache near by."""

TINY = {"vocab_size": 16, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2}
"""A model that computes next to nothing: its time is that of asking."""


class Trials:
    """Seconds of operations.

    Args:
        limit: bytes of an operation's tensors; larger ones are not tried.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._others = torch.zeros(CACHE // 4)
        self._found: dict[Hashable, float | None] = {}

    def seconds(self, operation: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> float | None:
        """Of the operation on tensors like these, whatever is in them; None where it cannot be tried.

        Args:
            operation: of ``torch.ops``.
            args: its arguments, tensors without numbers among them.
            kwargs: as well.
        """
        key = operation, _shape(list(args)), _shape(dict(kwargs))
        if key not in self._found:
            self._found[key] = self._tried(operation, args, kwargs)
        return self._found[key]

    def _tried(self, operation: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> float | None:
        if _bytes([*args, *kwargs.values()]) > self.limit:
            return None
        seconds: list[float] = []
        with _disable_current_modes():
            while len(seconds) < RUNS and sum(seconds) < LONG:
                given, named = _real(list(args)), _real(dict(kwargs))
                self._others.add_(1)
                start = time.perf_counter()
                try:
                    operation(*given, **named)
                except FAILURES:
                    return None
                seconds.append(time.perf_counter() - start)
        return min(seconds)


def overheads_here() -> tuple[float, float]:
    """Seconds that an operation costs whatever it computes: asked for by a model of transformers', and by autograd on
    its way back."""
    with torch.random.fork_rng(devices=[]):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **TINY))
    tokens = torch.zeros(1, 2, dtype=torch.long)

    def forward() -> Tensor:
        loss: Tensor = model(tokens).logits.sum()
        return loss

    there, there_and_back = _counted(forward), _counted(lambda: forward().backward())
    asked = there[0] / there[1]
    return asked, max(0.0, there_and_back[0] - there[0]) / (there_and_back[1] - there[1])


def _counted(run: Callable[[], object]) -> tuple[float, int]:
    """Seconds of the fastest of a few runs, and how many operations it has."""
    with _Count() as count:
        run()
    best = float("inf")
    for _ in range(RUNS * RUNS):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best, count.operations


class _Count(TorchDispatchMode):
    operations = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.operations += 1
        return func(*args, **(kwargs or {}))


def _shape(value: Any) -> Hashable:
    """What decides how long it takes."""
    if isinstance(value, Tensor):
        return value.shape, value.stride(), value.dtype
    if isinstance(value, list | tuple):
        return tuple(_shape(each) for each in value)
    if isinstance(value, dict):
        return tuple((name, _shape(each)) for name, each in value.items())
    return value if isinstance(value, Hashable) else repr(value)


def _bytes(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.untyped_storage().nbytes()
    return sum(_bytes(each) for each in value) if isinstance(value, list | tuple) else 0


def _real(value: Any) -> Any:
    """Tensors with numbers in place of those without: each is one half, every index 0, every mask open."""
    if isinstance(value, Tensor):
        made = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype)
        return made.fill_(0.5 if value.dtype.is_floating_point else value.dtype == torch.bool)
    if isinstance(value, list | tuple):
        return [_real(each) for each in value]
    if isinstance(value, dict):
        return {name: _real(each) for name, each in value.items()}
    return value
