"""Stacks of linear layers on a CPU, forward and backward by NumPy.

For networks of a few thousand weights torch takes longer to call an operation than to carry it out; whole stacks as one
node of its graph take half the time (``benchmarks/control.py``).
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from threadpoolctl import ThreadpoolController
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

Layer = tuple[np.ndarray, np.ndarray]
"""Weight ``[out, in]`` and bias ``[out]``."""
ACTIVATIONS: dict[str, tuple[Callable[..., Any], Callable[[np.ndarray], np.ndarray]]] = {
    "tanh": (np.tanh, lambda y: 1.0 - y * y),
    "relu": (lambda x, out: np.maximum(x, 0.0, out=out), lambda y: y > 0.0),
}
"""The function, and its slope where it has the value y."""


class Dense:
    """Stacks of layers over the same observations.

    Args:
        stacks: float32 layers on a CPU. From here on their weights are views of ``flat``.
        activation: what stands between layers, ``tanh`` or ``relu``.
    """

    def __init__(self, stacks: Sequence[Sequence[nn.Linear]], activation: str) -> None:
        self.layers, self.activation = stacks, activation
        weights = [weight for stack in stacks for layer in stack for weight in (layer.weight, layer.bias)]
        self.flat = nn.Parameter(parameters_to_vector(weights).detach())
        """All weights in one vector: the leaf that gradients are of."""
        vector_to_parameters(self.flat, weights)
        self.stacks = [
            [(layer.weight.detach().numpy(), layer.bias.detach().numpy()) for layer in stack] for stack in stacks
        ]
        self.apply, self.slope = ACTIVATIONS[activation]

    def __deepcopy__(self, memo: dict[int, Any]) -> "Dense":
        """Of the copied layers, with a vector of their own."""
        copied = Dense(copy.deepcopy(self.layers, memo), self.activation)
        memo[id(self.flat)] = copied.flat
        return copied

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        """``[..., in]`` to ``[..., out]`` by each stack; no gradient goes to x."""
        outputs = Pass.apply(self.flat, self, x.flatten(0, -2).numpy())
        return tuple(y.unflatten(0, x.shape[:-1]) for y in outputs)

    def one(self, x: Tensor, stack: int) -> Tensor:
        """The same by one stack, without a gradient."""
        _, y = self.forward(x.flatten(0, -2).numpy(), self.stacks[stack])
        return torch.from_numpy(y).unflatten(0, x.shape[:-1])

    def forward(self, x: np.ndarray, layers: Sequence[Layer]) -> tuple[list[np.ndarray], np.ndarray]:
        """What each layer was given, and what the last one made."""
        inputs: list[np.ndarray] = []
        for weight, bias in layers:
            if inputs:
                self.apply(x, out=x)
            inputs.append(x)
            x = x @ weight.T
            x += bias
        return inputs, x

    def backward(self, gradient: np.ndarray, inputs: Sequence[np.ndarray], layers: Sequence[Layer]) -> list[np.ndarray]:
        """Gradients of weights and biases in the layers' order, from that of what the last one made."""
        found: list[np.ndarray] = []
        ones = np.ones(len(gradient), np.float32)
        for (weight, _), x in zip(reversed(layers), reversed(inputs), strict=True):
            found += [ones @ gradient, (gradient.T @ x).ravel()]
            if x is not inputs[0]:
                # As a product of matrices a column and a row take six times as long.
                gradient = gradient * weight if len(weight) == 1 else gradient @ weight
                gradient *= self.slope(x)
        return found[::-1]


@contextmanager
def single_threaded() -> Iterator[None]:
    """Torch and NumPy's OpenBLAS on one thread: over arrays this small more of them wait for each other, and on a busy
    machine for everybody else."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadpoolController().select(internal_api="openblas").limit(limits=1):
            yield
    finally:
        torch.set_num_threads(threads)


class Pass(torch.autograd.Function):
    """All stacks as one node of torch's graph."""

    @staticmethod
    def forward(ctx: Any, flat: Tensor, dense: Dense, x: np.ndarray) -> tuple[Tensor, ...]:
        ctx.dense = dense
        ctx.inputs, outputs = zip(*(dense.forward(x, stack) for stack in dense.stacks), strict=True)
        return tuple(torch.from_numpy(y) for y in outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        parts: list[np.ndarray] = []
        for gradient, inputs, stack in zip(gradients, ctx.inputs, ctx.dense.stacks, strict=True):
            parts += ctx.dense.backward(gradient.numpy(), inputs, stack)
        return torch.from_numpy(np.concatenate(parts)), None, None
