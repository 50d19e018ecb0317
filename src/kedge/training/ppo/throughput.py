"""How fast a step was: tokens a second, and the share of the machine's arithmetic that went into the models.

Model FLOPs as in Chowdhery et al. 2022 (PaLM), appendix B: 2 a weight and token forward, 4 backward, and attention's
own products; what is computed a second time to save memory does not count.
"""

import time
from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from kedge.models.bottom import Bottom, layers_of
from kedge.models.head import trunk_of
from kedge.runs.folder import Metrics

# Side of the matrices by whose product the machine is measured.
SIDE = {"cpu": 1024, "cuda": 8192, "mps": 2048}
TRIALS = 4
ENOUGH = 0.5
"""Seconds after which no further trial begins: a CPU without bfloat16 products takes more than one for each."""


def throughput(
    model: PreTrainedModel,
    peak: float,
    seconds: float,
    *,
    lengths: Sequence[int],
    answered: int,
    forward: float,
    both: float,
    backward: float,
) -> Metrics:
    """Metrics of a step.

    Args:
        model: the policy; critic and reference are counted as as large.
        peak: FLOP/s of the machine, all processes together.
        seconds: the step took.
        lengths: of the sequences, prompt and answer, in tokens.
        answered: tokens of all answers.
        forward: passes over the sequences without a backward pass (sampling is one of them).
        both: passes with one.
        backward: what a backward pass takes, in forward passes: 2 where the weights have gradients too.
    """
    flops = flops_forward(model, lengths) * (forward + (1 + backward) * both)
    return {"throughput/tokens_per_second": answered / seconds, "throughput/mfu": flops / seconds / peak}


def share_above(model: PreTrainedModel, bottom: Bottom | None) -> float:
    """Of the products of a forward pass, those of the layers above the frozen ones, and of the head."""
    if bottom is None:
        return 1.0
    head = model.get_output_embeddings()
    in_head = 0 if head is None else 2 * sum(weight.numel() for weight in head.parameters())
    whole = flops_forward(model, [1])
    return 1 - (1 - in_head / whole) * bottom.depth / len(layers_of(trunk_of(model)))


def flops_forward(model: PreTrainedModel, lengths: Sequence[int]) -> float:
    """FLOPs of a forward pass over sequences of these lengths, in tokens. Of a mixture every expert counts."""
    embedding = model.get_input_embeddings()
    head = model.get_output_embeddings()
    weights = sum(parameter.numel() for parameter in trunk_of(model).parameters())
    weights -= sum(parameter.numel() for parameter in embedding.parameters())  # looked up, not multiplied
    weights += sum(parameter.numel() for parameter in head.parameters()) if head is not None else 0
    config = model.config.get_text_config()
    return sum(length * (2 * weights + _attention(config, length)) for length in lengths)


def _attention(config: Any, length: int) -> float:
    """FLOPs a token of queries with keys and weights with values; causal, so half of the sequence on average."""
    heads = getattr(config, "num_attention_heads", None)
    if not heads:  # no attention
        return 0.0
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return 4.0 * config.num_hidden_layers * heads * width * length / 2


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a large matrix product here, the best of a few."""
    side = SIDE.get(device.type, SIDE["cpu"])
    a = torch.ones(side, side, device=device, dtype=dtype)
    taken: list[float] = []
    while len(taken) < TRIALS and sum(taken) < ENOUGH:
        start = time.perf_counter()
        float((a @ a)[0, 0])  # read, so that it has happened
        taken.append(time.perf_counter() - start)
    return 2 * side**3 / min(taken)
