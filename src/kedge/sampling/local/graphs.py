"""Decode steps recorded once and replayed: on a GPU, the launches of one token's kernels take longer than the kernels.

A CUDA graph has fixed shapes and fixed addresses. So rows and columns are rounded up to buckets, and the inputs are
copied to a place of their own before a replay. What stands in the rows and columns beyond the real ones is computed and
not read.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Compute = Callable[[Tensor, Tensor, int], Tensor]
"""``(tokens [n], positions [n], width) -> logits [n, V]``."""


def rows_bucket(rows: int) -> int:
    """Rows rounded up: to a power of two below 16, then to a multiple of 16."""
    return 1 << (rows - 1).bit_length() if rows < 16 else -(-rows // 16) * 16


class StepGraphs:
    """The recorded steps of one decoder, by rows and width. All die when the cache moves (:meth:`clear`)."""

    def __init__(self) -> None:
        self._recorded: dict[tuple[int, int], _Recorded] = {}

    def clear(self) -> None:
        """Forget them: their addresses are no longer the cache's."""
        self._recorded.clear()

    def __call__(self, compute: Compute, tokens: Tensor, positions: Tensor, width: int) -> Tensor:
        """Logits ``[n, V]``, as ``compute`` gives them; ``width`` is a bucket already."""
        key = rows_bucket(len(tokens)), width
        if key not in self._recorded:
            self._recorded[key] = _Recorded(compute, *key, tokens, positions)
        return self._recorded[key](tokens, positions)


class _Recorded:
    def __init__(self, compute: Compute, rows: int, width: int, tokens: Tensor, positions: Tensor) -> None:
        self.tokens, self.positions = tokens.new_zeros(rows), positions.new_zeros(rows)
        self._load(tokens, positions)  # before recording, which runs the step: the cache gets what belongs in it
        self._replay = record(lambda: compute(self.tokens, self.positions, width))

    def __call__(self, tokens: Tensor, positions: Tensor) -> Tensor:
        self._load(tokens, positions)
        # A copy: the next replay writes over the logits.
        return self._replay()[: len(tokens)].clone()

    def _load(self, tokens: Tensor, positions: Tensor) -> None:
        self.tokens[: len(tokens)].copy_(tokens)
        self.positions[: len(positions)].copy_(positions)


def record(compute: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """A CUDA graph of ``compute``, which must read and write the same memory every time."""
    here, aside = torch.cuda.current_stream(), torch.cuda.Stream()
    aside.wait_stream(here)
    with torch.cuda.stream(aside):  # in their first runs libraries allocate and choose kernels
        for _ in range(2):
            compute()
    here.wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = compute()

    def replay() -> Tensor:
        graph.replay()
        return output

    return replay
