"""The machine a plan is made for: how much memory it has, and how fast it computes and copies."""

import mmap
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Self

import psutil
import torch

from kedge.errors import ConfigError
from kedge.inspection.trials import Trials, overheads_here
from kedge.training.ppo.throughput import peak_flops

PREFIXES = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
# Bytes that are copied to measure the bandwidth: more than a cache holds.
COPIED = {"cpu": 2**26, "cuda": 2**30, "mps": 2**28}
# Memory of this process alone, as the C library asks for it where there is such a thing.
PRIVATE = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
TRIALS = 5
# Of the memory that is free an operation may take this part when it is tried.
SHARE = 8
# Memory of so many bytes comes from the system anew each time, page by page: glibc keeps none of this size.
FRESH = 2**25
# Of smaller ones it gives pages back when so much lies free at the end of its heap (M_TRIM_THRESHOLD has grown to twice
# the largest of them by then).
TRIMMED = 2 * FRESH
# Small operations in a row, to measure what one costs whatever it computes.
SMALL = 500


@dataclass(frozen=True)
class Speeds:
    """What the time of an operation is made of."""

    flops: float
    """FLOP/s of a large matrix product."""
    bandwidth: float
    """Bytes a second, read and written."""
    overhead: float
    """Seconds that any operation costs that Python asks for, whatever it computes."""
    backward_overhead: float = 0.0
    """The same of one that autograd asks for."""
    fresh: float = 0.0
    """Seconds that a byte costs that comes from the system anew."""


@dataclass(frozen=True)
class Machine:
    """Where a job would run."""

    device: str
    """``cpu``, ``cuda`` or ``mps``."""
    free: int
    """Bytes that can be had now; on the CPU without swapping."""
    total: int
    """Bytes there are."""
    speeds: Speeds | None = None
    """None where it is not known: then a plan has no seconds."""
    trials: Trials | None = field(default=None, compare=False)
    """Of operations, where a job would run on this CPU."""

    @classmethod
    def here(cls, device: torch.device) -> Self:
        """This one, without its speeds."""
        if device.type == "cuda":
            return cls(device.type, *torch.cuda.mem_get_info(device))
        if device.type == "mps":
            memory, most = psutil.virtual_memory(), torch.mps.recommended_max_memory()
            free = min(most - torch.mps.driver_allocated_memory(), memory.available)  # it is the system's own memory
            return cls(device.type, free, min(most, memory.total))
        memory = psutil.virtual_memory()
        return cls(device.type, memory.available, memory.total)

    def with_speeds(self, flops: float | None, bandwidth: float | None, dtype: torch.dtype) -> Self:
        """Its speeds as given, or else as measured; on this CPU operations will be tried."""
        here = self.device != "cuda" or torch.cuda.is_available()
        measured = measured_speeds(torch.device(self.device if here else "cpu"), dtype)
        given = replace(measured, flops=flops or measured.flops, bandwidth=bandwidth or measured.bandwidth)
        tried = self.device == "cpu" and flops is None and bandwidth is None
        trials = Trials(self.free // SHARE) if tried else None
        return replace(self, speeds=given if here else replace(given, fresh=0.0), trials=trials)


def measured_speeds(device: torch.device, dtype: torch.dtype) -> Speeds:
    """The best of a few short trials of each, in a fraction of a second."""
    source = torch.ones(COPIED.get(device.type, COPIED["cpu"]), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copying = _best(lambda: target.copy_(source), source)
    one = torch.ones(16, device=device)

    def small() -> None:
        for _ in range(SMALL):
            one.mul(2.0)

    def anew() -> None:  # not by torch: the C library may have kept memory of this size after all
        torch.frombuffer(mmap.mmap(-1, source.numel(), **PRIVATE), dtype=torch.uint8).copy_(source)

    pages = max(0.0, _best(anew, source) - copying) if device.type == "cpu" else 0.0  # elsewhere torch keeps its memory
    flops, bandwidth = peak_flops(device, dtype), 2 * source.numel() / copying
    a_call = _best(small, one) / SMALL
    overheads = overheads_here() if device.type == "cpu" else (a_call, a_call)
    return Speeds(flops, bandwidth, *overheads, pages / source.numel())


def _best(run: Callable[[], object], read: torch.Tensor) -> float:
    """Seconds of the fastest of a few runs; ``read`` is looked at, so that it has happened."""
    best = float("inf")
    for _ in range(TRIALS + 1):
        start = time.perf_counter()
        run()
        float(read[0])
        best = min(best, time.perf_counter() - start)
    return best


def read_bytes(text: str, *, option: str) -> int:
    """An amount of memory: ``24GB`` is 24 * 10^9 bytes, ``24GiB`` is 24 * 2^30.

    Args:
        option: the command line's name for it.

    Raises:
        ConfigError: not such a thing.
    """
    return int(_quantity(text, "b", f"{option}: {text!r} is no amount of memory; write it as 24GB or 24GiB"))


def read_rate(text: str, *, option: str, unit: str) -> float:
    """So many a second, with or without the unit: ``312T``, ``312TFLOP/s``, ``2TB/s``.

    Args:
        option: the command line's name for it.
        unit: ``flop`` or ``b``.

    Raises:
        ConfigError: not such a thing.
    """
    return _quantity(
        text, f"({unit}s?(/s)?)?", f"{option}: {text!r} is no rate; write it as 312T (312 * 10^12 a second)"
    )


def _quantity(text: str, unit: str, complaint: str) -> float:
    found = re.fullmatch(rf"(\d+(?:\.\d+)?(?:e\+?\d+)?)([kmgtp]?)(i?){unit}", text.strip().replace(" ", "").lower())
    if found is None or float(found[1]) == 0 or (found[3] and not found[2]):
        raise ConfigError(complaint)
    return float(found[1]) * (1024.0 if found[3] else 1000.0) ** PREFIXES[found[2]]
