"""A ledger of a computation on tensors that take no memory: what it would hold at its peak, and how long it would take.

Under a :class:`Ledger` the weights are fake tensors (PyTorch's ``FakeTensorMode``): shapes, strides and types, no
numbers. The real code runs on them, autograd included, and every storage is written down when it comes and struck out
when it goes. Nothing is guessed about an architecture; what a kernel takes for itself while it runs is not seen.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from kedge.inspection.machine import FRESH, TRIMMED, Speeds
from kedge.inspection.trials import Trials

aten = torch.ops.aten

Account = tuple[str, str]
"""Role (policy, critic, reference, ...) and kind (weights, gradients, optimizer, activations, logits, KV cache)."""

# They read a row for each index and not the whole table.
LOOKUPS = (aten.embedding, aten.index, aten.index_select, aten.gather)
# PyTorch knows the arithmetic of these kernels by the names of others.
FLOPS_AS = {
    aten._scaled_dot_product_flash_attention_for_cpu: aten._scaled_dot_product_flash_attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: aten._scaled_dot_product_flash_attention_backward,
}


@dataclass
class _Entry:
    """A storage: whose it is, and how many bytes."""

    account: Account
    size: int
    alive: Any = None
    """Weak reference to the storage, which strikes the entry out when it goes."""


class _Fake(FakeTensorMode):
    def __deepcopy__(self, memo: dict[int, Any]) -> "_Fake":
        """One for all: a copied tensor is of the same mode, and what the mode remembers may be freed only once."""
        return self


class Ledger(TorchDispatchMode):
    """Keeps the books of everything that runs inside it.

    Args:
        speeds: what a second is made of; None leaves the time out.
        trials: of operations that can be tried here, in place of ``speeds``; None where a job would run elsewhere.
    """

    def __init__(self, speeds: Speeds | None, trials: Trials | None = None) -> None:
        super().__init__()
        self.trials = trials
        self.fake = _Fake(allow_non_fake_inputs=True)
        self.speeds = speeds
        self.seconds = 0.0
        """Of the operations so far."""
        self.held: Counter[Account] = Counter()
        """Bytes by account now."""
        self.peak: Mapping[Account, int] = {}
        """Bytes by account when they were most, since :meth:`begin`."""
        self._now, self._most = 0, 0
        self._heap, self._pages = 0, 0
        self._kind = "activations"
        self._vocabulary = 0
        self._owner = ""
        self._entries: dict[int, _Entry] = {}

    def begin(self) -> None:
        """A new peak and a new clock."""
        self._most, self.seconds = 0, 0.0
        self._look()

    @contextmanager
    def booking(self, kind: str) -> Iterator[None]:
        """What comes into being inside is of this kind."""
        before, self._kind = self._kind, kind
        try:
            yield
        finally:
            self._kind = before

    def assign(self, tensors: Iterable[Tensor], role: str, kind: str) -> None:
        """These are ``role``'s ``kind`` from now on."""
        for tensor in tensors:
            self._enter(tensor, (role, kind))
            entry = self._entries[_key(tensor)]
            self.held[entry.account] -= entry.size
            entry.account = (role, kind)
            self.held[entry.account] += entry.size

    def weights(self, module: nn.Module, role: str, *, vocabulary: int = 0, shared: nn.Module | None = None) -> None:
        """A model's weights and buffers; its gradients will be booked as such.

        Args:
            vocabulary: width of its logits.
            shared: another role's, booked already, of whose weights it may have some.
        """
        others = set() if shared is None else {id(weight) for weight in shared.parameters()}
        self._owner = self._owner or role
        self._vocabulary = max(self._vocabulary, vocabulary)
        own = (weight for weight in module.parameters() if id(weight) not in others)
        self.assign([*own, *module.buffers()], role, "weights")
        for weight in module.parameters():
            if weight.requires_grad:
                weight.register_post_accumulate_grad_hook(partial(self._gradient, role))

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.prim.device.default and isinstance(args[0], FakeTensor):
            return args[0].fake_device
        if func is aten._local_scalar_dense.default and isinstance(args[0], FakeTensor):
            # A number that nobody has computed. The code asks whether all is well (logits agree, gradients are
            # finite), and all is.
            return 1
        if _is_composite(func):
            with self:
                return func.decompose(*args, **kwargs)
        if func is aten.index.Tensor:
            args = (args[0], [place for index in args[1] for place in _places(index)])
        out = func(*args, **kwargs)
        self._book(func, args, kwargs, out)
        return out

    def _book(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        given, made = list(_tensors((*args, *kwargs.values()))), list(_tensors((out,)))
        new = {_key(tensor): tensor for tensor in made if _key(tensor) not in self._entries}
        if self.speeds is not None:
            self.seconds += self._seconds(self.speeds, func, args, kwargs, out)
        for tensor in new.values():
            logits = self._kind == "activations" and tensor.shape[-1:] == (self._vocabulary,)
            self._enter(tensor, (self._role(given), "logits" if logits else self._kind))
        self._look()

    def _seconds(self, speeds: Speeds, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> float:
        """Of an operation: as it was tried, or else by its arithmetic and its bytes."""
        in_backward = torch._C._current_autograd_node() is not None
        called = speeds.backward_overhead if in_backward else speeds.overhead
        if func.is_view:
            return called
        tried = None if self.trials is None else self.trials.seconds(func, args, kwargs)
        if tried is not None:
            return called + tried
        traffic = _traffic(func, [*_tensors((*args, *kwargs.values()))], [*_tensors((out,))])
        return called + max(_flops(func, args, kwargs, out) / speeds.flops, traffic / speeds.bandwidth)

    def _role(self, given: Sequence[Tensor]) -> str:
        """Whose the result of a computation is: the first one's that has a part in it, or else the first model's."""
        entries = (self._entries.get(_key(tensor)) for tensor in given)
        return next((entry.account[0] for entry in entries if entry is not None and entry.account[0]), self._owner)

    def _enter(self, tensor: Tensor, account: Account) -> None:
        key = _key(tensor)
        if key in self._entries:
            return
        storage = tensor.untyped_storage()
        entry = self._entries[key] = _Entry(account, storage.nbytes())
        entry.alive = ref(storage, partial(self._strike, key))
        self.held[account] += entry.size
        self._now += entry.size
        self._allocate(entry.size)

    def _strike(self, key: int, _: object) -> None:
        entry = self._entries.pop(key)
        self.held[entry.account] -= entry.size
        self._now -= entry.size
        if entry.size < FRESH:
            self._heap -= entry.size
            if self._pages - self._heap > TRIMMED:
                self._pages = self._heap

    def _allocate(self, size: int) -> None:
        """Time for pages that come from the system: all of a large tensor's, and where the heap of the others grows."""
        new = size
        if size < FRESH:
            self._heap += size
            new = max(0, self._heap - self._pages)
            self._pages += new
        if self.speeds is not None:
            self.seconds += new * self.speeds.fresh

    def _gradient(self, role: str, weight: Tensor) -> None:
        assert weight.grad is not None
        self.assign([weight.grad], role, "gradients")

    def _look(self) -> None:
        if self._now > self._most:
            self._most = self._now
            self.peak = {account: size for account, size in self.held.items() if size}


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _places(index: Tensor | None) -> Iterable[Tensor | None]:
    """A mask as the indices it stands for: masks are real here, so how many they choose is known."""
    return index.nonzero(as_tuple=True) if index is not None and index.dtype == torch.bool else [index]


@cache
def _is_composite(func: Any) -> bool:
    """Whether it is made of other operations. Inference mode does not take such apart by itself."""
    return bool(func._can_decompose()) and func.overloadpacket not in (aten.index,)


def _flops(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> float:
    packet = func.overloadpacket
    count: Callable[..., float] | None = flop_registry.get(FLOPS_AS.get(packet, packet))
    return 0.0 if count is None else float(count(*args, **kwargs, out_val=out))


def _traffic(func: Any, given: Sequence[Tensor], made: Sequence[Tensor]) -> int:
    """Bytes read and written."""
    written = sum(tensor.numel() * tensor.element_size() for tensor in made)
    if func.overloadpacket in LOOKUPS:
        return 2 * written
    return written + sum(tensor.numel() * tensor.element_size() for tensor in given)
