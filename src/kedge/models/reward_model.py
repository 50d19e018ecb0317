"""Reward models: a text or conversation in, one score out, read at its last token.

Saved as ``AutoModelForSequenceClassification(num_labels=1)`` where the architecture has that class, so that plain
``transformers`` gives the same score; else as a trunk with the head in ``score_head.safetensors`` beside it.

That class finds the last token as the last one that is not the pad token. So a text never *ends* with the pad token
here: the EOS is appended to plain text only where it is another token.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForSequenceClassification, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

from kedge.data.encode import Tokenizer, encode_whole
from kedge.data.records import Text
from kedge.errors import ModelError
from kedge.models.batch import attention, by_token_budget, padded
from kedge.models.head import trunk_of
from kedge.models.language_model import (
    Device,
    DType,
    copy_weights,
    find_and_tell,
    load_config,
    load_tokenizer,
    load_weights,
    max_positions,
    pick_device,
    refuse_missing,
    vocabulary_rows,
)
from kedge.models.scalar import ScalarModel

HEAD_FILE = "score_head.safetensors"


@dataclass(frozen=True)
class RewardModel:
    """A scoring model with its own tokenizer."""

    model: PreTrainedModel | ScalarModel
    tokenizer: Tokenizer
    max_length: int | None
    """Longer texts lose their beginning, in tokens: what is judged is the end."""

    @property
    def trunk(self) -> PreTrainedModel:
        """The model without its head."""
        return self.model.trunk if isinstance(self.model, ScalarModel) else trunk_of(self.model)

    @property
    def pad_id(self) -> int:
        """The pad token (never a text's last one)."""
        return int(self.tokenizer.pad_token_id)

    def encode(self, text: Text, *, origin: str = "text") -> list[int]:
        """Token ids of a finished text or conversation; of one that is too long, the last ones.

        Raises:
            DataError: messages without a chat template.
        """
        return self.ending(self.encode_whole(text, origin=origin))

    def ending(self, ids: list[int]) -> list[int]:
        """As much of the end as the model reads."""
        return ids if self.max_length is None else ids[-self.max_length :]

    def encode_whole(self, text: Text, *, origin: str = "text") -> list[int]:
        """All token ids of a finished text or conversation.

        Raises:
            DataError: messages without a chat template.
        """
        ids = encode_whole(self.tokenizer, text, ends=self._ends(text), origin=origin)
        while len(ids) > 1 and ids[-1] == self.pad_id:
            ids = ids[:-1]
        return ids

    def __call__(self, sequences: Sequence[Sequence[int]]) -> Tensor:
        """Scores ``[N]`` float32 of token sequences, carrying gradients where they are enabled."""
        tokens, lengths = padded(sequences, self.pad_id, self.trunk.device)
        attention_mask = attention(tokens, lengths)
        last = (torch.arange(len(lengths), device=tokens.device), lengths - 1)
        if isinstance(self.model, ScalarModel):
            return self.model(tokens)[last]
        head = getattr(self.model, "score", None)
        if isinstance(head, nn.Linear):
            hidden = self.trunk(input_ids=tokens, attention_mask=attention_mask, use_cache=False).last_hidden_state
            return head(hidden[last]).squeeze(-1).float()
        # An encoder's classifier does its own pooling, by the attention mask.
        return self.model(input_ids=tokens, attention_mask=attention_mask).logits.squeeze(-1).float()

    @torch.no_grad()
    def score(self, texts: Sequence[Text], *, batch_tokens: int = 16_384) -> list[float]:
        """Scores of texts or conversations, in batches of about ``batch_tokens`` tokens sorted by length."""
        encoded = [self.encode(text) for text in texts]
        scores = [0.0] * len(encoded)
        self.model.eval()
        for batch in by_token_budget([len(ids) for ids in encoded], batch_tokens):
            for index, score in zip(batch, self([encoded[i] for i in batch]).tolist(), strict=True):
                scores[index] = score
        return scores

    def save(self, folder: Path) -> None:
        """Write model and tokenizer."""
        if isinstance(self.model, ScalarModel):
            self.model.save(folder, HEAD_FILE)
        else:
            self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def load_weights(self, folder: Path) -> None:
        """Replace the weights by those that :meth:`save` wrote, in place."""
        if isinstance(self.model, ScalarModel):
            self.model.load_weights(folder, HEAD_FILE)
        else:
            copy_weights(self.model, type(self.model), folder)

    def _ends(self, text: Text) -> list[int]:
        eos = self.tokenizer.eos_token_id
        return [eos] if isinstance(text, str) and eos not in (None, self.pad_id) else []


def new_reward_model(
    source: str | Path,
    *,
    tokenizer: str | Path | None = None,
    max_length: int | None = None,
    device: Device = "auto",
    dtype: DType = "auto",
    trust_remote_code: bool = False,
    attn_implementation: str | None = None,
) -> RewardModel:
    """A reward model to be trained: the trunk of any model, with a fresh head.

    Raises:
        ModelError: not found, no tokenizer, or weights of the trunk missing.
    """
    folder = find_and_tell(source, "policy")
    model: PreTrainedModel | ScalarModel
    how: dict[str, Any] = {"trust_remote_code": trust_remote_code, "attn_implementation": attn_implementation}
    if type(load_config(folder, trust_remote_code=trust_remote_code)) in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        model, info = load_weights(AutoModelForSequenceClassification, folder, dtype, num_labels=1, **how)
        info["missing_keys"] = {key for key in info["missing_keys"] if not key.startswith(("score.", "classifier."))}
        refuse_missing(info, source, "the trunk is incomplete")
    else:
        trunk, info = load_weights(AutoModel, folder, dtype, **how)
        refuse_missing(info, source, "the trunk is incomplete")
        model = ScalarModel(trunk)
    model.to(pick_device(device))  # type: ignore[arg-type]
    words = load_tokenizer(tokenizer or folder, key="tokenizer", trust_remote_code=trust_remote_code)
    return finished(model, words, max_length)


def load_reward_model(
    source: str | Path,
    *,
    max_length: int | None = None,
    device: Device = "auto",
    dtype: DType = "auto",
    trust_remote_code: bool = False,
    attn_implementation: str | None = None,
) -> RewardModel:
    """A trained reward model by hub id, folder, or run folder of ``kedge reward``.

    Raises:
        ModelError: not found, no tokenizer, head missing or misshapen, or an architecture without that class.
    """
    folder = find_and_tell(source, "reward_model")
    how: dict[str, Any] = {"trust_remote_code": trust_remote_code, "attn_implementation": attn_implementation}
    if (Path(folder) / HEAD_FILE).is_file():
        model: PreTrainedModel | ScalarModel = ScalarModel.load(Path(folder), HEAD_FILE, dtype=dtype, **how)
    else:
        if (
            type(load_config(folder, trust_remote_code=trust_remote_code))
            not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
        ):
            raise ModelError(f"{source}: no {HEAD_FILE} in it; train one with `kedge reward`")
        model, info = load_weights(AutoModelForSequenceClassification, folder, dtype, **how)
        refuse_missing(info, source, "this is no reward model; train one with `kedge reward`")
        if model.config.num_labels != 1:
            raise ModelError(f"{source}: {model.config.num_labels} labels; a reward model has num_labels=1")
    model.to(pick_device(device))  # type: ignore[arg-type]
    return finished(model, load_tokenizer(folder, key="tokenizer", trust_remote_code=trust_remote_code), max_length)


def finished(model: PreTrainedModel | ScalarModel, tokenizer: Tokenizer, max_length: int | None) -> RewardModel:
    """A :class:`RewardModel` of a model and its tokenizer, checked against each other.

    Raises:
        ModelError: more tokens than the model knows, or neither a pad nor an EOS token.
    """
    rows = vocabulary_rows(model.trunk if isinstance(model, ScalarModel) else model)
    if len(tokenizer) > rows:
        raise ModelError(f"reward model: the tokenizer has {len(tokenizer):,} tokens and the model {rows:,}")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token_id is None:
        raise ModelError("reward model: the tokenizer has neither a pad nor an EOS token; give it one and save it")
    config = model.trunk.config if isinstance(model, ScalarModel) else model.config
    config.get_text_config().pad_token_id = tokenizer.pad_token_id
    limits = [limit for limit in (max_length, max_positions(config)) if limit is not None]
    model.eval()
    return RewardModel(model, tokenizer, min(limits, default=None))
