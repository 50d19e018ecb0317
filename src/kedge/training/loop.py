"""The loop around the steps of every trainer: evaluation, checkpoints, interrupts, callbacks, the summary."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from kedge.parallel import Processes
from kedge.runs.callbacks import Callback, CallbackLike, callbacks_of, is_end
from kedge.runs.folder import Metrics, RunFolder, Timer, close_on_error
from kedge.runs.interrupts import Interrupts
from kedge.runs.progress import ProgressBar, say
from kedge.training.checkpoint import to_resume
from kedge.training.config import TrainingConfig
from kedge.training.keeping import Keeper, trained_tensors
from kedge.training.not_finite import LeftOut
from kedge.training.sharded_state import load_optimizer
from kedge.training.too_long import tell_events


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation found."""

    metrics: Metrics
    """``eval/...``; empty where nothing is held out."""
    samples: Sequence[Mapping[str, Any]] = ()
    """Lines for ``samples.jsonl``, without the step."""


class Trainer(ABC):
    """Steps, and the loop around them. A trainer brings what is abstract here, and calls :meth:`set_up` when its
    models, its optimizer and :attr:`total_steps` are there.

    ``for metrics in trainer`` runs the remaining steps one by one; :meth:`train` runs them all, and sums up.
    """

    label: ClassVar[str]
    """What the progress bar calls it."""
    config: TrainingConfig
    run: RunFolder | None
    processes: Processes
    optimizer: torch.optim.Optimizer
    notes: Sequence[str]
    """What to tell the user, and to write down, before the training begins."""
    progress: bool

    def set_up(self, *, watched: str, callbacks: CallbackLike | Sequence[CallbackLike] | None) -> None:
        """Everything that the loop needs beside the trainer; and where the run is resumed, become what was kept.

        Args:
            watched: the held-out metric that says which checkpoint is the best; with a minus in front, the smaller.
            callbacks: who else looks on.
        """
        self.callbacks: list[Callback] = callbacks_of(callbacks)
        self.timer = Timer()
        self.left_out = LeftOut(self.run, limit=self.config.max_left_out)
        self.interrupts = Interrupts(self.processes)
        self.keeper = Keeper(
            self.run,
            self.config,
            self.processes,
            self.interrupts,
            state=self._whole_state,
            write_models=self.write_models,
            tensors=lambda: trained_tensors(self.optimizer),
            watched=self.config.best_metric or watched,
            told=self._checkpoint_written,
        )
        self.step_done = 0
        self._ended: Evaluated | None = None
        """What was found at the step at which a callback ended the training; empty where nothing was looked at."""
        if self.run is not None:
            self.run.began_with(self.fingerprints())
        if checkpoint := to_resume(self.run, checkpoint_every=self.config.checkpoint_every):
            self.go_on_from(checkpoint)

    # What a trainer brings --------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def total_steps(self) -> int:
        """Steps of the whole job."""

    @abstractmethod
    def work(self) -> Metrics:
        """What one step does. ``self.left_out.note(...)`` keeps what it has at hand for somebody to look at.

        Raises:
            NotFiniteError: the rest of the step is left out.
        """

    @abstractmethod
    def precision(self) -> torch.autocast:
        """The precision that a step computes in."""

    @abstractmethod
    def look_before(self) -> Evaluated:
        """What is there before the first step, evaluated; after a resume, as it was then. Whatever could go wrong with
        judges should go wrong here, before anything is written or deleted."""

    @abstractmethod
    def look(self) -> Evaluated:
        """What is there now, evaluated."""

    @abstractmethod
    def outcome(self, after: Evaluated) -> dict[str, Any]:
        """The trainer's own part of the summary. ``after``: the last evaluation."""

    @abstractmethod
    def save(self, folder: str | Path) -> None:
        """Write the result as it is now, as folders in ``folder``.

        Raises:
            StorageError: it cannot be written; what was there is as it was.
        """

    @abstractmethod
    def write_models(self, checkpoint: Path | None) -> None:
        """Write the models into a checkpoint's folder; None in a process that takes part and does not write."""

    @abstractmethod
    def load_models(self, checkpoint: Path) -> None:
        """Read back what :meth:`write_models` wrote."""

    @abstractmethod
    def fingerprints(self) -> dict[str, str]:
        """What the run is given, before anything is trained: a resumed run must be given the same."""

    def close(self) -> None:  # noqa: B027 (most hold nothing)
        """Give back what is held beside memory; nothing is asked of the trainer after that."""

    def state(self) -> dict[str, Any]:
        """What a resume needs besides models, optimizer and what the loop knows."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:  # noqa: B027 (most have no state of their own)
        """Become what :meth:`state` said."""

    def counted(self, metrics: Metrics, seconds: Mapping[str, float]) -> Metrics:
        """More metrics of a step, left out or not.

        Args:
            metrics: those of the step's work.
            seconds: by phase.
        """
        return {}

    def measured(self, before: Evaluated) -> Iterable[str]:
        """The names that ``best_metric`` may have; none: any."""
        return [name.removeprefix("eval/") for name in before.metrics]

    def watch(self, metrics: Metrics) -> tuple[list[str], str | None]:
        """What to say of a step, and why the run should be paused there, if it should."""
        return [], None

    def live(self, metrics: Metrics) -> tuple[tuple[str, ...], dict[str, float]]:
        """Lines under the progress bar, and numbers at its end."""
        return (), {}

    # The loop ---------------------------------------------------------------------------------------------------

    def train(self) -> dict[str, Any]:
        """Run all remaining steps; returns the summary: before and after on what is held out, seconds by phase.

        Raises:
            Stopped: Ctrl-C, SIGTERM or a guard asked for it; a run with a folder has kept all that it needs to go on.
        """
        with self.interrupts if self.run is not None else nullcontext(), close_on_error(self.run):
            for _ in self:
                pass
            return self.summary()

    def __iter__(self) -> Iterator[Metrics]:
        """The remaining steps one by one, each giving its metrics; evaluations and checkpoints happen on the way."""
        self._ended = None
        for note in self.notes:
            say(note)
        before = self.look_before()
        self.keeper.check_best_metric(self.measured(before))
        if self.run is not None:
            self.run.start()
            self.run.forget_after(self.step_done, evaluation_too=self.step_done in (0, self.total_steps))
        if self.step_done == 0:
            tell_events(self.run, self.notes)
            self._kept(before)
        with (
            ProgressBar(self.label, self.total_steps, enabled=self.progress, start=self.step_done) as bar,
            close_on_error(self.run),
        ):
            with self.processes.agreeing():
                for callback in self.callbacks:
                    callback.on_training_start(self)
            going_on = True
            while self.step_done < self.total_steps and going_on:
                self.keeper.stop_if_asked(self.step_done)
                metrics = self.step()
                self.step_done += 1
                looked = self.look() if self._looks_now() else Evaluated({})
                evaluation = self._written(looked)
                why = self._record(metrics | evaluation, bar)
                self.keeper.after(self.step_done, evaluation)
                lines, numbers = self.live(metrics)
                bar.advance(*lines, by=1, **numbers)
                going_on = self._tell(metrics, evaluation)
                if why is not None:
                    self.keeper.pause(self.step_done, why)
                if not going_on:
                    self._ended = looked
                    if self.config.checkpoint_every:  # it may go on later
                        self.keeper.keep(self.step_done)
                yield metrics | evaluation
            self.keeper.stop_if_asked(self.step_done)
            self.keeper.finish()
            with self.processes.agreeing():
                for callback in self.callbacks:
                    callback.on_training_end(self)

    def step(self) -> Metrics:
        """Do one step, which the loop counts; where a number in it is not finite, the rest of it is left out."""
        metrics: Metrics = {"train/left_out": 1.0}
        with self.timer.lap() as seconds, self.precision(), self.left_out.around(self.step_done + 1):
            metrics = self.work()
        return metrics | self.counted(metrics, seconds)

    def summary(self) -> dict[str, Any]:
        """Save the result, evaluate it, and sum up; written to the run."""
        if self.run is not None:  # before the evaluation, which may fail as any judge may
            self.run.start()  # once more, where the loop was left
            self.save(self.run.path)
        after = self._ended if self._ended is not None and self._ended.metrics else self._kept(self.look())
        summary = {"steps": self.step_done} | self.outcome(after)
        if self.keeper.best is not None:
            summary["best"] = self.keeper.best
        summary["seconds"] = {phase: round(seconds, 3) for phase, seconds in self.timer.seconds.items()}
        if self.run is not None:
            self.run.write_summary(summary)
        return summary

    def _looks_now(self) -> bool:
        every = self.config.eval_every
        return bool(every) and self.step_done % every == 0 and self.step_done < self.total_steps

    def _kept(self, evaluated: Evaluated) -> Evaluated:
        """An evaluation at the beginning or the end, written down, with a checkpoint where it is the best."""
        metrics = self._written(evaluated)
        begins_or_ends = self.step_done in (0, self.total_steps) or self._ended is not None
        if self.run is not None and metrics and begins_or_ends:
            self.run.complete_metrics(self.step_done, metrics)
        self.keeper.after(self.step_done, metrics)
        self.keeper.finish()
        return evaluated

    def _written(self, evaluated: Evaluated) -> Metrics:
        """The metrics of an evaluation whose samples have been written."""
        if self.run is not None and evaluated.samples:
            self.run.write_samples(
                {"step": self.step_done, "policy_version": self.step_done, "split": "eval", **sample}
                for sample in evaluated.samples
            )
        return evaluated.metrics

    def _record(self, metrics: Metrics, bar: ProgressBar) -> str | None:
        """Write a step's line, and say what there is to say of it; returns why the run should be paused."""
        if self.run is not None and metrics:
            self.run.write_metrics(self.step_done, metrics)
        said, why = self.watch(metrics)
        for message in said:
            bar.say(message)
        return why

    def _tell(self, metrics: Metrics, evaluation: Metrics) -> bool:
        """Callbacks; whether all of them, on all processes, want the training to go on."""

        def ends() -> list[bool]:
            answers = [callback.on_step(self, metrics | evaluation) for callback in self.callbacks]
            if evaluation:
                answers += [callback.on_evaluation(self, evaluation) for callback in self.callbacks]
            return [is_end(answer) for answer in answers]

        return not any(self.processes.gather(ends))

    def _checkpoint_written(self, folder: Path) -> None:
        with self.processes.agreeing():
            for callback in self.callbacks:
                callback.on_checkpoint(self, folder)

    # Keeping ----------------------------------------------------------------------------------------------------

    def _whole_state(self) -> dict[str, Any]:
        # No random state: every stream is a function of the seed and the step.
        return self.state() | {
            "optimizer": self.optimizer.state_dict(),
            "left_out": self.left_out.in_a_row,
            "seconds": self.timer.seconds,
        }

    def go_on_from(self, checkpoint: Path) -> None:
        """Become what was kept in ``checkpoint``."""
        state = self.keeper.restore(checkpoint, self.total_steps)
        self.load_models(checkpoint)
        load_optimizer(self.optimizer, state["optimizer"], checkpoint)
        self.left_out.in_a_row = state["left_out"]
        self.timer.seconds = state["seconds"]
        self.restore(state)
        self.step_done = state["step"]
