"""What :mod:`kedge.sampling.local.slots` runs a model on: a layer's slots, and attention of one query a row."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers.cache_utils import CacheLayerMixin

from kedge.models.device import computed_in


@dataclass
class Place:
    """Where the tokens of the current forward pass go: shared by all layers."""

    first: int = 0
    """Slot of the first row."""
    rows: Tensor | None = None
    """``[n]`` slots, which stand side by side; None while prompts are taken in whole."""
    positions: Tensor | None = None
    """``[n]`` columns of one token each, or ``[n, T]`` of several."""
    width: int = 0
    """Columns that the longest row fills, the new tokens included."""


class SlotLayer(CacheLayerMixin):
    """Keys and values of one layer, ``[slots, heads, columns, head_dim]``."""

    def __init__(self, place: Place, slots: int, columns: int) -> None:
        super().__init__()
        self.place, self.slots, self.columns = place, slots, columns

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        _, heads, _, key_dim = key_states.shape
        # Autocast leaves some norms, and the keys behind them, wide; what reads them makes them narrow.
        wide = computed_in(key_states.device) is None
        self.keys = (key_states if wide else value_states).new_zeros(self.slots, heads, self.columns, key_dim)
        self.values = value_states.new_zeros(self.slots, value_states.shape[1], self.columns, value_states.shape[-1])
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        place, (n, _, length, _) = self.place, key_states.shape
        if place.rows is None:  # prompts see themselves and nothing else
            self.keys[place.first : place.first + n, :, :length] = key_states
            self.values[place.first : place.first + n, :, :length] = value_states
            return key_states, value_states
        assert place.positions is not None
        if place.positions.dim() == 1:
            self.keys[place.rows, :, place.positions] = key_states[:, :, 0].to(self.keys.dtype)
            self.values[place.rows, :, place.positions] = value_states[:, :, 0].to(self.values.dtype)
        else:
            rows = place.rows[:, None]
            self.keys[rows, :, place.positions] = key_states.transpose(1, 2).to(self.keys.dtype)
            self.values[rows, :, place.positions] = value_states.transpose(1, 2).to(self.values.dtype)
        those = slice(place.first, place.first + n), slice(None), slice(place.width)
        return self.keys[those].to(key_states.dtype), self.values[those].to(value_states.dtype)

    def held(self, slot: int) -> tuple[Tensor, Tensor]:
        """Keys and values of one row ``[heads, columns, width]``."""
        assert self.keys is not None
        assert self.values is not None
        return self.keys[slot], self.values[slot]

    def move(self, source: Tensor, target: Tensor, width: int) -> None:
        """Copy rows to other slots."""
        for held in (self.keys, self.values):
            assert held is not None
            held[target, :, :width] = held[source, :, :width]

    def resize(self, slots: int, columns: int) -> None:
        """Make room for more rows or longer ones."""
        for name in ("keys", "values"):
            old = getattr(self, name)
            if old is not None:
                new = old.new_zeros(slots, old.shape[1], columns, old.shape[3])
                new[: old.shape[0], :, : old.shape[2]] = old
                setattr(self, name, new)
        self.slots, self.columns = slots, columns

    def forget(self) -> None:
        """Begin anew, in the precision that comes next."""
        self.keys = self.values = None
        self.is_initialized = False

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return query_length, 0  # asked only while prompts are taken in

    def get_seq_length(self) -> int:
        return 0

    def get_max_length(self) -> int:
        return self.columns


def one_token_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of one query a row, without copying keys for the query heads that share them.

    Args:
        query: ``[n, heads, 1, head_dim]``. key, value: ``[n, key heads, columns, head_dim]``.
        attention_mask: ``[n, 1, 1, columns]``, added to the scores: 0 where the row may look.

    Returns:
        ``([n, 1, heads, head_dim], None)``, as transformers' attention functions do.
    """
    n, heads = query.shape[:2]
    # The query heads of one key head stand side by side: they become the queries of that head.
    grouped = query.reshape(n, key.shape[1], -1, query.shape[-1])
    if query.device.type == "cpu":  # for so few queries plain products are faster than the fused kernel
        scores = torch.matmul(
            grouped * (query.shape[-1] ** -0.5 if scaling is None else scaling), key.transpose(-1, -2)
        )
        weights = (scores + attention_mask).softmax(-1, dtype=torch.float32).to(value.dtype)
        output = torch.matmul(weights, value)
    else:
        output = scaled_dot_product_attention(grouped, key, value, attn_mask=attention_mask, scale=scaling)
    return output.reshape(n, 1, heads, -1), None
