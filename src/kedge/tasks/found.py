"""Tasks by name: those that are built in or installed, and a user's own by where it is."""

import hashlib
import importlib.util
import inspect
import sys
from pathlib import Path
from typing import Any

from kedge.config.plugins import Registry
from kedge.config.settings import nearest
from kedge.errors import ConfigError
from kedge.rewards.foreign import import_function, is_function_path
from kedge.tasks.acts_to_reply import ActsToReply
from kedge.tasks.augmentation import Augmentation
from kedge.tasks.data_to_text import DataToText
from kedge.tasks.entities import NewsEntities, TweetEntities
from kedge.tasks.functions import Functions
from kedge.tasks.intents import BankingIntents, SupportIntents
from kedge.tasks.knowledge_graph import TextToTriples
from kedge.tasks.labels import FinancialOpinion, NewsTitles
from kedge.tasks.links import Links
from kedge.tasks.music.task import Tunes
from kedge.tasks.questions import Questions
from kedge.tasks.recommendation import Recommendation
from kedge.tasks.stories import Stories
from kedge.tasks.summaries import Summaries
from kedge.tasks.sums import Sums
from kedge.tasks.support_desk.task import SupportDesk
from kedge.tasks.task import Task
from kedge.tasks.tickets import Tickets
from kedge.tasks.translation import Translation
from kedge.tasks.xquad import XQuAD

BUILT_IN = {
    task.name: task
    for task in (
        SupportDesk, Tickets, ActsToReply, BankingIntents, SupportIntents, Recommendation, FinancialOpinion,
        NewsTitles, NewsEntities, TweetEntities, TextToTriples, Links, Translation, Questions, XQuAD, DataToText,
        Summaries, Stories, Functions, Sums, Augmentation, Tunes,
    )
}  # fmt: skip

TASKS = Registry[Task]("task", Task, "kedge.tasks", BUILT_IN)


def task_names() -> list[str]:
    """Of those that have a name, the built-in ones first."""
    return TASKS.names()


def find_task(what: str) -> type[Task]:
    """A task's class.

    Args:
        what: its name, ``package.module:Class``, or ``path/to/file.py:Class``.

    Raises:
        ConfigError: there is none, or what is there is no task.
    """
    place, _, name = what.rpartition(":")
    if place.endswith(".py"):
        return TASKS.checked(_from_file(Path(place).expanduser(), name), f"{what}:")
    if is_function_path(what):
        return TASKS.checked(import_function(what), f"{what}:")
    return TASKS.get(what, otherwise="; one of your own is named by its place, path/to/file.py:Class")


def new_task(what: str, folder: Path | None = None) -> Task:
    """A task, ready to be learnt.

    Args:
        what: as :func:`find_task` takes it.
        folder: where its data is; None: it needs none, or knows.

    Raises:
        ConfigError: as :func:`find_task`; it needs a folder, or takes none, or wants something else.
    """
    kind = find_task(what)
    parameters = inspect.signature(kind).parameters
    if others := [each.name for each in parameters.values() if each.name != "folder" and _is_required(each)]:
        raise ConfigError(f"{what}: its class must be given {', '.join(others)}; only a folder is; make them optional")
    takes = parameters.get("folder")
    if takes is None:
        if folder is not None:
            raise ConfigError(f"--data: the task {kind.name} reads no folder; take it out")
        return kind()
    if folder is not None:
        return kind(folder=folder)  # type: ignore[call-arg]
    if takes.default is inspect.Parameter.empty:
        raise ConfigError(f"{kind.name}: needs --data{f', {kind.needs}' if kind.needs else ''}")
    return kind()


def _is_required(parameter: inspect.Parameter) -> bool:
    collects = parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return parameter.default is inspect.Parameter.empty and not collects


def _from_file(path: Path, name: str) -> Any:
    if not path.is_file():
        raise ConfigError(f"{path}: no such file")
    whole = path.resolve()
    module_name = f"kedge_task_{path.stem}_{hashlib.sha256(str(whole).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(module_name, whole)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # so that its classes can be pickled and its source be read
    try:
        spec.loader.exec_module(module)
    except (ImportError, SyntaxError, UnicodeDecodeError) as error:
        del sys.modules[module_name]
        raise ConfigError(f"{path}: cannot be imported: {error}") from error
    if not hasattr(module, name):
        classes = [key for key, value in vars(module).items() if isinstance(value, type) and issubclass(value, Task)]
        raise ConfigError(f"{path}: has no {name!r}; {nearest(name, [key for key in classes if key != Task.__name__])}")
    return getattr(module, name)
