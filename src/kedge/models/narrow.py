"""A model for passes without gradients under autocast, with its linear layers' weights cast once for all of them.

Autocast casts a weight wherever it meets it. Within a forward pass for training it keeps the copy; a recorded step may
not (the copy would be gone, or stale, at the next replay) and would cast every weight at every token: four bytes read
and two written where two read would do. What comes out is what autocast gives, to the bit, where a layer does nothing
with its weights but multiply.
"""

import copy

import torch
from torch import nn
from torch.nn import Parameter
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

LINEAR = (nn.Linear, Conv1D)


class NarrowCopy:
    """A second tree of a model's modules. It has the same tensors, but for linear layers: theirs are copies in another
    precision. So whoever else computes with the model meets none of them.

    Args:
        model: with weights in float32.
        dtype: of the copies.
    """

    def __init__(self, model: PreTrainedModel, dtype: torch.dtype) -> None:
        tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
        self.model = copy.deepcopy(model, tensors)
        self._pairs: list[tuple[Parameter, Parameter]] = []  # a copy, and what it is of
        for layer in filter(_only_multiplies, self.model.modules()):
            for name, weight in layer.named_parameters(recurse=False):
                if weight.dtype == torch.float32:
                    narrow = Parameter(weight.detach().to(dtype), requires_grad=False)
                    layer._parameters[name] = narrow  # not as an attribute, which a tied layer would see too
                    self._pairs.append((narrow, weight))

    @property
    def copies(self) -> list[Parameter]:
        """The tensors that are its own."""
        return [narrow for narrow, _ in self._pairs]

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the weights as they are now, to where the copies are."""
        for narrow, weight in self._pairs:
            narrow.copy_(weight)


def _only_multiplies(module: nn.Module) -> bool:
    """A linear layer that nobody has done anything to: no class of its own (as parametrizations make), no hooks."""
    return type(module) in LINEAR and not (module._forward_pre_hooks or module._forward_hooks)
