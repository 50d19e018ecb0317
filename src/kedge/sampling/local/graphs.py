"""Decode steps recorded once and replayed: on a GPU, the launches of one token's kernels take longer than the kernels.

A CUDA graph has fixed shapes and fixed addresses. So rows and columns are rounded up to buckets, all graphs read their
inputs in one place and write logits to another, and what they need in between is one pool of memory for all. What
stands in the rows and columns beyond the real ones is computed and not read.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kedge.models.device import computed_in

Compute = Callable[[Tensor, Tensor, int], Tensor]
"""``(tokens [n], positions [n], width) -> logits [n, V]``."""

COLUMNS, ROWS = 64, 16


def rows_bucket(rows: int) -> int:
    """Rows rounded up: to a power of two below 16, then to 16, 32, 48, 64, 96, 128, 192, ..."""
    return 1 << (rows - 1).bit_length() if rows < ROWS else ROWS * _two_bits(-(-rows // ROWS))


def width_bucket(columns: int) -> int:
    """Columns rounded up: to 64, 128, 192, 256, 384, 512, 768, ..."""
    return COLUMNS * _two_bits(-(-columns // COLUMNS))


def _two_bits(n: int) -> int:
    """The least number of two binary digits and zeros that is ``n`` or more: few buckets, none half empty."""
    step = 1 << max(0, n.bit_length() - 2)
    return -(-n // step) * step


@dataclass
class Pool:
    """What the graphs of one decoder share."""

    device: torch.device
    stream: Any = None
    handle: Any = None


class StepGraphs:
    """The recorded steps of one decoder. All die when the cache moves (:meth:`clear`).

    Args:
        device: a GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._pool = Pool(device)
        self.clear(0)

    def clear(self, rows: int) -> None:
        """Forget them, since their addresses are no longer the cache's; the next ones are of up to so many rows."""
        self._replays: dict[tuple[int, int, torch.dtype | None], Callable[[], None]] = {}
        self._tokens = torch.zeros(rows, dtype=torch.long, device=self._pool.device)
        self._positions = torch.zeros_like(self._tokens)
        self._logits: Tensor | None = None

    def __call__(self, compute: Compute, tokens: Tensor, positions: Tensor, width: int) -> Tensor:
        """Logits ``[n, V]`` float32, as ``compute`` gives them, until the next call writes over them.

        Args:
            compute: must read and write the same memory every time.
            tokens: ``[n]``, the last of each row.
            positions: ``[n]``, where they stand.
            width: a bucket of columns.
        """
        n, rows = len(tokens), rows_bucket(len(tokens))
        self._tokens[:n].copy_(tokens)
        self._positions[:n].copy_(positions)
        key = rows, width, computed_in(self._pool.device)
        if key not in self._replays:
            self._replays[key] = self._recorded(compute, rows, width)
        self._replays[key]()
        assert self._logits is not None
        return self._logits[:n]

    def _recorded(self, compute: Compute, rows: int, width: int) -> Callable[[], None]:
        tokens, positions = self._tokens[:rows], self._positions[:rows]
        if self._logits is None:
            vocabulary = compute(tokens, positions, width).shape[-1]
            self._logits = torch.zeros(len(self._tokens), vocabulary, device=tokens.device)
        target = self._logits[:rows]

        def step() -> None:
            target.copy_(compute(tokens, positions, width))

        cached = torch.is_autocast_cache_enabled()
        torch.set_autocast_cache_enabled(False)  # its copies of the weights are gone or stale at the next replay
        try:
            return record(step, self._pool)
        finally:
            torch.set_autocast_cache_enabled(cached)


def record(compute: Callable[[], None], pool: Pool) -> Callable[[], None]:
    """A CUDA graph of ``compute``, which must read and write the same memory every time.

    Raises:
        RuntimeError: it does what cannot be recorded, such as asking for a number.
    """
    with torch.cuda.device(pool.device):
        if pool.stream is None:
            pool.stream, pool.handle = torch.cuda.Stream(), torch.cuda.graph_pool_handle()
        here = torch.cuda.current_stream()
        pool.stream.wait_stream(here)
        with torch.cuda.stream(pool.stream):  # in their first runs libraries allocate and choose kernels
            for _ in range(2):
                compute()
        here.wait_stream(pool.stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool.handle, stream=pool.stream):
            compute()
    replay: Callable[[], None] = graph.replay
    return replay
