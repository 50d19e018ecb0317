"""Tasks by name: those that are built in or installed, and a user's own by where it is."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

from kedge.config.plugins import load, plugins
from kedge.config.settings import nearest
from kedge.errors import ConfigError
from kedge.rewards.foreign import import_function, is_function_path
from kedge.tasks.support_desk.task import SupportDesk
from kedge.tasks.task import Task

GROUP = "kedge.tasks"
"""Entry points of packages that bring tasks: ``[project.entry-points."kedge.tasks"]``, ``name = "module:Class"``."""

BUILT_IN: dict[str, type[Task]] = {SupportDesk.name: SupportDesk}


def task_names() -> list[str]:
    """Of those that have a name, the built-in ones first."""
    return list(dict.fromkeys([*BUILT_IN, *plugins(GROUP)]))


def find_task(what: str) -> type[Task]:
    """A task's class.

    Args:
        what: its name, ``package.module:Class``, or ``path/to/file.py:Class``.

    Raises:
        ConfigError: there is none, or what is there is no task.
    """
    place, _, name = what.rpartition(":")
    if what in BUILT_IN:
        return BUILT_IN[what]
    if place.endswith(".py"):
        found: Any = _from_file(Path(place).expanduser(), name)
    elif is_function_path(what):
        found = import_function(what)
    elif what in (installed := plugins(GROUP)):
        found = load(installed[what])
    else:
        raise ConfigError(
            f"no task is called {what!r}; {nearest(what, task_names())}; one of your own is named by its place, "
            "path/to/file.py:Class"
        )
    if not (isinstance(found, type) and issubclass(found, Task)):
        raise ConfigError(f"{what}: is no task, which is a subclass of kedge.tasks.Task")
    return found


def _from_file(path: Path, name: str) -> Any:
    if not path.is_file():
        raise ConfigError(f"{path}: no such file")
    module_name = f"kedge_task_{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # so that its classes can be pickled and its source be read
    spec.loader.exec_module(module)
    if not hasattr(module, name):
        classes = [key for key, value in vars(module).items() if isinstance(value, type) and issubclass(value, Task)]
        raise ConfigError(f"{path}: has no {name!r}; {nearest(name, classes)}")
    return getattr(module, name)
