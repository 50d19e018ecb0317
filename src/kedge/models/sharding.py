"""Models spread over the processes: each holds a part of every weight, of its gradient and of its moments.

PyTorch's FSDP2 (Zhao et al. 2023, after ZeRO: Rajbhandari et al. 2020). A layer's weights are put together when a pass
comes to it, and let go of behind it; what stands around the layers (embeddings, the last norm, the head) is there for
the whole pass. Roles are built as ever, and then sharded: until then their weights are the file's pages, which all
processes of a host share, so none of them ever holds a whole model of its own.

A role's own few weights (an adapter's, a scalar head's) stay whole in every process, and their gradients are summed as
those of a model that is not sharded (:meth:`kedge.parallel.Processes.summing_gradients`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MethodType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.nn import Parameter
from torch.utils._pytree import tree_map

from kedge.errors import ConfigError

T = TypeVar("T")

BEFORE = {"device": "cpu", "dtype": "stored"}
"""How models are loaded that will be sharded, as :func:`kedge.models.loading.open_model` takes it: as they stand in a
file, whose pages the processes of a host share."""


@dataclass
class Sharding:
    """How a job's models are spread over its processes.

    Args:
        device: this process's.
        size: how many processes there are.
        autocast: that the layers compute in, where it is less; None: in what they are held in.
    """

    device: torch.device
    size: int
    autocast: torch.dtype | None = None
    _mesh: DeviceMesh = field(init=False)
    _frozen: dict[tuple[Any, ...], tuple[Tensor, Tensor]] = field(default_factory=dict, init=False)
    """What several roles may have in common, by its place: the whole, which thus stays in its place, and the part."""

    def __post_init__(self) -> None:
        self._mesh = init_device_mesh(self.device.type, (self.size,))

    def shard(
        self, module: nn.Module, layers: Sequence[nn.Module], dtype: torch.dtype | None, plain: Sequence[Parameter] = ()
    ) -> None:
        """Spread a module over the processes, in place. All of them call this with the same module.

        Args:
            module: passes over it are then made by :func:`within`.
            layers: of it, each of which is put together by itself.
            dtype: that the weights are held in from then on; None: each in its own.
            plain: weights that stay whole in every process.
        """
        frozen = {name: weight.detach() for name, weight in module.named_parameters() if not weight.requires_grad}
        for weight in plain:
            weight.data = weight.data.to(self.device, copy=True)  # where a role began as a copy of another
        low = MixedPrecisionPolicy(self.autocast, torch.float32, cast_forward_inputs=False)
        ignored = {*plain}
        for layer in layers:
            fully_shard(layer, mesh=self._mesh, ignored_params=ignored, mp_policy=low)
        fully_shard(module, mesh=self._mesh, ignored_params=ignored)
        if dtype is not None:
            _hold_in(dtype, module, plain)
        for part in _parts(module):
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)
        module.within = MethodType(lambda _, compute: compute(), module)  # type: ignore[assignment]
        register_fsdp_forward_method(module, "within")
        self._share(module, frozen, dtype)
        with torch.no_grad():
            within(module, lambda: ())  # which of its parts is the root is settled by the first pass

    def _share(self, module: nn.Module, frozen: Mapping[str, Tensor], dtype: torch.dtype | None) -> None:
        """Let it have the same parts as other roles that are held in that, of frozen weights they had in common."""
        own = dict(module.named_parameters())
        places = {name: (*_place(weight), dtype or weight.dtype) for name, weight in frozen.items()}
        there = {name: self._frozen[place][1] for name, place in places.items() if place in self._frozen}
        module.load_state_dict(there, strict=False, assign=True)
        for name, place in places.items():
            self._frozen.setdefault(place, (frozen[name], own[name].detach()))


def _place(weight: Tensor) -> tuple[Any, ...]:
    """Where a whole weight's numbers are: two of one place are one."""
    return weight.data_ptr(), weight.shape, weight.stride(), weight.dtype


def _hold_in(dtype: torch.dtype, module: nn.Module, plain: Sequence[Parameter]) -> None:
    """Not what is ``plain``; nor positions and the like, which are as exact as the model makes them."""
    buffers = [(owner, name, value) for owner in module.modules() for name, value in owner._buffers.items()]
    kept = [weight.data for weight in plain]
    module.to(dtype)
    for owner, name, value in buffers:
        owner._buffers[name] = value
    for weight, value in zip(plain, kept, strict=True):
        weight.data = value


def is_sharded(module: nn.Module) -> bool:
    """Whether it is spread over the processes."""
    return isinstance(module, FSDPModule)


def refuse_sharded(module: nn.Module, key: str) -> None:
    """Raise where a model that was given has been sharded by a job before: it cannot be copied, nor sharded anew.

    Args:
        module: the model.
        key: what it was given as.

    Raises:
        ConfigError: it has been.
    """
    if is_sharded(module):
        raise ConfigError(
            f"{key}: this model was spread over the processes by the job before; save that, and give its folder"
        )


def class_of(module: nn.Module) -> type[nn.Module]:
    """Its class, as it was before it was sharded."""
    return type(module).__mro__[2] if isinstance(module, FSDPModule) else type(module)


def within(module: nn.Module, compute: Callable[[], T]) -> T:
    """What ``compute`` gives, which may run any part of ``module``: every pass over a model is made in here.

    Args:
        module: a role's.
        compute: gives a tensor or a tuple of tensors; of a sharded module, all processes compute together.
    """
    if not isinstance(module, FSDPModule) or getattr(module, "is_whole", False):
        return compute()
    with torch.no_grad():
        module.reshard()  # of a pass before this one that was not gone back over, and whose weights are old
    module.set_reshard_after_forward(not torch.is_grad_enabled(), recurse=False)
    found: T = module.within(lambda: tree_map(_no_view, compute()))  # type: ignore[operator]
    return found


def _no_view(value: Any) -> Any:
    """What a view's other views do to it in place would take away what FSDP has attached to it."""
    return value.clone() if isinstance(value, Tensor) and value._is_view() else value


@contextmanager
def whole(*modules: nn.Module) -> Iterator[None]:
    """Inside, each process has all weights of these modules, and runs them by itself: where one writes or scores more
    than another. All processes come here together."""
    sharded = [module for module in modules if isinstance(module, FSDPModule)]
    with torch.no_grad():
        for module in sharded:
            for part in _parts(module):
                part.set_reshard_after_forward(False, recurse=False)
                part.unshard()
            module.is_whole = True  # type: ignore[assignment]
    try:
        yield
    finally:
        for module in sharded:
            module.is_whole = False  # type: ignore[assignment]
            for part in _parts(module):
                part.reshard()
                part.set_reshard_after_forward(True, recurse=False)


def _parts(module: nn.Module) -> list[FSDPModule]:
    return [part for part in module.modules() if isinstance(part, FSDPModule)]
