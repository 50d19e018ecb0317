"""How long a sequence a model takes."""

from typing import Any


def max_positions(config: Any) -> int | None:
    """The longest sequence a model of this configuration takes, in tokens."""
    text_config = config.get_text_config()
    rope = getattr(text_config, "rope_parameters", None) or {}
    if rope.get("rope_type") in ("longrope", "dynamic"):
        # Beyond it the positions of all rows depend on the longest of the batch.
        original = rope.get("original_max_position_embeddings") or getattr(
            text_config, "original_max_position_embeddings", None
        )
        if isinstance(original, int):
            return original
    for name in ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "seq_length"):
        value = getattr(text_config, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return None
