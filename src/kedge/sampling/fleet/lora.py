"""Which adapters go to a server as PEFT's files, for vLLM to load beside the weights; all others are merged into them.

As vLLM 0.32 has it (``vllm/lora/peft_helper.py`` there).
"""

from torch import nn
from transformers import PreTrainedModel

from kedge.models.adapter_settings import INITS, method_of, trains_base
from kedge.models.adapters import adapted_layers, adapter_of

NAME = "kedge-adapter"
"""What a server calls the one that it has from here."""
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""That a server may be started for."""
ARCHITECTURES = frozenset({"llama", "mistral", "qwen2", "qwen3"})
"""Whose linear layers have the same names there; of others vLLM knows some, which nobody has tried here."""
UNKNOWN = (
    "use_dora", "layer_replication", "alora_invocation_tokens", "target_parameters", "use_qalora", "use_bdlora",
    "corda_config", "eva_config", "loftq_config",
)  # fmt: skip
"""Settings of PEFT's LoRA that vLLM refuses, or that nobody has tried."""


def served_rank(model: PreTrainedModel) -> int | None:
    """The rank for which a server must be started that is to load the model's adapter; None: it loads no such adapter.

    LoRA it does, rank-stabilised or not, with ranks of one's own for some layers, on linear layers of the trunk.
    """
    config = adapter_of(model)
    if config is None or method_of(config) != "lora" or model.config.model_type not in ARCHITECTURES:
        return None
    if trains_base(config) or config.init_lora_weights not in INITS:
        return None
    if any(getattr(config, name, None) for name in UNKNOWN):
        return None
    bases = [layer.get_base_layer() for layer in adapted_layers(model).values()]
    if any(not isinstance(base, nn.Linear) or base is model.get_output_embeddings() for base in bases):
        return None
    wanted = max(config.r, *config.rank_pattern.values(), 1)
    return next((rank for rank in RANKS if rank >= wanted), None)
