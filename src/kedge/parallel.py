"""Several processes on one job: who does which part, and how the parts come together. The identity in one process.

``kedge launch recipe.toml --processes 2`` starts them, or ``torchrun --nproc-per-node 2 -m kedge ppo recipe.toml``.
Each holds whole models, or a part of each (:mod:`kedge.models.sharding`); prompts, answers and micro-batches are split,
and what everybody must know is put together again. So all of them compute the same step, and the same one that a single
process computes.
"""

import atexit
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn import Parameter

from kedge.errors import KedgeError
from kedge.launch.meeting import meet, take_leave
from kedge.storage.writing import storage, whole_folder

Item = TypeVar("Item")

BUCKET = 2**24
"""Numbers of gradients that are summed up over the processes at a time."""

UNDER_WAY = 2
"""So many buckets at once: they are copies, and all of them would be one of the model."""


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

    def told(self, compute: Callable[[], Item]) -> Item:
        """What the leading process computes, in all of them.

        Raises:
            KedgeError: as :meth:`gather`.
        """
        [found] = self.gather(lambda: [compute()] if self.leads else [])
        return found

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

    @contextmanager
    def summing_gradients(self, parameters: Iterable[Parameter], *, now: bool = True) -> Iterator[None]:
        """Around the last backward pass before a step: its gradients, with those that were there, are summed over the
        processes, the first of them while the others are still computed. One that no process has stays None.

        Args:
            parameters: all those of the step.
            now: False around the other passes, where nothing is summed.
        """
        if self.size == 1 or not now:
            yield
            return
        # Of weights that are spread over the processes each pass has summed the gradients already.
        plain = [weight for weight in parameters if weight.requires_grad and not isinstance(weight, DTensor)]
        sums = _GradientSums(plain)
        with sums.as_they_come():
            yield
        sums.finish()

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1:
            dist.all_reduce(torch.zeros(1))  # a barrier would ask the GPUs, which not every job computes on


class _GradientSums:
    """Gradients summed over the processes a bucket at a time, always in the same order, whoever computed which."""

    def __init__(self, weights: Sequence[Parameter]) -> None:
        self.weights = weights
        self.buckets = list(_buckets(weights[::-1]))  # the last layers' gradients come first
        self.sent = 0
        self.under_way: deque[tuple[list[Parameter], Tensor, Any]] = deque()
        self.awaited = [{id(weight) for weight in bucket} for bucket in self.buckets]
        self.at = {id(weight): i for i, bucket in enumerate(self.buckets) for weight in bucket}

    @contextmanager
    def as_they_come(self) -> Iterator[None]:
        hooks = [weight.register_post_accumulate_grad_hook(self._arrived) for weight in self.weights]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def finish(self) -> None:
        """Send what has not come (a weight may have had no part in the pass), and put everything in its place."""
        there = torch.tensor([float(weight.grad is not None) for weight in self.weights])
        while self.sent < len(self.buckets):
            self._send()
        while self.under_way:
            self._put_in_place()
        dist.all_reduce(there, dist.ReduceOp.MAX)
        for weight, somewhere in zip(self.weights, there.tolist(), strict=True):
            if not somewhere:
                weight.grad = None

    def _arrived(self, weight: Tensor) -> None:
        bucket = self.at[id(weight)]
        if bucket < self.sent:
            raise RuntimeError(
                "a weight's gradient came in two parts, as reentrant gradient checkpointing makes them, and the first "
                "was summed over the processes already; use_reentrant=False"
            )
        self.awaited[bucket].discard(id(weight))
        while self.sent < len(self.buckets) and not self.awaited[self.sent]:
            self._send()

    def _send(self) -> None:
        if len(self.under_way) == UNDER_WAY:
            self._put_in_place()
        bucket = self.buckets[self.sent]
        parts = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in bucket]
        together = torch.cat([part.flatten() for part in parts])
        self.under_way.append((bucket, together, _all_reduce(together, wait=False)))
        self.sent += 1

    def _put_in_place(self) -> None:
        bucket, together, work = self.under_way.popleft()
        if work is not None:
            work.wait()
        for weight, part in zip(bucket, together.split([weight.numel() for weight in bucket]), strict=True):
            weight.grad = torch.empty_like(weight) if weight.grad is None else weight.grad
            weight.grad.copy_(part.view_as(weight))


def _buckets(weights: Sequence[Parameter]) -> Iterator[list[Parameter]]:
    """Those of one dtype together, up to BUCKET numbers: many small sums take longer than a few large ones."""
    bucket: list[Parameter] = []
    for weight in weights:
        fits = sum(other.numel() for other in bucket) + weight.numel() <= BUCKET
        if bucket and not (fits and bucket[0].dtype == weight.dtype):
            yield bucket
            bucket = []
        bucket.append(weight)
    if bucket:
        yield bucket


def _all_reduce(tensor: Tensor, op: Any = dist.ReduceOp.SUM, *, wait: bool = True) -> Any:
    """What to wait for, where not to be waited for here; None where it is done."""
    if tensor.device.type in ("cpu", "cuda"):
        return dist.all_reduce(tensor, op, async_op=not wait)
    host = tensor.cpu()  # there is no way between other devices but over the host
    dist.all_reduce(host, op)
    tensor.copy_(host)
    return None


@contextmanager
def folder_of_all(target: Path, processes: Processes) -> Iterator[Path | None]:
    """:func:`whole_folder` of several processes. All of them come here; the one that writes gets the folder to write
    in, and the others None.

    Raises:
        StorageError: in all of them; it cannot be written, and ``target`` is as it was.
    """
    # They agree that there is one, on what is in it before it gets its name, and in the end that it has it.
    with processes.agreeing(), ExitStack() as folder:
        with processes.agreeing():
            aside = folder.enter_context(whole_folder(target)) if processes.leads else None
        with processes.agreeing(), storage(target):
            yield aside


@contextmanager
def written_together(folder: Path | None, processes: Processes) -> Iterator[None]:
    """Around what one of the processes writes in a folder between what all of them do together: where it cannot, none
    goes on.

    Args:
        folder: in which; None in the others.
        processes: all of them come here.

    Raises:
        StorageError: in all of them; it cannot be written.
    """
    with processes.agreeing(), nullcontext() if folder is None else storage(folder):
        yield


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor that is spread over the processes; all of any other."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def gathered(tensor: Tensor) -> Tensor:
    """All of a tensor that is spread over the processes, which ask for it together; any other itself."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def part_of(whole: Tensor, like: Tensor) -> Tensor:
    """``whole`` itself; or spread over the processes, each of which has it, as ``like`` is."""
    if not isinstance(like, DTensor):
        return whole
    return distribute_tensor(whole.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


ALONE = Processes()


def join() -> Processes:
    """The processes that ``torchrun`` or ``kedge launch`` started, or this one alone. From here on each gives signs of
    life, and ends where it hears nothing of another (:mod:`kedge.launch.heartbeat`).

    Raises:
        LostError: the others did not come.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return ALONE
    if not dist.is_initialized():
        own = int(os.environ["LOCAL_RANK"])
        if own < torch.cuda.device_count():  # before anything touches the first one; there may be more processes
            torch.cuda.set_device(own)
        meet(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
        atexit.register(leave)  # a process that ends without may be aborted while its threads still run
    return joined()


def joined() -> Processes:
    """Those that have been joined; this one alone where :func:`join` was not called yet."""
    return Processes(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else ALONE


def leave() -> None:
    """Say goodbye to the companions, where there are any."""
    if dist.is_initialized():
        take_leave()
