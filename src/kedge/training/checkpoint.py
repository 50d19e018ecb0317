"""Checkpoints: written aside and renamed, so that one that is there is whole."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from kedge.errors import ConfigError
from kedge.parallel import Processes
from kedge.tracking import RunFolder

STATE_FILE = "state.pt"


def save_checkpoint(
    folder: Path,
    step: int,
    state: dict[str, Any],
    save_models: Callable[[Path], None],
    *,
    keep_last: int,
    processes: Processes,
) -> Path:
    """Write ``folder/step-000040``: models as plain Hugging Face folders, ``state`` beside them.

    Args:
        state: everything else an exact resume needs (tensors and plain Python values).
        keep_last: older checkpoints than this many are deleted, after the new one is in place.
    """
    target = folder / f"step-{step:06d}"
    aside = folder / f".{target.name}.writing"
    if processes.leads:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
    save_models(aside)
    if not processes.leads:
        return target
    torch.save(state | {"step": step}, aside / STATE_FILE)
    if target.exists():
        shutil.rmtree(target)
    os.replace(aside, target)
    for old in checkpoints(folder)[:-keep_last]:
        shutil.rmtree(old)
    return target


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints there are, oldest first."""
    return sorted(path for path in folder.glob("step-*") if (path / STATE_FILE).is_file())


def to_resume(run: RunFolder | None) -> Path | None:
    """The checkpoint that a run to be resumed goes on from; None for one that begins.

    Raises:
        ConfigError: there is a run, but no checkpoint in it.
    """
    if run is None or not run.resume or not (run.path / "recipe.toml").is_file():
        return None
    found = checkpoints(run.checkpoints)
    if not found:
        raise ConfigError(
            f"{run.path}: no checkpoint in it to go on from; --overwrite begins anew, and checkpoint_every writes some"
        )
    return found[-1]


def load_state(checkpoint: Path) -> dict[str, Any]:
    """The state that :func:`save_checkpoint` wrote."""
    state: dict[str, Any] = torch.load(checkpoint / STATE_FILE, weights_only=True, map_location="cpu")
    return state
