"""Weights, data, code and settings in a few letters each, to tell whether they are those that a run began with.

Against mistakes and not against malice, so that it costs one look at each weight: 0.15 seconds a GiB on a CPU, four for
7 billion weights in float32; a GPU does not notice.
"""

import hashlib
import inspect
import json
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from kedge.parallel import gathered

UNKNOWN = "?"
"""In a fingerprint that could not be taken whole: it is as good as any."""

AT_A_TIME = 2**20
SAMPLED = 256
_AS_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def of_weights(module: nn.Module) -> str:
    """Of names, shapes and every bit of the weights, wherever they are."""
    sums = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        sums.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} {_content(gathered(tensor))}".encode())
    return f"weights {_short(sums)}"


def of_rows(rows: Iterable[Any]) -> str:
    """Of data: their number, order and content, as far as it is plain."""
    sums, count = hashlib.sha256(), 0
    for row in rows:
        sums.update(_plainly(row).encode())
        count += 1
    return f"{count} rows {_short(sums)}"


def of_settings(settings: Mapping[str, Any]) -> str:
    """Of what something was set to, as far as it is plain."""
    return f"settings {_short(hashlib.sha256(_plainly(settings).encode()))}"


def of_code(function: Any) -> str:
    """Of a function's source and what :func:`functools.partial` gives it; of an object, its class's source."""
    given = ""
    while isinstance(function, partial):
        given += _plainly([function.args, function.keywords])
        function = function.func
    source = function if inspect.isroutine(function) else type(function)
    try:
        return f"source {_short(hashlib.sha256((inspect.getsource(inspect.unwrap(source)) + given).encode()))}"
    except (OSError, TypeError):  # typed in, or not written in Python
        return f"source {UNKNOWN}"


def _plainly(value: Any) -> str:
    """As JSON: numbers, times and texts by value, of anything else the type."""
    try:
        return json.dumps(value, sort_keys=True, default=_cell)
    except (TypeError, ValueError):  # keys that are no text or of several kinds, or a value inside itself
        return UNKNOWN


def _cell(value: Any) -> Any:
    for plain in ("isoformat", "tolist"):  # of times; of NumPy and torch
        if hasattr(value, plain):
            return getattr(value, plain)()
    return type(value).__name__


def _content(tensor: Tensor) -> str:
    """The sum of all bits, read as whole numbers, and some of them from all over the tensor in their order."""
    if is_traceable_wrapper_subclass(tensor):  # of several tensors: quantised numbers and their scales
        return " ".join(_content(getattr(tensor, name)) for name in tensor.__tensor_flatten__()[0])
    bits = tensor.detach().reshape(-1).view(_AS_INTEGERS[tensor.element_size()])
    total = sum((part.sum(dtype=torch.int64) for part in bits.split(AT_A_TIME)), torch.zeros((), dtype=torch.int64))
    return f"{int(total)} {bits[:: max(1, len(bits) // SAMPLED)].tolist()}"


def _short(sums: Any) -> str:
    return str(sums.hexdigest()[:12])
