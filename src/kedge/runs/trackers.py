"""Where a run's metrics go besides metrics.jsonl, under the same names: TensorBoard, Weights & Biases.

A resumed run goes on in the same place, and no step stands there twice: TensorBoard is told to forget the steps that
are done again; Weights & Biases keeps what it has. What a tracker lost, or never had, it gets from metrics.jsonl.
"""

import os
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from kedge.errors import ConfigError

TrackerName = Literal["tensorboard", "wandb"]
Row = Mapping[str, Any]
"""A line of metrics.jsonl: ``step``, and metrics by name."""


@dataclass(frozen=True)
class Past:
    """What a run that begins, or is resumed, has behind it."""

    first: int
    """The step from which on something will be written."""
    rows: list[Row] = field(default_factory=list)
    """The lines of metrics.jsonl, which stay."""


class Tracker(Protocol):
    """Takes the metrics of a run as they come."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Metrics of one step."""
        ...

    def close(self) -> None:
        """No more will come."""
        ...


def refuse_uninstalled(names: Sequence[TrackerName]) -> None:
    """Import what the trackers need.

    Raises:
        ConfigError: one of them is not installed; it names the extra.
    """
    for name in names:
        try:
            if name == "wandb":
                from wandb import init  # noqa: F401  a folder wandb/ can be imported too, but has no such name
            else:
                from torch.utils.tensorboard import SummaryWriter  # noqa: F401
        except ImportError as error:
            raise ConfigError(f"report_to={name!r}: {error}; pip install 'kedge[{name}]'") from None


def open_tracker(name: TrackerName, folder: Path, recipe: Mapping[str, Any], past: Past) -> Tracker:
    """The tracker, which writes into ``folder/<name>``.

    Raises:
        ConfigError: Weights & Biases refuses, such as one who is not logged in.
    """
    trackers: dict[TrackerName, Callable[[Path, Mapping[str, Any], Past], Tracker]]
    trackers = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}
    return trackers[name](folder, recipe, past)


class TensorBoard:
    """Event files, read by ``tensorboard --logdir runs``."""

    def __init__(self, folder: Path, recipe: Mapping[str, Any], past: Past) -> None:
        from torch.utils.tensorboard import SummaryWriter

        target = folder / "tensorboard"
        since = past.first if target.exists() else 0  # switched on at a resume it gets the steps before, too
        self._writer = SummaryWriter(str(target), purge_step=since)
        for row in past.rows:
            if row["step"] >= since:
                self.log(row["step"], metrics_of(row))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()  # a run that is killed loses nothing

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run of the project ``kedge``, or ``WANDB_PROJECT``; ``WANDB_MODE=offline`` and its kin count."""

    def __init__(self, folder: Path, recipe: Mapping[str, Any], past: Past) -> None:
        import wandb

        files = folder / "wandb"
        files.mkdir(exist_ok=True)
        remembered, before = files / "run-id.txt", list(files.glob("offline-run-*"))
        if not remembered.is_file():
            remembered.write_text(os.environ.get("WANDB_RUN_ID") or secrets.token_hex(4), encoding="utf-8")
        try:
            self._run = wandb.init(
                dir=str(folder),
                id=remembered.read_text(encoding="utf-8"),
                resume="allow",
                reinit="create_new",  # another run that is under way in this process is left alone
                project=os.environ.get("WANDB_PROJECT") or "kedge",
                name=os.environ.get("WANDB_NAME") or folder.name,
                config=dict(recipe),
                settings=wandb.Settings(console="off"),  # a progress bar makes thousands of lines
            )
        except wandb.Error as error:
            raise ConfigError(
                f"report_to='wandb': {error}; try `wandb login`, or WANDB_MODE=offline in the environment"
            ) from error
        # What it has; offline nothing, for a file begins anew each time, and one of a killed run is not whole.
        self._next = self._run.step
        for row in past.rows:
            self.log(row["step"], metrics_of(row))
        for superseded in before if self._run.offline else ():
            shutil.rmtree(superseded)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        if step >= self._next:
            self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        self._run.finish()


def metrics_of(row: Row) -> dict[str, float]:
    """The metrics of a line of metrics.jsonl; null, which stands for NaN and infinity, says nothing."""
    return {name: value for name, value in row.items() if name != "step" and value is not None}
