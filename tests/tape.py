"""In place of a CUDA graph: the operations of a computation, noted as they are carried out, and carried out again.

Like a graph, a replay does what was done then, to the same tensors: whatever Python would decide anew is not decided
again. What asks the host for a number, or brings one from it, cannot be noted.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

HOST = {"_local_scalar_dense", "lift_fresh", "lift_fresh_copy", "nonzero", "masked_select", "equal", "is_nonzero"}
"""A number for Python, or from it."""


class Taping(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.done = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.removeprefix("aten::")
        by_mask = name.startswith("index") and any(x.dtype == torch.bool for x in tensors(args[1:2]))
        if name in HOST or by_mask:
            raise RuntimeError(f"operation not permitted when stream is capturing: {name}")
        found = done(func, args, kwargs or {})
        self.done.append((func, args, kwargs or {}, tensors(found)))
        return found

    def replay(self):
        for func, args, kwargs, results in self.done:
            for old, new in zip(results, tensors(done(func, args, kwargs)), strict=True):
                if old.data_ptr() != new.data_ptr():  # neither a view nor in place
                    old.copy_(new)


def done(func, args, kwargs):
    with torch._C.DisableTorchFunction():  # a pretended device has seen it already
        return func(*args, **kwargs)


def tensors(values):
    return [value for value in tree_leaves(values) if isinstance(value, torch.Tensor)]


def record(compute, pool):
    """As :func:`kedge.sampling.local.graphs.record`."""
    for _ in range(2):
        compute()
    with Taping() as tape:
        compute()
    return tape.replay
