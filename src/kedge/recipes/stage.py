"""A stage: a table of a recipe, and what becomes of it. One registry of them serves recipes, plans and command line.

Imports nothing heavy: ``kedge --help`` shows the stages. A stage imports what it needs where it needs it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from kedge.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from kedge.config.plugins import Registry
    from kedge.config.settings import Config
    from kedge.recipes.recipe import Recipe
    from kedge.runs.folder import RunFolder


class StageJob(Protocol):
    """What a stage does, checked and ready."""

    @property
    def run(self) -> "RunFolder | None":
        """Where it stands."""
        ...

    def train(self) -> Mapping[str, Any]:
        """Do it; what came of it, as ``summary.json`` has it."""
        ...


class Stage(ABC):
    """A table of a recipe and the command of the same name.

    A package brings one with an entry point, ``[project.entry-points."kedge.stages"]`` and ``name = "module:Class"``.
    """

    name: ClassVar[str]
    """Of table and command."""
    about: ClassVar[str]
    """What it makes of what, in a few words: ``Demonstrations -> a policy``."""
    resumes: ClassVar[bool] = True
    """Whether its job can go on from a checkpoint."""
    trains: ClassVar[str] = ""
    """The key of its table, a :class:`~kedge.training.config.TrainingConfig`, that names the model which it trains;
    empty where there is nothing to plan."""

    def missing(self) -> str:
        """What has to be installed before its table can be read; empty where nothing is missing."""
        return ""

    @abstractmethod
    def table(self) -> "type[Config]":
        """The settings that its table may have."""

    @abstractmethod
    def job(self, recipe: "Recipe", *, overwrite: bool, resume: bool) -> StageJob:
        """Its job, checked and ready to train.

        Args:
            recipe: which has its table: ``recipe.stage(name, cls)``.
            overwrite: delete the run that is there.
            resume: go on from its last checkpoint.

        Raises:
            KedgeError: anything that does not fit, before any training.
        """

    def entries(self) -> "Mapping[str, Registry[Any]]":
        """Of keys that hold lists of tables of several kinds, the settings of each kind; ``kedge settings`` shows
        them."""
        return {}

    def run_path(self, name: str, settings: "Config") -> str:
        """Where its run stands, of a recipe of this name."""
        return getattr(settings, "run", None) or f"runs/{name}-{self.name}"

    def work(self, settings: Any, source: str, tokenizer: str | None, untrained: Callable[[str], str]) -> Any:
        """What ``kedge plan`` rehearses, of a stage that ``trains``.

        Args:
            settings: its table.
            source: the model that it starts from.
            tokenizer: where the tokenizer is, when not beside the model.
            untrained: gives what stands for a run of the same recipe that is still to come.

        Raises:
            KedgeError: it cannot be planned.
        """
        raise ConfigError(f"[{self.name}]: the stage does not say how it is planned")

    def show(self, summary: Mapping[str, Any], job: Any, console: "Console") -> None:
        """Print what came of it."""
        say_where(console, job)


def say_where(console: "Console", job: StageJob, result: str = "", then: str | None = None) -> None:
    """The lines that end a command: the run, its result, and what may be typed next.

    Args:
        console: to print on.
        job: what was done.
        result: what the run's folder has in it now.
        then: the command.
    """
    folder = None if job.run is None else job.run.path
    lines = [
        *([f"run: {folder}"] if folder else []),
        *([f"result: {folder}/{result}"] if folder and result else []),
        *([f"next: {then}"] if then else []),
    ]
    if lines:
        console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)
