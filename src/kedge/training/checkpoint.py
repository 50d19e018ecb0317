"""Checkpoints: written aside, synced and renamed, so that one that is there is whole; checked before one is used."""

import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from kedge.errors import ConfigError, StorageError
from kedge.parallel import Processes
from kedge.runs.folder import RunFolder
from kedge.runs.progress import say
from kedge.storage.checkpoints import CHECKSUMS_FILE, checkpoints, checksum, damage_in, step_of
from kedge.storage.writing import aside_of, remove_folder, storage, whole_folder
from kedge.training.sharded_state import FOLDER, PartsWriter, refuse_unshared, taken_apart, written

STATE_FILE = "state.pt"
BEST = "best"


class Writing:
    """A checkpoint that is being written: models as plain Hugging Face folders, the rest of the state and everything's
    checksums beside. Where models are sharded, the optimizer's parts are written while the training goes on. Every
    process has one, and calls each of these together with the others.

    Args:
        target: ``.../step-000040``.
        state: everything that an exact resume needs beside the models (tensors and plain Python values).
        write_models: writes them into the folder it is given; None in a process that does not write.
        processes: one of them writes, but for the optimizer's parts.
        parts_writer: writes these.

    Raises:
        StorageError: it cannot be written; the ones before it are as they were.
    """

    def __init__(
        self,
        target: Path,
        state: dict[str, Any],
        write_models: Callable[[Path | None], None],
        processes: Processes,
        parts_writer: PartsWriter,
    ) -> None:
        self.target, self.processes = target, processes
        self._parts = aside_of(target) / FOLDER
        self._saving: Future[Any] | None = None
        with ExitStack() as folder:
            with processes.agreeing():
                self._aside = folder.enter_context(whole_folder(target)) if processes.leads else None
            optimizer, parts = taken_apart(state["optimizer"])
            with processes.agreeing(), storage(target):
                write_models(self._aside)
                if self._aside is not None:
                    torch.save(state | {"optimizer": optimizer, "step": step_of(target)}, self._aside / STATE_FILE)
                if parts:
                    refuse_unshared(self._parts)
            if parts:
                self._saving = parts_writer.begin(parts, self._parts)
            self._folder = folder.pop_all()

    def is_ready(self) -> bool:
        """Whether there is nothing to wait for, in any of the processes."""
        return all(self.processes.gather(lambda: [self._saving is None or self._saving.done()]))

    def finish(self) -> None:
        """Wait for what is still being written, and let the checkpoint have its name.

        Raises:
            StorageError: in all of the processes; it cannot be written, and the ones before it are as they were.
        """
        with self.processes.agreeing(), self._folder, self.processes.agreeing(), storage(self.target):
            if self._saving is not None:
                written(self._saving, self._parts)
            if self._aside is not None:
                sums = {name: checksum(self._aside / name) for name in _files(self._aside)}
                (self._aside / CHECKSUMS_FILE).write_text(json.dumps(sums, indent=1), encoding="utf-8")


def tidy(folder: Path, step: int, *, keep_last: int, best_step: int | None, processes: Processes) -> None:
    """Point at the best checkpoint, and delete those before ``step`` that need not be kept, and what a kill left.

    Every process calls it.

    Raises:
        StorageError: it cannot be done.
    """
    with processes.agreeing():
        if processes.leads:
            _tidy(folder, step, keep_last, best_step)


def _tidy(folder: Path, step: int, keep_last: int, best_step: int | None) -> None:
    with storage(folder):
        if best_step is not None:
            _link(folder / BEST, named(folder, best_step).name)
        for left_by_a_kill in folder.glob(".step-*"):
            shutil.rmtree(left_by_a_kill)
        older = [path for path in checkpoints(folder) if step_of(path) < step]
        for old in older[: max(0, len(older) - (keep_last - 1))]:
            if best_step is None or step_of(old) != best_step:
                remove_folder(old)


def to_resume(run: RunFolder | None, *, checkpoint_every: int) -> Path | None:
    """The checkpoint that a run to be resumed goes on from; None for one that begins.

    A damaged one is named and the one before it used. A run that was killed before its first begins again.

    Raises:
        ConfigError: there is a run that writes no checkpoints. StorageError: there are only damaged ones.
    """
    if run is None or not run.resume or not (run.path / "recipe.toml").is_file():
        return None
    found = checkpoints(run.checkpoints)
    if not found and not checkpoint_every:
        raise ConfigError(
            f"{run.path}: no checkpoint in it to go on from; overwrite=True begins anew, and checkpoint_every "
            "writes some"
        )
    damages = []
    for checkpoint in reversed(found):
        damage = damage_in(checkpoint)
        if damage is None:
            return checkpoint
        damages.append(damage)
        say(f"{damage}; it is left alone, and the checkpoint before it used")
    if damages:
        raise StorageError(
            "\n".join([*damages, f"{run.path}: no whole checkpoint is left; overwrite=True begins anew"])
        )
    say(f"{run.path}: no checkpoint yet; the run begins again")
    return None


def load_state(checkpoint: Path) -> dict[str, Any]:
    """The state that a :class:`Writing` wrote."""
    state: dict[str, Any] = torch.load(checkpoint / STATE_FILE, weights_only=True, map_location="cpu")
    return state


def named(folder: Path, step: int) -> Path:
    return folder / f"step-{step:06d}"


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _link(link: Path, target: str) -> None:
    aside = link.with_name(f".{link.name}.writing")
    aside.unlink(missing_ok=True)
    aside.symlink_to(target)
    if link.is_dir() and not link.is_symlink():  # the run was copied by something that follows links
        remove_folder(link)
    os.replace(aside, link)
