"""The output head by itself: from the trunk's hidden states to logits, exactly as the whole model makes them.

With it, logits can be had where they are needed and nowhere else: of the response's tokens, a chunk at a time, or of
each row's last token. Models scale or soft-cap their logits in their own ways; so a head is taken apart only where it
gives, on a few tokens, what the model itself gives.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from kedge.models.device import rounds_to_tf32


def trunk_of(model: PreTrainedModel) -> PreTrainedModel:
    """A model without its head."""
    trunk: Any = model.base_model
    assert isinstance(trunk, PreTrainedModel)
    return trunk


def vocabulary_rows(model: PreTrainedModel) -> int:
    """Rows of the input embedding: how many token ids the model knows."""
    embedding: Any = model.get_input_embeddings()
    return int(embedding.weight.shape[0])


def hidden_size(model: PreTrainedModel) -> int:
    """Width of the hidden states that the trunk gives."""
    config: Any = model.config.get_text_config()
    return int(getattr(config, "word_embed_proj_dim", None) or config.hidden_size)  # the smaller OPT projects them


def last_hidden(trunk: nn.Module, tokens: Tensor) -> Tensor:
    """``[B, L, H]``: hidden states of right-padded ``tokens [B, L]``.

    Without a mask: the trunk is causal, so no token sees the padding behind it.
    """
    states: Tensor = trunk(input_ids=tokens, use_cache=False).last_hidden_state
    return states


# How far two ways to the same logits may differ, relative to the largest one: rounding, some layers deep.
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}
LOW_PRECISION_TOLERANCE = 0.03

# What architectures call the bound of their logits.
SOFT_CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")


@dataclass(frozen=True)
class OutputHead:
    """``[..., H]`` hidden states of the trunk -> ``[..., V]`` logits."""

    linear: nn.Module
    scale: float
    soft_cap: float | None

    def __call__(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.linear(hidden)
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.soft_cap is not None:
            logits = torch.tanh(logits / self.soft_cap) * self.soft_cap
        return logits


def untried_head(model: PreTrainedModel) -> OutputHead | None:
    """The model's head as its configuration describes it; None where there is none apart from the trunk."""
    linear = model.get_output_embeddings()
    if not isinstance(linear, nn.Module) or trunk_of(model) is model:
        return None
    config: Any = model.config.get_text_config()
    # Cohere multiplies by logit_scale, Granite divides by logits_scaling, Gemma soft-caps.
    scale = getattr(config, "logit_scale", None) or 1.0 / (getattr(config, "logits_scaling", None) or 1.0)
    caps = [getattr(config, name, None) for name in SOFT_CAPS]
    return OutputHead(linear, float(scale), next((cap for cap in caps if cap), None))


@torch.no_grad()
def output_head(model: PreTrainedModel) -> OutputHead | None:
    """The model's head taken apart, or None where its logits are made in a way that is not known here."""
    head = untried_head(model)
    if head is None:
        return None
    tokens = torch.arange(4, device=model.device)[None] % vocabulary_rows(model)
    with in_eval_mode(model):
        hidden = getattr(trunk_of(model)(input_ids=tokens, use_cache=False), "last_hidden_state", None)
        if hidden is None or hidden.shape[-1] != getattr(head.linear, "in_features", hidden.shape[-1]):
            return None
        ours, theirs = head(hidden), model(input_ids=tokens, use_cache=False).logits
    return head if agree(ours, theirs) else None


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Dropout would make two passes differ, and use up random numbers."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def agree(ours: Tensor, theirs: Tensor) -> bool:
    """Whether two computations of the same logits differ by rounding only."""
    low = torch.is_autocast_enabled(theirs.device.type) or rounds_to_tf32(theirs.device)
    tolerance = LOW_PRECISION_TOLERANCE if low else TOLERANCE.get(theirs.dtype, LOW_PRECISION_TOLERANCE)
    return ours.shape == theirs.shape and bool((ours - theirs).abs().max() <= tolerance * theirs.abs().max())
