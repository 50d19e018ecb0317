"""A linear head that reads one number off a trunk's hidden state: the critic's value, or a reward model's score."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel

from kedge.errors import ModelError
from kedge.models.adapters import adapter_of
from kedge.models.bottom import copy_of_trained
from kedge.models.head import hidden_size, last_hidden, trunk_of
from kedge.models.loading import copy_weights, open_model, refuse_missing_weights, write_weights
from kedge.models.sharding import class_of


def write_head(weights: Mapping[str, Tensor], path: Path) -> None:
    """Write a head's weights to a safetensors file."""
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, path)


class ScalarHead(nn.Module):
    """``[..., H]`` hidden states -> ``[...]`` float32. Starts at 0 everywhere: an untrained critic claims nothing."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden_size, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):  # a value is a number to the third digit
            return self.linear(hidden.float()).squeeze(-1)

    def read(self, path: Path) -> None:
        """Read the head from a safetensors file, strictly.

        Raises:
            ModelError: no such file, or weights missing, misshapen or too many.
        """
        if not path.is_file():
            raise ModelError(f"{path}: the head is missing; without it this is only a trunk")
        state = load_file(path)
        wanted = self.state_dict()
        shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
        expected = {name: tuple(tensor.shape) for name, tensor in wanted.items()}
        if shapes != expected:
            raise ModelError(f"{path}: holds {shapes}, but this trunk needs {expected}")
        self.load_state_dict(state)


class ScalarModel(nn.Module):
    """A trunk of its own with a :class:`ScalarHead`: ``[B, L]`` tokens -> ``[B, L]``, a number after each token."""

    head_file: ClassVar[str] = "score_head.safetensors"
    """Where the head stands, beside the trunk."""

    def __init__(self, trunk: PreTrainedModel) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = ScalarHead(hidden_size(trunk)).to(trunk.device)

    @classmethod
    def from_trunk_of(cls, model: PreTrainedModel, *, sharded: bool = False) -> Self:
        """Start from a copy of ``model``'s trunk (what is frozen is shared; ``sharded``: see
        :func:`kedge.models.bottom.copy_of_trained`), and of its score head where it has one."""
        scalar = cls(copy_of_trained(trunk_of(model), sharded=sharded))
        if adapter_of(model) is not None:  # what says so stands on the whole model
            scalar.trunk.peft_config = copy.deepcopy(model.peft_config)
        score = getattr(model, "score", None)
        if isinstance(score, nn.Linear) and score.out_features == 1:
            with torch.no_grad():
                scalar.head.linear.weight.copy_(score.weight)
                if score.bias is not None:
                    scalar.head.linear.bias.copy_(score.bias)
        return scalar

    @classmethod
    def like(cls, other: "ScalarModel") -> Self:
        """A copy that is trained apart."""
        scalar = cls(copy.deepcopy(other.trunk))
        scalar.head = copy.deepcopy(other.head)
        return scalar

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(last_hidden(self.trunk, tokens))

    def write(self, folder: Path | None, weights: Mapping[str, Tensor]) -> None:
        """These weights: the trunk's as a Hugging Face folder, the head's beside it."""
        write_weights(self.trunk, folder, _under("trunk.", weights))
        if folder is not None:
            write_head(_under("head.", weights), folder / self.head_file)

    def load_weights(self, folder: Path) -> None:
        """Replace the weights by those that :meth:`save` wrote, in place and strictly.

        Raises:
            ModelError: trunk or head missing or misshapen.
        """
        copy_weights(self.trunk, class_of(self.trunk), folder)
        self.head.read(folder / self.head_file)

    @classmethod
    def load(cls, folder: Path, **how: Any) -> Self:
        """Read what :meth:`save` wrote, strictly.

        Args:
            folder: where it stands.
            how: as :func:`open_model` takes it.

        Raises:
            ModelError: trunk or head missing or misshapen.
        """
        trunk, missing = open_model(AutoModel, folder, **how)
        refuse_missing_weights(missing, folder, "the trunk is incomplete")
        scalar = cls(trunk)
        scalar.head.read(folder / cls.head_file)
        return scalar


def _under(prefix: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
