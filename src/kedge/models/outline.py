"""Models from their configurations alone: the real modules, with fake tensors for weights. Nothing is read or held."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

from kedge.models.language_model import LanguageModel, wrap
from kedge.models.loading import DType, find, load_config, load_tokenizer
from kedge.models.quantized import METHODS, Quantization, RemadeLinear, left_plain, quantization_of
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
) -> LanguageModel:
    """:func:`kedge.models.language_model.load_language_model` without the weights.

    Raises:
        ModelError: as there, but for what only weights can show.
    """
    folder = find(source, "policy")
    loaded = load_tokenizer(tokenizer or folder, key="tokenizer", trust_remote_code=trust_remote_code)
    config = load_config(folder, trust_remote_code=trust_remote_code)
    held = quantization_of(folder) or quantization
    model = _outlined(AutoModelForCausalLM, config, dtype, fake, trust_remote_code, attn_implementation, held)
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
) -> RewardModel:
    """A reward model, to be trained (``part="policy"``) or trained already, without the weights.

    Raises:
        ModelError: not found, or no tokenizer.
    """
    folder = find(source, part)
    config = load_config(folder, trust_remote_code=trust_remote_code)
    how = (trust_remote_code, attn_implementation, quantization_of(folder) or quantization)
    model: PreTrainedModel | ScalarModel
    kind: type[RewardModel]
    reading = Reading.read(folder) if reading is None else reading
    own_head = (Path(folder) / ScalarModel.head_file).is_file()
    if own_head or type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        kind, model = TrunkAndHead, ScalarModel(_outlined(AutoModel, config, dtype, fake, *how))
    else:
        config.num_labels = reading.width
        kind, model = Classifier, _outlined(AutoModelForSequenceClassification, config, dtype, fake, *how)
    words = load_tokenizer(tokenizer or folder, key="tokenizer", trust_remote_code=trust_remote_code)
    return finished(kind, model, words, max_length, reading)


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
            plain = left_plain(model)
            for name, layer in [*model.named_modules()]:
                if type(layer) is nn.Linear and name not in plain:
                    parent, _, attribute = name.rpartition(".")
                    setattr(model.get_submodule(parent), attribute, OutlinedLinear(layer, quantization))
    return model


class OutlinedLinear(RemadeLinear):
    """A quantised linear layer: as many bytes as it holds, and a weight of the right shape where it is made."""

    def __init__(self, layer: nn.Linear, quantization: Quantization) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=False)
        self.bias, self.dtype = layer.bias, layer.weight.dtype
        count = layer.weight.numel()
        # Constants: one byte for 64 numbers, or a number a row.
        size = count // 2 + count // 64 if quantization == "nf4" else count + self.out_features * self.dtype.itemsize
        self.weight = nn.Parameter(torch.empty(size, dtype=torch.uint8), requires_grad=False)

    def made(self) -> Tensor:
        return torch.empty(self.out_features, self.in_features, dtype=self.dtype)
