"""Models from their configurations alone: the real modules, with fake tensors for weights. Nothing is read or held."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

from kedge.models.language_model import DType, LanguageModel, find, load_config, load_tokenizer, wrap
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
) -> LanguageModel:
    """:func:`kedge.models.language_model.load_language_model` without the weights.

    Raises:
        ModelError: as there, but for what only weights can show.
    """
    folder = find(source, "policy")
    loaded = load_tokenizer(tokenizer or folder, key="tokenizer", trust_remote_code=trust_remote_code)
    config = load_config(folder, trust_remote_code=trust_remote_code)
    model = _outlined(AutoModelForCausalLM, config, dtype, fake, trust_remote_code, attn_implementation)
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
) -> RewardModel:
    """A reward model, to be trained (``part="policy"``) or trained already, without the weights.

    Raises:
        ModelError: not found, or no tokenizer.
    """
    folder = find(source, part)
    config, how = load_config(folder, trust_remote_code=trust_remote_code), (trust_remote_code, attn_implementation)
    model: PreTrainedModel | ScalarModel
    kind: type[RewardModel]
    own_head = (Path(folder) / ScalarModel.head_file).is_file()
    if own_head or type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        kind, model = TrunkAndHead, ScalarModel(_outlined(AutoModel, config, dtype, fake, *how))
    else:
        config.num_labels = 1
        kind, model = Classifier, _outlined(AutoModelForSequenceClassification, config, dtype, fake, *how)
    words = load_tokenizer(tokenizer or folder, key="tokenizer", trust_remote_code=trust_remote_code)
    return finished(kind, model, words, max_length)


def _outlined(
    auto_class: Any, config: Any, dtype: DType, fake: Fake, trust_remote_code: bool, attention: str | None
) -> PreTrainedModel:
    with fake:
        model: PreTrainedModel = auto_class.from_config(
            config,
            dtype=torch.float32 if dtype == "auto" else getattr(torch, dtype),
            trust_remote_code=trust_remote_code,
            # Another fused kernel, which may not be here, needs about what sdpa needs.
            attn_implementation=attention if attention in (None, "eager") else "sdpa",
        )
    return model
