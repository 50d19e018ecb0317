"""Reward models: a text or conversation in, one score out, read at its last token.

Saved as ``AutoModelForSequenceClassification(num_labels=1)`` where the architecture has that class, so that plain
``transformers`` gives the same score; else as a trunk with the head in ``score_head.safetensors`` beside it.

That class finds the last token as the last one that is not the pad token. So a text never *ends* with the pad token
here: the EOS is appended to plain text only where it is another token.
"""

import copy
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import Parameter
from transformers import PreTrainedModel

from kedge.data.encode import Tokenizer, encode_whole
from kedge.data.records import Text
from kedge.errors import ModelError
from kedge.models.adapters import adapter_of, adapter_weights, head_weights, merge
from kedge.models.batch import attention, by_token_budget, padded
from kedge.models.head import trunk_of, vocabulary_rows
from kedge.models.loading import (
    copy_weights,
    write_weights,
)
from kedge.models.positions import max_positions
from kedge.models.prefix import prefix_length
from kedge.models.reading import PLAIN, Reading
from kedge.models.role import Role
from kedge.models.scalar import ScalarModel
from kedge.models.sharding import Sharding, class_of, within
from kedge.models.steps import answer_in, places_of

Scalar = TypeVar("Scalar", bound=ScalarModel)


@dataclass(frozen=True)
class RewardModel(Role):
    """A scoring model with its own tokenizer: a :class:`Classifier`, or a :class:`TrunkAndHead`."""

    model: Any
    """What computes."""
    tokenizer: Tokenizer
    max_length: int | None
    """Longer texts lose their beginning, in tokens: what is judged is the end."""
    reading: Reading = PLAIN
    """How the score is made of what the head gives."""

    @property
    def module(self) -> nn.Module:
        module: nn.Module = self.model
        return module

    @property
    @abstractmethod
    def trunk(self) -> PreTrainedModel:
        """The model without its head."""

    @property
    @abstractmethod
    def head(self) -> nn.Linear | None:
        """What makes a score of a hidden state; None where it is not a linear map."""

    @abstractmethod
    def outputs(self, tokens: Tensor, lengths: Tensor, where: tuple[Tensor, Tensor]) -> Tensor:
        """What the head gives, ``[M, reading.width]`` float32.

        Args:
            tokens: ``[N, L]``, right-padded.
            lengths: ``[N]`` of them.
            where: rows and columns ``[M]`` of the tokens at which it is read.
        """

    @abstractmethod
    def copied_as(self, kind: type[Scalar]) -> Scalar:
        """A copy of trunk and head that gives a number after each token."""

    def own_trunk(self) -> PreTrainedModel:
        return self.trunk

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
        return self.reading.score(self.run(sequences))

    def run(self, sequences: Sequence[Sequence[int]], places: Sequence[Sequence[int]] | None = None) -> Tensor:
        """What the head gives at each sequence's last token, ``[N, reading.width]`` float32; or at the places of each
        that are named, one after another."""
        device = self.trunk.device
        tokens, lengths = (x.to(device) for x in padded(sequences, self.pad_id))
        if places is None:
            where = torch.arange(len(lengths), device=device), lengths - 1
        else:
            rows = torch.arange(len(places)).repeat_interleave(torch.tensor([len(each) for each in places]))
            where = rows.to(device), torch.tensor([place for each in places for place in each], device=device)
        return within(self.model, lambda: self.outputs(tokens, lengths, where))

    def score(
        self, texts: Sequence[Text], answers: Sequence[str] | None = None, *, batch_tokens: int = 16_384
    ) -> list[float]:
        """Scores of texts or conversations; the arguments are those of :meth:`run_texts`."""
        found: list[float] = self.reading.score(self.run_texts(texts, answers, batch_tokens=batch_tokens)).tolist()
        return found

    @torch.no_grad()
    def run_texts(
        self, texts: Sequence[Text], answers: Sequence[str] | None = None, *, batch_tokens: int = 16_384
    ) -> Tensor:
        """What the head gives of them, ``[N, reading.width]`` float32 on the CPU: outputs of steps made one.

        Args:
            texts: whole texts or conversations.
            answers: what is judged of them, at the end of each, for a model that reads steps; None: the last message,
                or all of a text.
            batch_tokens: they are run in batches of about so many tokens, sorted by length.
        """
        steps = self.reading.steps
        if steps is not None:
            each = self.run_steps(texts, answers, batch_tokens=batch_tokens)
            return torch.stack([steps.pooled(outputs) for outputs in each])[:, None] if each else torch.empty(0, 1)
        encoded = [self.encode(text) for text in texts]
        found = torch.empty(len(encoded), self.reading.width)
        self.model.eval()
        for batch in by_token_budget([len(ids) for ids in encoded], batch_tokens):
            found[batch] = self.run([encoded[i] for i in batch]).cpu()
        return found

    @torch.no_grad()
    def run_steps(
        self, texts: Sequence[Text], answers: Sequence[str] | None = None, *, batch_tokens: int = 16_384
    ) -> list[Tensor]:
        """What the head of a model that reads steps gives at the end of each, ``[S]`` float32 on the CPU, a text each:
        of the last ``S`` steps, where those before were cut off.

        Args:
            texts: whole texts or conversations.
            answers: as :meth:`run_texts` takes them.
            batch_tokens: as there.
        """
        steps = self.reading.steps
        assert steps is not None
        encoded = [self.encode(text) for text in texts]
        said = [answer_in(text) for text in texts] if answers is None else answers
        marked = zip(texts, said, encoded, strict=True)
        places = [self.places(text, answer, steps.of(answer), len(ids)) or [-1] for text, answer, ids in marked]
        found = [torch.empty(0)] * len(encoded)
        self.model.eval()
        for batch in by_token_budget([len(ids) for ids in encoded], batch_tokens):
            read = [[place % len(encoded[i]) for place in places[i]] for i in batch]
            outputs = self.run([encoded[i] for i in batch], read).cpu().squeeze(-1)
            for i, part in zip(batch, outputs.split([len(each) for each in read]), strict=True):
                found[i] = part
        return found

    def places(self, text: Text, answer: str, ends: Sequence[int], kept: int) -> list[int]:
        """At which of the last ``kept`` tokens of a text, counted from behind (-1 is the last), each step of the answer
        has been read; those that were cut off are left out."""
        whole = len(self.encode_whole(text))
        assert self.reading.steps is not None
        separator = self.reading.steps.separator
        found = [place - whole for place in places_of(self.encode_whole, text, answer, ends, separator)]
        return [place for place in found if place >= -kept]

    def _write_beside(self, folder: Path | None) -> None:
        if folder is not None:
            self.reading.write(folder)
            self.tokenizer.save_pretrained(folder)

    def _ends(self, text: Text) -> list[int]:
        eos = self.tokenizer.eos_token_id
        return [eos] if isinstance(text, str) and eos not in (None, self.pad_id) else []


@dataclass(frozen=True)
class Classifier(RewardModel):
    """transformers' class for sequence classification, with one label, or with several of which one is the score."""

    model: PreTrainedModel
    label: int | None = None
    """Of several labels the one whose log-odds against the others are the score."""

    @property
    def trunk(self) -> PreTrainedModel:
        return trunk_of(self.model)

    @property
    def head(self) -> nn.Linear | None:
        head = getattr(self.model, "score", None)
        return head if isinstance(head, nn.Linear) else None

    def whole_everywhere(self) -> list[Parameter]:
        # A head beside an adapter is trained as that is, and written to one file with it.
        own = adapter_weights(self.model)
        return own + head_weights(self.model) if own else []

    def shard(self, sharding: Sharding, dtype: torch.dtype | None) -> None:
        super().shard(sharding, dtype)
        inner = getattr(self.model, "classifier", None)
        if dtype is not None and adapter_of(self.model) is not None and isinstance(inner, nn.Module):
            inner.to(dtype)  # an encoder's head is whole too, and run by the model's own pass

    def outputs(self, tokens: Tensor, lengths: Tensor, where: tuple[Tensor, Tensor]) -> Tensor:
        mask = attention(tokens, lengths)
        if self.head is None:  # an encoder's classifier does its own pooling, by the attention mask
            return self._of_label(self.model(input_ids=tokens, attention_mask=mask).logits)
        hidden = self.trunk(input_ids=tokens, attention_mask=mask, use_cache=False).last_hidden_state
        return self._of_label(self.head(hidden[where].to(self.head.weight.dtype)))

    def _of_label(self, logits: Tensor) -> Tensor:
        logits = logits.float()
        if self.label is None:
            return logits
        others = [i for i in range(logits.shape[-1]) if i != self.label]
        return (logits[:, self.label] - logits[:, others].logsumexp(-1))[:, None]

    def copied_as(self, kind: type[Scalar]) -> Scalar:
        whole = _whole(copy.deepcopy(self.model))
        copied = kind.from_trunk_of(whole).requires_grad_(True)
        head = getattr(whole, "score", None)
        if isinstance(head, nn.Linear) and self.label is None:
            self.reading.fold(head, copied.head.linear)
        return copied

    def write(self, folder: Path | None, weights: Mapping[str, Tensor]) -> None:
        write_weights(self.model, folder, weights)
        self._write_beside(folder)

    def load_weights(self, folder: Path) -> None:
        copy_weights(self.model, class_of(self.model), folder)


@dataclass(frozen=True)
class TrunkAndHead(RewardModel):
    """A trunk and a head of our own, for architectures without that class."""

    model: ScalarModel

    @property
    def trunk(self) -> PreTrainedModel:
        return self.model.trunk

    @property
    def head(self) -> nn.Linear:
        return self.model.head.linear

    def whole_everywhere(self) -> list[Parameter]:
        return [*super().whole_everywhere(), *self.head.parameters()]

    def outputs(self, tokens: Tensor, lengths: Tensor, where: tuple[Tensor, Tensor]) -> Tensor:
        return self.model(tokens)[where][:, None]

    def copied_as(self, kind: type[Scalar]) -> Scalar:
        copied = kind.like(self.model).requires_grad_(True)
        _whole(copied.trunk)
        self.reading.fold(self.head, copied.head.linear)
        return copied

    def write(self, folder: Path | None, weights: Mapping[str, Tensor]) -> None:
        self.model.write(folder, weights)
        self._write_beside(folder)

    def load_weights(self, folder: Path) -> None:
        self.model.load_weights(folder)


def _whole(model: PreTrainedModel) -> PreTrainedModel:
    """With its adapter, where it has one, as a part of its weights."""
    if adapter_of(model) is not None:
        merge(model)
    return model


def adapted_part(model: RewardModel) -> PreTrainedModel:
    """The transformers model in it, which is what an adapter is for."""
    return model.model if isinstance(model, Classifier) else model.trunk


def with_reading(model: RewardModel, reading: Reading) -> RewardModel:
    """The same, its outputs read in another way.

    Raises:
        ModelError: its head gives more or less than is read.
    """
    if reading.width != model.reading.width:
        raise ModelError(f"reward model: its head gives {model.reading.width} numbers, for {reading.width} objectives")
    return replace(model, reading=reading)


def finished(
    kind: type[RewardModel],
    model: nn.Module,
    tokenizer: Tokenizer,
    max_length: int | None,
    reading: Reading = PLAIN,
) -> RewardModel:
    """A :class:`RewardModel` of a model and its tokenizer, checked against each other.

    Raises:
        ModelError: more tokens than the model knows, or neither a pad nor an EOS token.
    """
    made = kind(model, tokenizer, max_length, reading)
    rows = vocabulary_rows(made.trunk)
    if len(tokenizer) > rows:
        raise ModelError(f"reward model: the tokenizer has {len(tokenizer):,} tokens and the model {rows:,}")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token_id is None:
        raise ModelError("reward model: the tokenizer has neither a pad nor an EOS token; give it one and save it")
    made.trunk.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    positions = max_positions(made.trunk.config)
    if positions is not None:
        positions -= prefix_length(made.trunk)
    limits = [limit for limit in (max_length, positions) if limit is not None]
    model.eval()
    return replace(made, max_length=min(limits, default=None))
