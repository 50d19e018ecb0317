"""Models from their configurations alone: the real modules, with fake tensors for weights. Nothing is read or held."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
from transformers.pytorch_utils import Conv1D

from kedge.errors import ConfigError
from kedge.models.adapters import attach, base_of
from kedge.models.language_model import LanguageModel, wrap
from kedge.models.loading import DType, find, load_config, load_tokenizer
from kedge.models.quantized import (
    METHODS,
    Quantization,
    RemadeLinear,
    kind_of,
    layers_to_hold,
    quantization_of,
    replace_layer,
)
from kedge.models.reading import Reading
from kedge.models.reward_model import Classifier, RewardModel, TrunkAndHead, finished
from kedge.models.scalar import ScalarModel

Fake = AbstractContextManager[Any]
"""PyTorch's ``FakeTensorMode``: what is made inside has shapes and no numbers."""


def outlined_language_model(
    source: str | Path,
    fake: Fake,
    *,
    tokenizer: str | Path | None = None,
    stop_tokens: Sequence[str] = (),
    dtype: DType = "auto",
    trust_remote_code: bool = False,
    attn_implementation: str | None = None,
    quantization: Quantization | None = None,
    merged: bool = True,
) -> LanguageModel:
    """:func:`kedge.models.language_model.load_language_model` without the weights.

    Raises:
        ModelError: as there, but for what only weights can show.
    """
    folder = find(source, "policy")
    loaded = load_tokenizer(tokenizer or folder, key="tokenizer", trust_remote_code=trust_remote_code)
    config = load_config(folder, trust_remote_code=trust_remote_code)
    held = _held(folder, config, quantization, merged)
    model = _outlined(AutoModelForCausalLM, config, dtype, fake, trust_remote_code, attn_implementation, held)
    _attach(model, folder, merged=merged)
    return wrap(model, loaded, stop_tokens, source)


def outlined_reward_model(
    source: str | Path,
    fake: Fake,
    *,
    part: str = "reward_model",
    tokenizer: str | Path | None = None,
    max_length: int | None = None,
    dtype: DType = "auto",
    trust_remote_code: bool = False,
    attn_implementation: str | None = None,
    quantization: Quantization | None = None,
    reading: Reading | None = None,
    merged: bool = False,
) -> RewardModel:
    """A reward model, to be trained (``part="policy"``) or trained already, without the weights.

    Raises:
        ModelError: not found, or no tokenizer.
    """
    folder = find(source, part)
    config = load_config(folder, trust_remote_code=trust_remote_code)
    how = (trust_remote_code, attn_implementation, _held(folder, config, quantization, merged))
    model: PreTrainedModel | ScalarModel
    kind: type[RewardModel]
    reading = Reading.read(folder) if reading is None else reading
    own_head = (Path(folder) / ScalarModel.head_file).is_file()
    if own_head or type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        trunk = _outlined(AutoModel, config, dtype, fake, *how)
        _attach(trunk, folder, merged=merged)
        kind, model = TrunkAndHead, ScalarModel(trunk)
    else:
        config.num_labels = reading.width
        kind, model = Classifier, _outlined(AutoModelForSequenceClassification, config, dtype, fake, *how)
        _attach(model, folder, merged=merged)
    words = load_tokenizer(tokenizer or folder, key="tokenizer", trust_remote_code=trust_remote_code)
    if part == "reward_model":  # which is loaded to judge
        model.requires_grad_(False)
    return finished(kind, model, words, max_length, reading)


def _held(folder: str | Path, config: Any, quantization: Quantization | None, merged: bool) -> Quantization | None:
    """How the base will be held: as its own folder says, or the adapter's, or as it is asked for."""
    if (its_own := getattr(config, "quantization_config", None)) is not None:
        return kind_of(its_own if isinstance(its_own, dict) else its_own.to_dict(), folder)
    return (None if merged else quantization_of(folder)) or quantization


def _attach(model: PreTrainedModel, folder: str | Path, *, merged: bool) -> None:
    """The folder's adapter, where it stays one."""
    if base_of(folder) != str(folder) and not merged:
        attach(model, folder, outlined=True)


def _outlined(
    auto_class: Any,
    config: Any,
    dtype: DType,
    fake: Fake,
    trust_remote_code: bool,
    attention: str | None,
    quantization: Quantization | None,
) -> PreTrainedModel:
    with fake:
        model: PreTrainedModel = auto_class.from_config(
            config,
            dtype=torch.float32 if dtype == "auto" else getattr(torch, dtype),
            trust_remote_code=trust_remote_code,
            # Another fused kernel, which may not be here, needs about what sdpa needs.
            attn_implementation=attention if attention in (None, "eager") else "sdpa",
        )
        if quantization is not None:
            model.config.quantization_config = {"quant_method": METHODS[quantization]}
            held = layers_to_hold(model, quantization)
            if not held:
                raise ConfigError(f"quantization: no layer of {type(model).__name__} can be held in {quantization}")
            for name, layer in held:
                replace_layer(model, name, OutlinedLinear(layer, quantization))
    return model


class OutlinedLinear(RemadeLinear):
    """A quantised linear layer: as many bytes as it holds, and a weight of the right shape where it is made."""

    def __init__(self, layer: nn.Linear | Conv1D, quantization: Quantization) -> None:
        inputs, outputs = layer.weight.shape if isinstance(layer, Conv1D) else reversed(layer.weight.shape)
        super().__init__(inputs, outputs, bias=False)
        self.bias, self.dtype = layer.bias, layer.weight.dtype
        count = layer.weight.numel()
        # Constants: one byte for 64 numbers, or a number a row.
        size = count // 2 + count // 64 if quantization == "nf4" else count + self.out_features * self.dtype.itemsize
        self.weight = nn.Parameter(torch.empty(size, dtype=torch.uint8), requires_grad=False)

    def made(self) -> Tensor:
        return torch.empty(self.out_features, self.in_features, dtype=self.dtype)
