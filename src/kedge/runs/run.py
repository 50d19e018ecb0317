"""A run's folder, read: its recipe, what it measured, what it wrote, what it left."""

import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kedge.config.settings import flattened, read_recipe
from kedge.errors import ConfigError
from kedge.storage.checkpoints import checkpoints
from kedge.storage.locking import is_taken

if TYPE_CHECKING:
    import pandas

State = Literal["done", "running", "stopped"]

RESULTS = ("policy", "reward_model", "agent")
"""Folders that a run ends with."""

PARTS = (*RESULTS, "critic", "checkpoints")
"""Folders in a run that stand for it."""

WRITTEN = ("metrics.jsonl", "summary.json", "fingerprints.json")
"""What tells a run from a folder with a recipe for one in it."""


def open_run(path: str | Path) -> "Run":
    """The run of a folder: ``open_run("runs/x").frame()``.

    Args:
        path: the run's folder, or a result or a checkpoint in it.

    Raises:
        ConfigError: there is no run; those beneath the folder are named.
    """
    given = Path(path).expanduser()
    found = run_of(given)
    beneath = [str(run.path) for run in runs_in(given) if run.path != given][:8] if given.is_dir() else []
    if found and not (beneath and found.path == given):  # there may be a recipe for several runs beside them
        return found
    hint = f"; runs beneath it: {', '.join(beneath)}" if beneath else ""
    raise ConfigError(f"{path}: no run (no recipe.toml in it){hint}")


def run_of(path: str | Path) -> "Run | None":
    """The run that a folder is, or is a part of: a result or a checkpoint of; None where it is of none."""
    given = Path(path).expanduser()
    whole = given.absolute()
    for folder in (whole, *whole.parents[:3]):
        inside = whole.relative_to(folder).parts
        if (folder / "recipe.toml").is_file() and (not inside or inside[0] in PARTS):
            return Run(folder if inside else given)
    return None


def runs_in(folder: str | Path) -> list["Run"]:
    """The runs beneath a folder, itself included, by the name of their folders. Runs of runs are found; what lies in a
    run that has run, its checkpoints and models, is not looked at."""
    return [Run(found) for found in _folders(Path(folder).expanduser())]


def _folders(folder: Path) -> Iterator[Path]:
    is_run = (folder / "recipe.toml").is_file() and any((folder / name).is_file() for name in WRITTEN)
    if is_run:
        yield folder
        return
    for inner in sorted(folder.iterdir()):
        if inner.is_dir() and not inner.is_symlink() and not inner.name.startswith("."):
            yield from _folders(inner)


class Run:
    """A run's folder. Files are read when they are asked for, so that one that is being written can be watched.

    Args:
        path: the folder, with ``recipe.toml`` in it. :func:`open_run` takes more.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @cached_property
    def recipe(self) -> dict[str, Any]:
        """The tables of its recipe: every setting in force.

        Raises:
            ConfigError: it is not TOML.
        """
        return read_recipe(self.path / "recipe.toml")

    @property
    def stage(self) -> str:
        """The table that it is a run of: ``sft``, ``reward``, ``ppo``, ``evaluate``, ``control``; of several, all."""
        return ", ".join(name for name, table in self.recipe.items() if isinstance(table, Mapping))

    @property
    def settings(self) -> dict[str, Any]:
        """``{"ppo.kl_coef": 0.05, ...}``."""
        return flattened({name: table for name, table in self.recipe.items() if isinstance(table, Mapping)})

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The lines of ``metrics.jsonl``; NaN and infinity stand there as None."""
        return self._lines("metrics.jsonl")

    @property
    def metrics(self) -> dict[str, list[float | None]]:
        """A column a metric, a row a step; None where a step has none. The first is ``step``."""
        rows = self.rows
        return {name: [row.get(name) for row in rows] for name in dict.fromkeys(name for row in rows for name in row)}

    def frame(self) -> "pandas.DataFrame":
        """:attr:`metrics` as a data frame by step."""
        import pandas  # heavy, and only this needs it

        columns = {name: pandas.Series(column, dtype="float64") for name, column in self.metrics.items()}
        table = pandas.DataFrame(columns)
        return table.astype({"step": int}).set_index("step") if "step" in table else table

    def last(self, metric: str) -> float | None:
        """The last number of a metric; None where there is none."""
        return next((row[metric] for row in reversed(self.rows) if row.get(metric) is not None), None)

    @property
    def samples(self) -> list[dict[str, Any]]:
        """The lines of ``samples.jsonl``: prompt, completion, scores."""
        return self._lines("samples.jsonl")

    @property
    def events(self) -> list[dict[str, Any]]:
        """The lines of ``events.jsonl``: what a guard said, steps that were left out."""
        return self._lines("events.jsonl")

    @property
    def summary(self) -> dict[str, Any] | None:
        """``summary.json``; None for a run that is not at its end."""
        file = self.path / "summary.json"
        return _read(file.read_text(encoding="utf-8"), str(file)) if file.is_file() else None

    @property
    def checkpoints(self) -> list[Path]:
        """Oldest first."""
        return checkpoints(self.path / "checkpoints")

    @property
    def result(self) -> Path:
        """The folder that it trained: its policy, reward model or agent.

        Raises:
            ConfigError: it is not at its end, or an evaluation. ``load_language_model(run.path)`` takes the last whole
                checkpoint then.
        """
        for name in RESULTS:
            if (self.path / name).is_dir():
                return self.path / name
        raise ConfigError(f"{self.path}: nothing trained in it yet ({', '.join(RESULTS)})")

    @property
    def step(self) -> int:
        """Steps done."""
        rows = self.rows
        return int(rows[-1]["step"]) if rows else 0

    @property
    def state(self) -> State:
        """Whether a process is at work on it, or it came to its end, or neither."""
        if is_taken(self.path):
            return "running"
        return "done" if (self.path / "summary.json").is_file() else "stopped"

    def _lines(self, name: str) -> list[dict[str, Any]]:
        file = self.path / name
        # The last line is being written, or was when the run was killed. No splitlines, for a sample may contain more
        # kinds of line ends than the file has.
        whole = file.read_bytes().split(b"\n")[:-1] if file.is_file() else []
        return [_read(line.decode(), f"{file}: line {number}") for number, line in enumerate(whole, start=1)]


def _read(text: str, origin: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{origin}: not JSON: {error}") from None
