"""Where models are: the device that a word means, and of several processes on one machine each its own."""

import os
import re
from typing import Annotated

import psutil
import torch
from pydantic import AfterValidator
from torch import Tensor

from kedge.errors import ModelError


def _known(device: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", device):
        raise ValueError(f"must be auto, cuda, cuda:1 (the second GPU), mps or cpu, not {device!r}")
    return device


Device = Annotated[str, AfterValidator(_known)]
"""``auto``, ``cuda``, ``cuda:1``, ``mps`` or ``cpu``."""


def pick_device(device: Device) -> torch.device:
    """The device asked for; ``auto``: cuda, else mps, else cpu. Of the processes that ``torchrun`` started on a machine
    each has the GPU of its own number.

    Raises:
        ModelError: asked for one that is not there, or that is another process's.
    """
    try:
        kind, _, number = _known(device).partition(":")
    except ValueError as error:
        raise ModelError(f"device: {error}") from None
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if kind == "auto":
        kind = next(name for name, there in available.items() if there)
    if not available[kind]:
        raise ModelError(f"device={device!r}: torch finds none here; use device='auto' or 'cpu'")
    if kind != "cuda":
        return torch.device(kind)
    count, own = torch.cuda.device_count(), own_gpu()
    if number and int(number) >= count:
        raise ModelError(f"device={device!r}: there are {count} GPUs here, cuda:0 to cuda:{count - 1}")
    if own is None:
        return torch.device("cuda", int(number or 0))
    if number and int(number) != own:
        raise ModelError(f"device={device!r}: each of several processes takes the GPU of its own number; say 'cuda'")
    if own >= count:
        raise ModelError(
            f"device={device!r}: process {own} of this machine has no GPU of its own, there are {count}; start no more "
            f"than {count} (torchrun --nproc-per-node {count}), or compute with device='cpu'"
        )
    return torch.device("cuda", own)


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """What lies on the host, on the device too; a GPU takes it when its turn comes, and the host does not wait."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def computed_in(device: torch.device) -> torch.dtype | None:
    """What autocast makes of the products; None where it is off."""
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None


def rounds_to_tf32(device: torch.device) -> bool:
    """Whether products of float32 there are computed from three digits (TensorFloat-32), as a user may have chosen."""
    if device.type != "cuda":
        return False
    matmul = torch.backends.cuda.matmul
    chosen = getattr(matmul, "fp32_precision", None)  # of torch 2.9 and newer, which refuses the other question
    return chosen == "tf32" if chosen is not None else matmul.allow_tf32


def total_memory(device: torch.device) -> int:
    """Bytes of the device's memory."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    if device.type == "mps":
        return torch.mps.recommended_max_memory()
    return int(psutil.virtual_memory().total)


FEWEST_LOGITS = 2**24
"""Rows times vocabulary: 64 MiB in float32."""


def logits_at_a_time(kind: str, memory: int) -> int:
    """How many logits are made at a time, at most: on an accelerator, where every chunk is a few launches more, float32
    ones may take a 256th of its memory (five times that with what their backward pass makes). By what there is and not
    by what is free, so that a run can be repeated.

    Args:
        kind: ``cpu``, ``cuda`` or ``mps``.
        memory: of the device, in bytes.
    """
    return FEWEST_LOGITS if kind == "cpu" else max(FEWEST_LOGITS, memory // (4 * 256))


TIGHT = 1 / 3
"""Share of a GPU's memory; with less than that free it is tight."""


def is_tight(device: torch.device) -> bool:
    """Whether little of a GPU's memory is free, what torch holds for later included."""
    if device.type != "cuda":
        return False
    free, total = torch.cuda.mem_get_info(device)
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return free + held < TIGHT * total


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device, or the machine, had no memory left."""
    said = str(error)
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in said or "can't allocate memory" in said


def own_gpu() -> int | None:
    """The number of the GPU that this process has to itself; None where it is not one of several."""
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return int(os.environ["LOCAL_RANK"]) if several else None
