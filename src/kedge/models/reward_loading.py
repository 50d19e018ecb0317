"""Reward models by hub id, folder or run: new ones to be trained, and trained ones, whoever trained them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import AutoModel, AutoModelForSequenceClassification
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

from kedge.errors import ModelError
from kedge.models.adapters import base_of, labels_in
from kedge.models.device import Device
from kedge.models.loading import (
    Held,
    find_and_tell,
    load_config,
    load_tokenizer,
    open_model,
    refuse_missing_weights,
)
from kedge.models.quantized import HEADS, Quantization
from kedge.models.reading import FILE, PLAIN, Reading
from kedge.models.reward_model import Classifier, RewardModel, TrunkAndHead, finished
from kedge.models.scalar import ScalarModel


def new_reward_model(
    source: str | Path,
    *,
    tokenizer: str | Path | None = None,
    max_length: int | None = None,
    device: Device = "auto",
    dtype: Held = "auto",
    trust_remote_code: bool = False,
    attn_implementation: str | None = None,
    quantization: Quantization | None = None,
    merged: bool = True,
    reading: Reading = PLAIN,
) -> RewardModel:
    """A reward model to be trained: the trunk of any model, with a fresh head.

    Args:
        source: as :func:`load_language_model` takes it, and with it the settings that are not here.
        tokenizer: where the tokenizer is, when not beside the model.
        max_length: longer texts lose their beginning, in tokens.
        merged: an adapter becomes a part of the weights; False: it stays one, to be trained further.
        reading: how the score is made of what the head gives.

    Raises:
        ModelError: not found, no tokenizer, weights of the trunk missing; or several objectives, where transformers has
            no class for sequence classification.
    """
    folder = find_and_tell(source, "policy")
    how: dict[str, Any] = {
        "dtype": dtype, "device": device, "merged": merged, "headless": True, "quantization": quantization,
        "trust_remote_code": trust_remote_code, "attn_implementation": attn_implementation,
    }  # fmt: skip
    classified = _is_classified(folder, trust_remote_code)
    if classified:
        model, missing = open_model(AutoModelForSequenceClassification, folder, num_labels=reading.width, **how)
        missing = {name for name in missing if name.partition(".")[0] not in HEADS}
    elif reading.width == 1:
        model, missing = open_model(AutoModel, folder, **how)
    else:
        raise ModelError(f"{source}: transformers has no head with several outputs for it; learn one objective")
    refuse_missing_weights(missing, source, "the trunk is incomplete")
    words = load_tokenizer(tokenizer or folder, key="tokenizer", trust_remote_code=trust_remote_code)
    kind, whole = (Classifier, model) if classified else (TrunkAndHead, ScalarModel(model))
    made = finished(kind, whole, words, max_length, reading)
    if reading.steps is not None and made.head is None:
        raise ModelError(f"{source}: its head reads whole texts; steps want a causal language model")
    return made


def load_reward_model(
    source: str | Path,
    *,
    max_length: int | None = None,
    device: Device = "auto",
    dtype: Held = "auto",
    trust_remote_code: bool = False,
    attn_implementation: str | None = None,
    label: str | None = None,
    merged: bool = False,
) -> RewardModel:
    """A trained reward model by hub id, folder, or run folder of ``kedge reward``; or any classifier of texts.

    Args:
        source: where it is.
        max_length: longer texts lose their beginning, in tokens.
        device: ``auto`` is the best there is.
        dtype: of the weights.
        trust_remote_code: run code that the model brings.
        attn_implementation: transformers' name of it.
        label: of a classifier with several labels the one whose log-odds are the score.
        merged: an adapter becomes a part of the weights; False: they stay as they are, and a policy on the same base
            may share them.

    Raises:
        ModelError: not found, no tokenizer, head missing or misshapen, or an architecture without that class.
    """
    folder = find_and_tell(source, "reward_model")
    how: dict[str, Any] = {
        "dtype": dtype, "device": device, "merged": merged,
        "trust_remote_code": trust_remote_code, "attn_implementation": attn_implementation,
    }  # fmt: skip
    words = load_tokenizer(folder, key="tokenizer", trust_remote_code=trust_remote_code)
    reading = Reading.read(folder)
    if (Path(folder) / ScalarModel.head_file).is_file():
        return finished(TrunkAndHead, ScalarModel.load(Path(folder), **how), words, max_length, reading)
    if not _is_classified(folder, trust_remote_code):
        raise ModelError(f"{source}: no {ScalarModel.head_file} in it; train one with `kedge reward`")
    if base_of(folder) != folder:  # which has another head, or none
        how["num_labels"] = labels_in(folder) or reading.width
    model, missing = open_model(AutoModelForSequenceClassification, folder, **how)
    refuse_missing_weights(missing, source, "this is no reward model; train one with `kedge reward`")
    outputs = getattr(model.config, "num_labels", 1)
    if reading.objectives and outputs != reading.width:
        raise ModelError(f"{source}: {FILE} has {reading.width} objectives, and the head {outputs} outputs")
    if reading.objectives and label is not None:
        raise ModelError(f"{source}: label {label!r}, but it has objectives; weigh them: objectives = {{ ... }}")
    index = None if reading.objectives else _index_of(label, model.config, source)
    found = finished(Classifier, model, words, max_length, reading)
    assert isinstance(found, Classifier)
    return replace(found, label=index)


def _index_of(label: str | None, config: Any, source: object) -> int | None:
    """Of the label that is the score, where there are several."""
    if config.num_labels == 1:
        if label is not None:
            raise ModelError(f"{source}: label {label!r}, but it has one score and no labels; take it out")
        return None
    names = {str(name): int(index) for index, name in config.id2label.items()}
    if label not in names:
        told = f"there is no label {label!r}" if label is not None else "say which is the score"
        raise ModelError(f'{source}: it has {config.num_labels} labels; {told}: label = "..." of {", ".join(names)}')
    return names[label]


def _is_classified(folder: str, trust_remote_code: bool) -> bool:
    """Whether transformers has a class for sequence classification for the architecture."""
    return type(load_config(folder, trust_remote_code=trust_remote_code)) in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
