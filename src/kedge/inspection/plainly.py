"""Whether a job fits so plainly that nobody need rehearse it: a small model's start would take longer than its step."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kedge.inspection.machine import Machine
from kedge.models.loading import find, load_config

ROLES = 4
"""As many models as PPO may have of one."""
A_WEIGHT = 20
"""Bytes: itself, its gradient, Adam's two moments, a copy."""
PACKED = 2
"""Weights in a byte of a file, where they are packed in four bits."""
A_VOCABULARY = 8
"""Numbers as large as all logits that may be there at once."""
A_LAYER = 40
"""As large as a layer's hidden states, that its activations may take."""
SURELY = 2
"""Times all of that must there be."""


def plainly_fits(models: Sequence[str], tokens: int, machine: Machine, *, trust_remote_code: bool) -> bool:
    """Whether a job's peak is far below the machine's memory, by a bound that a peak hardly comes near to.

    False where nothing is known of an architecture.

    Args:
        models: folders, runs or hub ids of all that are loaded.
        tokens: that may be run at once, at the most.
        machine: its memory.
        trust_remote_code: of a model's configuration.
    """
    bounds = [_bound(model, tokens, trust_remote_code) for model in models]
    return all(bound is not None for bound in bounds) and SURELY * sum(filter(None, bounds)) < machine.total


def _bound(model: str, tokens: int, trust_remote_code: bool) -> int | None:
    folder = Path(find(model, "policy"))
    files = [*folder.glob("*.safetensors"), *folder.glob("*.bin")]
    config = load_config(str(folder), trust_remote_code=trust_remote_code).get_text_config()
    sizes: list[Any] = [getattr(config, name, None) for name in ("hidden_size", "num_hidden_layers", "vocab_size")]
    if (folder / "adapter_config.json").exists() or not files or not all(isinstance(size, int) for size in sizes):
        return None
    hidden, layers, vocabulary = sizes
    heads = getattr(config, "num_attention_heads", None) or 1
    longest = getattr(config, "max_position_embeddings", None) or tokens
    activations = layers * (A_LAYER * hidden + heads * min(tokens, longest)) + A_VOCABULARY * vocabulary
    weights = PACKED * sum(file.stat().st_size for file in files)
    return int(ROLES * (A_WEIGHT * weights + 4 * tokens * activations))
