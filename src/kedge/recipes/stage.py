"""A stage: a table of a recipe, and what becomes of it. One registry of them serves recipes, plans and command line.

Imports nothing heavy: ``kedge --help`` shows the stages. A stage imports what it needs where it needs it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    from rich.console import Console

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
    """The key of its table that names the model which it trains; empty where there is nothing to plan."""

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

    def entries(self) -> "Mapping[str, Mapping[str, type[Config]]]":
        """``{key: {kind: its settings}}`` of keys that hold lists of tables of several kinds; ``kedge settings`` shows
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
        """
        raise NotImplementedError(f"stage {self.name!r} trains {self.trains!r} and does not say how that is planned")

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
    assert job.run is not None
    folder = job.run.path
    lines = [
        f"run: {folder}",
        *([f"result: {folder}/{result}"] if result else []),
        *([f"next: {then}"] if then else []),
    ]
    console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)
