"""The user's function: where it is found, and what it gives, in plain Python. Imports no torch: workers import this."""

import copy
import importlib
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kedge.errors import ConfigError

RewardFunction = Callable[..., Any]

MOVED = {"kedge.data.support_desk": "kedge.tasks.support_desk"}
"""Modules that recipes and runs of earlier versions name, and where they are now."""


@dataclass(frozen=True)
class TrainerState:
    """How far the training is, under the names of transformers' ``TrainerState``, which TRL gives its functions.

    Where nothing trains (``kedge evaluate``) it is all zeros.
    """

    global_step: int = 0
    """Steps done."""
    max_steps: int = 0
    """Steps of the whole run."""
    epoch: float = 0.0
    """Passes over the prompts done."""
    num_train_epochs: int = 0
    """Passes over the prompts that the whole run begins."""


def is_function_path(text: str) -> bool:
    """Whether ``text`` reads ``package.module:name``."""
    return re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*", text) is not None


def import_function(path: str) -> RewardFunction:
    """The function at ``package.module:name``; modules are looked for in the current folder too.

    Raises:
        ConfigError: no such module, or no such callable in it.
    """
    target = import_object(path)
    if not callable(target):
        raise ConfigError(f"{path}: {path.partition(':')[2]!r} is not a function")
    function: RewardFunction = target
    return function


def import_object(path: str) -> Any:
    """Whatever stands at ``package.module:name``.

    Raises:
        ConfigError: no such module, or nothing of that name in it.
    """
    module_name, _, name = path.partition(":")
    for before, now in MOVED.items():
        if module_name == before or module_name.startswith(f"{before}."):
            module_name = now + module_name.removeprefix(before)
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        target: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ConfigError(f"{path}: {error}; modules are looked for in {here} and among the installed ones") from error
    except SystemExit as error:
        raise ConfigError(
            f"{path}: {module_name} calls sys.exit({error.code!r}) when it is imported; what is only for running it "
            "as a script belongs under `if __name__ == '__main__':`"
        ) from error
    for part in name.split("."):
        if not hasattr(target, part):
            raise ConfigError(f"{path}: {module_name} has no {name!r}")
        target = getattr(target, part)
    return target


def own_copy(value: Any) -> Any:
    """A copy that may be changed without anybody noticing. What is no list, dict, tuple or array goes as it is."""
    if isinstance(value, str | int | float | None):  # nearly everything, and nobody can change it
        return value
    if isinstance(value, dict):
        return {key: own_copy(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [own_copy(inner) for inner in value]
    if type(value) is tuple:  # and not one with names
        return tuple(own_copy(inner) for inner in value)
    return copy.deepcopy(value) if hasattr(value, "__array__") else value


def as_plain(result: Any) -> Any:
    """Arrays, tensors and their numbers, in lists too, as lists and numbers."""
    if hasattr(result, "tolist"):
        return result.tolist()
    if isinstance(result, list | tuple):
        return [as_plain(item) for item in result]
    return result.item() if hasattr(result, "item") else result
