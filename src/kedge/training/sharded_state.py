"""What of an optimizer's state is spread over the processes, in a checkpoint: PyTorch's DCP writes and reads it.

Every process writes its own parts, beside the training; and reads what it has of them, whatever their number was when
they were written, and whether they were parts then.
"""

import warnings
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from kedge.errors import StorageError
from kedge.parallel import part_of

FOLDER = "optimizer"

COMPUTED = ("fused", "foreach")
"""Settings of an optimizer that change nothing but the way in which its step is computed."""

Parts = dict[str, Tensor]
"""By the number of a weight among those of the optimizer, and the name of what is remembered of it: ``"3.exp_avg"``."""


def taken_apart(state: Mapping[str, Any]) -> tuple[dict[str, Any], Parts]:
    """An optimizer's ``state_dict`` without what is spread over the processes; and that."""
    parts: Parts = {}
    rest: dict[int, dict[str, Any]] = {}
    for number, remembered in state["state"].items():
        sharded = {name: value for name, value in remembered.items() if isinstance(value, DTensor)}
        rest[number] = {name: value for name, value in remembered.items() if name not in sharded}
        parts |= {f"{number}.{name}": value for name, value in sharded.items()}
    return {**state, "state": rest}, parts


class PartsWriter:
    """Writes parts in the background, over connections of its own: the training goes on with those that there are."""

    def __init__(self) -> None:
        self._group: dist.ProcessGroup | None = None

    def begin(self, parts: Parts, folder: Path) -> "Future[Any]":
        """Copy the parts, and write the copies. All processes call it together.

        Args:
            parts: this process's.
            folder: that all of them see.
        """
        if self._group is None:
            self._group = dist.new_group(backend="gloo")
        saving: Future[Any] = dcp.async_save(parts, checkpoint_id=folder, process_group=self._group)  # type: ignore[assignment]
        return saving


def refuse_unshared(folder: Path) -> None:
    """Raise where this process does not see the folder that another one has made for the parts.

    Raises:
        StorageError: it does not.
    """
    if not folder.parent.is_dir():
        raise StorageError(
            f"{folder.parent}: this host does not see it; a sharded run's folder must be one that all hosts share"
        )


def written(saving: "Future[Any]", folder: Path) -> None:
    """Wait until a writing is done.

    Raises:
        StorageError: it failed, in whichever process.
    """
    try:
        saving.result()
    except CheckpointException as error:
        why = "; ".join(f"process {rank}: {each[0]}" for rank, each in error.failures.items())
        raise StorageError(f"{folder}: {why}") from None


def load_optimizer(optimizer: Optimizer, state: Mapping[str, Any], checkpoint: Path) -> None:
    """Have an optimizer go on as the one that was kept.

    Args:
        optimizer: with weights like that one's, sharded or not.
        state: its ``state_dict``, without what :func:`taken_apart` took out.
        checkpoint: in which that stands.
    """
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    remembered = {number: dict(each) for number, each in state["state"].items()}
    if (checkpoint / FOLDER).is_dir():
        for key, value in _read(checkpoint / FOLDER, weights).items():
            number, _, name = key.partition(".")
            remembered[int(number)][name] = value
    for number, each in remembered.items():
        like = weights[number]
        for name, value in each.items():
            if isinstance(value, Tensor) and not isinstance(value, DTensor) and value.shape == like.shape:
                each[name] = part_of(value, like)
    # How a step is computed is a matter of these weights, not of those that were kept.
    own = [{name: group[name] for name in COMPUTED if name in group} for group in optimizer.param_groups]
    optimizer.load_state_dict({**state, "state": remembered})
    for group, ways in zip(optimizer.param_groups, own, strict=True):
        group.update(ways)


def _read(folder: Path, weights: list[Tensor]) -> Parts:
    """Each as the weight is that it belongs to: whole, or this process's part."""
    there = dcp.FileSystemReader(folder).read_metadata().state_dict_metadata
    parts: Parts = {}
    for key, stored in there.items():
        assert isinstance(stored, TensorStorageMetadata)
        weight = weights[int(key.partition(".")[0])]
        parts[key] = torch.empty_like(weight, dtype=stored.properties.dtype, requires_grad=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # one process, as is intended
        dcp.load(parts, checkpoint_id=folder, no_dist=not dist.is_initialized())
    return parts
