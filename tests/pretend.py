"""A device that is not there: CPU tensors that say they are on ``cuda`` or ``mps``, and mind what such a device minds.

Inside ``pretending("mps")`` a tensor made on that device is a :class:`Pretend`. It computes on the CPU. An operation
that mixes it with a CPU tensor of one dimension or more raises, as the device would; so does float64 on ``mps``.
Whatever waits for the device (``.item()``, ``.tolist()``, ``.cpu()``, lists and masks as indices) and whatever is
copied to it is counted by the line of kedge that does it.
"""

import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.overrides import TorchFunctionMode

import kedge

SOURCE = str(Path(kedge.__file__).parent)

WAITS = {"item", "tolist", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__", "nonzero", "unique"}
"""What the host cannot go on without."""

MAY_MIX = {"copy_", "to", "__set__", "as_subclass", "set_", "type_as", "_has_compatible_shallow_copy_type"}
"""What takes tensors of two devices."""


class DeviceError(AssertionError):
    """What the device would not have done."""


class Seen:
    """What happened on the pretended device."""

    def __init__(self, kind):
        self.device = torch.device(kind)
        self.waits, self.uploads, self.ops = Counter(), Counter(), Counter()
        self.pinned = 0

    def note(self, counter):
        frame = sys._getframe(2)
        while frame is not None and not frame.f_code.co_filename.startswith(SOURCE):
            frame = frame.f_back
        where = "elsewhere" if frame is None else f"{frame.f_code.co_filename[len(SOURCE) + 1 :]}:{frame.f_lineno}"
        counter[where] += 1


CURRENT: list[Seen] = []


class Pretend(torch.Tensor):
    """On the pretended device."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return compute(func, args, kwargs or {})

    def __reduce_ex__(self, protocol):
        return plain(self).__reduce_ex__(protocol)

    def __deepcopy__(self, memo):
        if id(self) not in memo:
            twin = self.detach().clone().requires_grad_(self.requires_grad)
            if isinstance(self, torch.nn.Parameter):
                twin._is_param = True
            memo[id(self)] = twin
        return memo[id(self)]


def plain(value):
    """Without its pretence."""
    with torch._C.DisableTorchFunctionSubclass():
        return value.as_subclass(torch.Tensor)


def tensors(values):
    """All tensors in arguments, however they are nested."""
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from tensors(value)
        elif isinstance(value, dict):
            yield from tensors(value.values())


def wrapped(value):
    """With it."""
    if isinstance(value, torch.Tensor):
        if isinstance(value, Pretend):
            return value
        with torch._C.DisableTorchFunctionSubclass():
            return value.as_subclass(Pretend)
    if type(value) in (list, tuple):
        return type(value)(map(wrapped, value))
    if isinstance(value, tuple) and not isinstance(value, torch.Size):  # with names: torch's own, and named ones
        parts = tuple(map(wrapped, value))
        return type(value)(parts) if type(value).__module__ == "torch.return_types" else type(value)(*parts)
    return value


def is_here(device):
    return torch.device(device).type == CURRENT[-1].device.type


def compute(func, args, kwargs):
    """One operation, of which a pretended tensor is an operand."""
    seen, name = CURRENT[-1], getattr(func, "__name__", "")
    owner = getattr(func, "__self__", None)
    if owner is torch.Tensor.device:
        return seen.device
    if owner in (torch.Tensor.is_cuda, torch.Tensor.is_mps):
        return owner is getattr(torch.Tensor, f"is_{seen.device.type}")
    if name == "__get__" and owner not in (torch.Tensor.data, torch.Tensor.grad, torch.Tensor.T, torch.Tensor.mT):
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)
    operands = list(tensors([*args, *kwargs.values()]))
    if name not in MAY_MIX:
        for each in operands:
            if not isinstance(each, Pretend) and each.dim():
                raise DeviceError(f"{name}: a CPU tensor {tuple(each.shape)} beside one on {seen.device}")
    if name in WAITS:
        seen.note(seen.waits)
    if name == "__getitem__" and any(isinstance(i, list) or _is_mask(i) for i in _indices(args[1])):
        seen.note(seen.waits)  # how many there are is known to the device alone; a list is copied to it
    if name in ("to", "cpu") and (target := _target(args, kwargs)) is not None and target.type == "cpu":
        if name == "to":
            seen.note(seen.waits)
        args, kwargs = _moved(args, kwargs)
        with torch._C.DisableTorchFunctionSubclass():
            return plain(func(*args, **kwargs)) if name == "to" else plain(args[0]).clone()
    args, kwargs = _moved(args, kwargs)
    seen.ops[name] += 1
    with torch._C.DisableTorchFunctionSubclass():
        found = func(*args, **kwargs)
    for each in tensors([found]):
        if each.dtype == torch.float64 and seen.device.type == "mps":
            raise DeviceError(f"{name}: mps has no float64")
    return wrapped(found)


def _indices(index):
    return index if isinstance(index, tuple) else (index,)


def _is_mask(index):
    return isinstance(index, torch.Tensor) and plain(index).dtype == torch.bool


def _target(args, kwargs):
    """Where ``to`` goes; None where only the dtype changes."""
    given = kwargs.get("device", args[1] if len(args) > 1 else None)
    if isinstance(given, str | torch.device):
        return torch.device(given)
    if isinstance(given, torch.Tensor):
        return given.device
    return torch.device("cpu") if not kwargs and len(args) == 1 else None


def _moved(args, kwargs):
    """The pretended device as the CPU."""

    def real(value):
        return torch.device("cpu") if isinstance(value, str | torch.device) and _names_it(value) else value

    return tuple(map(real, args)), {key: real(value) for key, value in kwargs.items()}


def _names_it(value):
    if not isinstance(value, str | torch.device):
        return False
    try:
        return is_here(value)
    except RuntimeError:  # a text that is no device
        return False


class _Mode(TorchFunctionMode):
    """Makes tensors on the device, and copies to it."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if any(isinstance(each, Pretend) for each in tensors([*args, *kwargs.values()])):
            return compute(func, args, kwargs)
        name = getattr(func, "__name__", "")
        if name == "pin_memory" and CURRENT[-1].device.type == "cuda":
            CURRENT[-1].pinned += 1
            return args[0]
        goes = _names_it(kwargs.get("device", "cpu")) or (name == "to" and len(args) > 1 and _names_it(args[1]))
        if name in ("cuda", "mps") or not goes:
            return func(*args, **kwargs)
        seen = CURRENT[-1]
        args, kwargs = _moved(args, kwargs)
        found = func(*args, **kwargs)
        if name in ("tensor", "to", "as_tensor"):
            seen.note(seen.uploads)
        if found.dtype == torch.float64 and seen.device.type == "mps":
            raise DeviceError(f"{name}: mps has no float64")
        return wrapped(found.clone() if name == "to" else found)


@contextmanager
def pretending(kind):
    """There is such a device inside."""
    overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # a weight cannot become another class in place
    CURRENT.append(Seen(kind))
    try:
        with _Mode():
            yield CURRENT[-1]
    finally:
        CURRENT.pop()
        torch.__future__.set_overwrite_module_params_on_conversion(overwrite)


def put(module):
    """Move a module's weights and buffers to the device, in place."""
    for owner in module.modules():
        for name, weight in owner._parameters.items():
            if weight is not None:
                twin = wrapped(weight.detach().clone()).requires_grad_(weight.requires_grad)
                twin._is_param = True
                owner._parameters[name] = twin
        for name, buffer in owner._buffers.items():
            if buffer is not None:
                owner._buffers[name] = wrapped(buffer.detach().clone())
    _tie(module)
    return module


def _tie(module):
    if hasattr(module, "tie_weights"):
        module.tie_weights()
