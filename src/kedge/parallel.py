"""Several processes on one job: who does which part, and how the parts come together. The identity in one process.

``torchrun --nproc-per-node 2 -m kedge ppo recipe.toml`` starts them. Each holds whole models; prompts, answers and
micro-batches are split, and what everybody must know is put together again. So all of them compute the same step, and
the same one that a single process computes. Models that are themselves split come later, on this seam.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import Parameter

from kedge.errors import KedgeError

Item = TypeVar("Item")

BUCKET = 2**24
"""Numbers of gradients that are summed up over the processes at a time."""


@dataclass(frozen=True)
class Processes:
    """This process and its companions."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the one that writes files and speaks to the user."""
        return self.rank == 0

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """This process's part: neighbours stay together."""
        return items[self.rank * len(items) // self.size : (self.rank + 1) * len(items) // self.size]

    def deal(self, items: Sequence[Item]) -> Sequence[Item]:
        """This process's part, dealt out in turn: of items sorted by size everybody gets as much."""
        return items[self.rank :: self.size]

    def gather(self, compute: Callable[[], Iterable[Item]]) -> list[Item]:
        """What all processes compute, one after another in the order of :meth:`share`.

        Raises:
            KedgeError: that of the first process that raised one, in every process, so that none waits for one that
                failed. Any other error ends the process, and torchrun ends the others.
        """
        if self.size == 1:
            return list(compute())
        try:
            mine: list[Item] | KedgeError = list(compute())
        except KedgeError as error:
            mine = error
        parts: list[Any] = [None] * self.size
        dist.all_gather_object(parts, mine)
        for part in parts:
            if isinstance(part, KedgeError):
                part.known_to_all = True
                raise part
        return [item for part in parts for item in part]

    @contextmanager
    def agreeing(self) -> Iterator[None]:
        """Around what one of them does, or each by itself: it is done when all have done it.

        Raises:
            KedgeError: that of the first process that raised one, in every process.
        """
        error: KedgeError | None = None
        try:
            yield
        except KedgeError as raised:
            if self.size == 1:
                raise
            error = raised

        def mine() -> list[None]:
            if error is not None:
                raise error
            return []

        self.gather(mine)

    def sum_(self, *tensors: Tensor) -> None:
        """Replace each tensor by its sum over the processes."""
        if self.size > 1:
            for tensor in tensors:
                _all_reduce(tensor)

    def max_(self, tensor: Tensor) -> None:
        """Replace the tensor by its maximum over the processes."""
        if self.size > 1:
            _all_reduce(tensor, dist.ReduceOp.MAX)

    def sum_gradients(self, parameters: Iterable[Parameter]) -> None:
        """Sum the gradients over the processes; one that no process has stays None."""
        if self.size == 1:
            return
        weights = [weight for weight in parameters if weight.requires_grad]
        there = torch.tensor([float(weight.grad is not None) for weight in weights])
        dist.all_reduce(there, dist.ReduceOp.MAX)
        gradients = []
        for weight, has_gradient in zip(weights, there.tolist(), strict=True):
            if has_gradient:
                if weight.grad is None:
                    weight.grad = torch.zeros_like(weight)
                gradients.append(weight.grad)
        for bucket in _buckets(gradients):
            together = torch.cat([gradient.flatten() for gradient in bucket])
            _all_reduce(together)
            parts = together.split([gradient.numel() for gradient in bucket])
            for gradient, part in zip(bucket, parts, strict=True):
                gradient.copy_(part.view_as(gradient))

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1:
            dist.all_reduce(torch.zeros(1))  # a barrier would ask the GPUs, which not every job computes on


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Those of one dtype together, up to BUCKET numbers: many small sums take longer than a few large ones."""
    bucket: list[Tensor] = []
    for gradient in gradients:
        fits = sum(other.numel() for other in bucket) + gradient.numel() <= BUCKET
        if bucket and not (fits and bucket[0].dtype == gradient.dtype):
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket


def _all_reduce(tensor: Tensor, op: Any = dist.ReduceOp.SUM) -> None:
    if tensor.device.type in ("cpu", "cuda"):
        dist.all_reduce(tensor, op)
    else:  # there is no way between other devices but over the host
        host = tensor.cpu()
        dist.all_reduce(host, op)
        tensor.copy_(host)


ALONE = Processes()


def join() -> Processes:
    """The processes that ``torchrun`` started, or this one alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return ALONE
    if not dist.is_initialized():
        own = int(os.environ["LOCAL_RANK"])
        if own < torch.cuda.device_count():  # before anything touches the first one; there may be more processes
            torch.cuda.set_device(own)
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    return joined()


def joined() -> Processes:
    """Those that have been joined; this one alone where :func:`join` was not called yet."""
    return Processes(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else ALONE


def leave() -> None:
    """Say goodbye to the companions, where there are any."""
    if dist.is_initialized():
        dist.destroy_process_group()
