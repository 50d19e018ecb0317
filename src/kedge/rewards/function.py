"""A Python function as a reward: ``f(prompts, completions, **columns) -> list[float]``.

TRL's signature, so that functions written for its GRPO work as they are: chat prompts arrive as messages and their
completions as ``[{"role": "assistant", "content": ...}]``; ``completion_ids`` and the data's other columns come as
keyword lists; an item may be None (this function does not judge this sample), or a list of floats, one a token.
"""

import importlib
import inspect
import math
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kedge.data.records import Prompt, as_messages
from kedge.engine.engine import Completion
from kedge.errors import ConfigError, RewardError, RewardNotFiniteError
from kedge.rewards.scores import Scores, shown

RewardFunction = Callable[..., Any]


class FunctionReward:
    """Calls the function and checks what it gives."""

    def __init__(self, function: RewardFunction, name: str | None = None) -> None:
        self.function = function
        self.name: str = name or str(getattr(function, "__name__", type(function).__name__))
        parameters = inspect.signature(function).parameters.values()
        self.takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
        self.takes = {p.name for p in parameters}

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> Scores:
        items = self._checked(self._call(prompts, completions), prompts, completions)
        per_token: list[list[float] | None] = [item if isinstance(item, list) else None for item in items]
        values: list[float] = [
            math.nan if item is None else math.fsum(item) if isinstance(item, list) else item for item in items
        ]
        total = [0.0 if isinstance(item, list) else value for item, value in zip(items, values, strict=True)]
        return Scores(total, per_token, {self.name: values})

    def _call(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> Any:
        names = dict.fromkeys(name for prompt in prompts for name in prompt.columns)
        columns: dict[str, list[Any]] = {name: [prompt.columns.get(name) for prompt in prompts] for name in names}
        columns["completion_ids"] = [completion.ids for completion in completions]
        texts = [
            completion.text if isinstance(prompt.text, str) else as_messages(completion.text)
            for prompt, completion in zip(prompts, completions, strict=True)
        ]
        # Last, so that a data column of the same name does not take an argument's place.
        arguments = columns | {"prompts": [prompt.text for prompt in prompts], "completions": texts}
        return self.function(
            **(arguments if self.takes_all else {k: v for k, v in arguments.items() if k in self.takes})
        )

    def _checked(
        self, result: Any, prompts: Sequence[Prompt], completions: Sequence[Completion]
    ) -> list[float | list[float] | None]:
        who = f"reward function {self.name!r}"
        if result is None:
            raise RewardError(f"{who} returned None; it must return a list of {len(completions)} scores")
        result = result.tolist() if hasattr(result, "tolist") else result
        if not isinstance(result, Sequence) or isinstance(result, str):
            raise RewardError(f"{who} returned {type(result).__name__}; it must return a list of scores")
        if len(result) != len(completions):
            raise RewardError(f"{who} returned {len(result)} scores for {len(completions)} completions")
        return [
            self._item(item, who, prompt, completion)
            for item, prompt, completion in zip(result, prompts, completions, strict=True)
        ]

    def _item(self, item: Any, who: str, prompt: Prompt, completion: Completion) -> float | list[float] | None:
        item = item.tolist() if hasattr(item, "tolist") else item
        if item is None:
            return None
        if isinstance(item, Sequence) and not isinstance(item, str):
            if len(item) != len(completion.ids):
                raise RewardError(
                    f"{who} gave {len(item)} per-token scores for {len(completion.ids)} tokens"
                    f"{shown(prompt, completion)}"
                )
            return [self._number(x, who, prompt, completion) for x in item]
        return self._number(item, who, prompt, completion)

    def _number(self, x: Any, who: str, prompt: Prompt, completion: Completion) -> float:
        x = x.item() if hasattr(x, "item") else x  # a number of numpy's or torch's
        if not isinstance(x, int | float) or not math.isfinite(x):
            kind = RewardNotFiniteError if isinstance(x, float) else RewardError
            raise kind(f"{who} gave {x!r}, which is not a finite number, for{shown(prompt, completion)}")
        return float(x)


def is_function_path(text: str) -> bool:
    """Whether ``text`` reads ``package.module:name``."""
    return re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*", text) is not None


def import_function(path: str) -> RewardFunction:
    """The function at ``package.module:name``; modules are looked for in the current folder too.

    Raises:
        ConfigError: no such module, or no such callable in it.
    """
    module_name, _, name = path.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        target: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ConfigError(f"{path}: {error}; modules are looked for in {here} and among the installed ones") from error
    for part in name.split("."):
        if not hasattr(target, part):
            raise ConfigError(f"{path}: {module_name} has no {name!r}")
        target = getattr(target, part)
    if not callable(target):
        raise ConfigError(f"{path}: {name!r} is not a function")
    function: RewardFunction = target
    return function
