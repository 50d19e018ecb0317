"""What a run keeps, and when: a checkpoint every so many steps, the best one, and one when it has to stop."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from kedge.errors import ConfigError, NumericsError, Stopped
from kedge.parallel import Processes, local
from kedge.runs.folder import Metrics, RunFolder
from kedge.runs.interrupts import Interrupts
from kedge.training.checkpoint import Writing, load_state, named, tidy
from kedge.training.config import TrainingConfig
from kedge.training.sharded_state import PartsWriter

PAUSED = 3
"""Exit status of a run that a guard stopped."""


@dataclass
class Keeper:
    """Keeps a run, where there is a run folder; without one it does nothing."""

    run: RunFolder | None
    config: TrainingConfig
    processes: Processes
    interrupts: Interrupts
    state: Callable[[], dict[str, Any]]
    """Everything but the models that an exact resume needs."""
    write_models: Callable[[Path | None], None]
    tensors: Callable[[], Iterable[Tensor]]
    """All that is trained: never kept where one of them is not finite."""
    watched: str
    """Held-out metric that says which step is the best; with a minus in front, the smaller the better."""
    told: Callable[[Path], object] = lambda folder: None
    """Is given the folder of each checkpoint that was written."""
    best: dict[str, Any] | None = field(default=None, init=False)
    """``{"step", "metric", "value"}``, and ``"lowest": True`` where the smaller is the better."""
    _kept: int = field(default=-1, init=False)
    _writing: Writing | None = field(default=None, init=False)
    """The last checkpoint, where it has not its name yet."""
    _best_then: int | None = field(default=None, init=False)
    """The best step when it was begun."""
    _parts_writer: PartsWriter = field(default_factory=PartsWriter, init=False)

    def after(self, step: int, evaluation: Metrics) -> None:
        """A checkpoint where one is due after ``step``, or where ``evaluation`` is the best so far.

        Raises:
            StorageError: it cannot be written. NumericsError: a weight is not finite.
        """
        every = self.config.checkpoint_every
        if self._writing is not None and self._writing.is_ready():
            self.finish()
        if not every:
            return
        if self._is_best(step, evaluation) or (step and step % every == 0):
            self.keep(step)

    def stop_if_asked(self, step: int) -> None:
        """Keep everything and stop, where a signal asked for it.

        Raises:
            Stopped: with the exit status that a shell expects of the signal.
        """
        if self.run is not None and (signum := self.interrupts.asked()):
            self.stop(step, f"stopped by {signum.name}", 128 + signum)

    def pause(self, step: int, why: str) -> NoReturn:
        """Keep everything and stop, for somebody to look at it.

        Raises:
            Stopped: always, with a status of its own.
        """
        self.stop(step, why, PAUSED)

    def stop(self, step: int, why: str, exit_status: int) -> NoReturn:
        """Keep everything and stop.

        Raises:
            Stopped: always.
        """
        self.keep(step)
        self.finish()
        where = f"; everything is kept in {self.run.path}" if self.run is not None else ""
        raise Stopped(f"{why} after step {step}{where}", exit_status)

    def restore(self, checkpoint: Path, steps: int) -> dict[str, Any]:
        """The state that was kept in ``checkpoint`` of a run of so many steps.

        Raises:
            ConfigError: it has come further than that.
        """
        state = load_state(checkpoint)
        if state["step"] > steps:
            raise ConfigError(f"{checkpoint}: {state['step']} steps are done, which is more than {steps}")
        self.best, self._kept = state["best"], state["step"]
        return state

    def keep(self, step: int) -> None:
        """Write the checkpoint of ``step``, unless it is there; see :meth:`finish`.

        Raises:
            StorageError: it cannot be written. NumericsError: a weight is not finite.
        """
        if self.run is None:
            return
        self.finish()
        best_step = None if self.best is None else self.best["step"]
        if step == self._kept:  # by now it may be the best; or a kill came before all was tidy
            self._tidy(step, best_step)
            return
        with self.processes.agreeing():
            self._refuse_not_finite(step)
            self.run.sync()
        target, state = named(self.run.checkpoints, step), self.state() | {"best": self.best}
        self._writing = Writing(target, state, self.write_models, self.processes, self._parts_writer)
        self._kept, self._best_then = step, best_step
        if self._writing.is_ready():
            self.finish()

    def finish(self) -> None:
        """Wait until the last checkpoint is whole and has its name.

        Raises:
            StorageError: as :meth:`keep`.
        """
        if self._writing is None:
            return
        writing, self._writing = self._writing, None
        writing.finish()
        self._tidy(self._kept, self._best_then)
        self.told(writing.target)

    def _tidy(self, step: int, best_step: int | None) -> None:
        assert self.run is not None
        tidy(self.run.checkpoints, step, keep_last=self.config.keep_last, best_step=best_step, processes=self.processes)

    def _refuse_not_finite(self, step: int) -> None:
        finite = [tensor.isfinite().all() for tensor in self.tensors()]
        if not torch.stack([each.to(finite[0].device) for each in finite]).all():
            raise NumericsError(
                f"step {step}: weights are NaN or infinite, and are not kept; the last checkpoint is as it was. Go on "
                "from it with a lower learning_rate, in a run of another name"
            )

    def check_best_metric(self, measured: Iterable[str]) -> None:
        """Before anything is written or deleted.

        Raises:
            ConfigError: ``best_metric`` names nothing that is measured.
        """
        there, name = sorted(measured), self.watched.removeprefix("-")
        if self.config.checkpoint_every and there and name not in there:
            raise ConfigError(f"best_metric: {name!r} is not measured; there are: {', '.join(there)}")

    def _is_best(self, step: int, evaluation: Metrics) -> bool:
        if not evaluation or step == 0:
            return False
        name = self.watched.removeprefix("-")
        value = evaluation.get(f"eval/{name}", math.nan)  # where the judge abstained from all
        found = {"step": step, "metric": name, "value": value}
        found, sign = (found | {"lowest": True}, -1) if self.watched.startswith("-") else (found, 1)
        # What was the best by another metric, or the other way round, before best_metric was changed at a resume, is
        # nothing to compare with.
        alike = self.best is not None and all(self.best.get(key) == found.get(key) for key in ("metric", "lowest"))
        compared = self.best if alike else None
        if not math.isfinite(value) or (compared is not None and sign * value <= sign * compared["value"]):
            return False
        self.best = found
        return True


def trained_tensors(optimizer: torch.optim.Optimizer) -> Iterable[Tensor]:
    """Weights and moments."""
    for group in optimizer.param_groups:
        for weight in group["params"]:
            yield local(weight.detach())
            yield from (local(x) for x in optimizer.state.get(weight, {}).values() if isinstance(x, Tensor))
