"""A causal language model with its tokenizer, loaded strictly and saved so that plain ``transformers`` loads it."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from kedge.config.settings import several
from kedge.data.encode import Tokenizer
from kedge.errors import ModelError
from kedge.models.adapters import base_of, prefix_in, write_adapter
from kedge.models.bottom import Bottom, copy_of_trained, hidden_of
from kedge.models.device import Device, logits_at_a_time, total_memory
from kedge.models.head import OutputHead, output_head, trunk_of, vocabulary_rows
from kedge.models.loading import (
    Held,
    copy_weights,
    find_and_tell,
    load_config,
    load_tokenizer,
    open_model,
    refuse_missing_weights,
    write_weights,
)
from kedge.models.positions import max_positions
from kedge.models.prefix import no_room, prefix_length
from kedge.models.quantized import Quantization
from kedge.models.role import Role
from kedge.models.sharding import Sharding, class_of, within
from kedge.models.writing import write_base, write_merged

SAMPLING_DEFAULTS = {"temperature": 1.0, "top_p": 1.0, "top_k": 50, "min_p": None, "typical_p": 1.0}

# Embeddings are often padded to a round number of rows; more rows than this beyond the tokenizer is another tokenizer.
SPARE_ROWS = 1024


@dataclass(frozen=True)
class LanguageModel(Role):
    """Model, tokenizer and the ids that end an answer."""

    model: PreTrainedModel
    tokenizer: Tokenizer
    eos_ids: tuple[int, ...]
    bottom: Bottom | None = None
    """Its frozen layers, where there are some that can be run once for all passes."""

    @property
    def module(self) -> PreTrainedModel:
        return self.model

    def own_trunk(self) -> PreTrainedModel:
        return self.model

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    @cached_property
    def head(self) -> OutputHead | None:
        """The output head by itself, where it can be taken apart (see :mod:`kedge.models.head`)."""
        return output_head(self.model)

    @cached_property
    def logits_at_a_time(self) -> int:
        """How many logits (rows times vocabulary) a pass makes at a time, at most."""
        return logits_at_a_time(self.device.type, total_memory(self.device))

    @property
    def positions(self) -> int | None:
        """The longest sequence the model takes, in tokens; None where it has no limit."""
        positions = max_positions(self.model.config)
        return None if positions is None else positions - prefix_length(self.model)

    @property
    def pad_id(self) -> int:
        """What fills the right end of a batch. Masks come from lengths, so any id will do."""
        pad = self.tokenizer.pad_token_id
        return pad if pad is not None else (self.eos_ids[0] if self.eos_ids else 0)

    def write(self, folder: Path | None, weights: Mapping[str, Tensor]) -> None:
        """Write weights, tokenizer, chat template and generation settings (with the EOS ids in force)."""
        self._settle_generation()
        write_weights(self.model, folder, weights)
        self._write_beside(folder)

    def save_merged(self, folder: Path | None) -> None:
        """As :meth:`save`, with the adapter as a part of the weights; here they stay as they are.

        Args:
            folder: where; None in a process that takes part and does not write.
        """
        self._save_whole(folder, write_merged)

    def save_base(self, folder: Path | None) -> None:
        """As :meth:`save_merged`, without the adapter."""
        self._save_whole(folder, write_base)

    def save_adapter(self, folder: Path | None) -> None:
        """The adapter alone, as PEFT's folder, with nothing beside it."""
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            write_adapter(self.model, folder, self.weights())

    def _save_whole(self, folder: Path | None, write: Callable[[PreTrainedModel, Path | None], None]) -> None:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        self._settle_generation()
        write(self.model, folder)
        self._write_beside(folder)

    def _settle_generation(self) -> None:
        settings = self.model.generation_config
        settings = GenerationConfig() if settings is None else settings
        settings.eos_token_id = list(self.eos_ids) if len(self.eos_ids) > 1 else next(iter(self.eos_ids), None)
        settings.pad_token_id = self.pad_id
        if any(getattr(settings, name) not in (None, default) for name, default in SAMPLING_DEFAULTS.items()):
            settings.do_sample = True  # published models forget it, and saving refuses sampling settings without it
        self.model.generation_config = settings

    def _write_beside(self, folder: Path | None) -> None:
        if folder is not None:
            self.model.generation_config.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)

    def hidden(self, tokens: Tensor, states: Tensor | None = None) -> Tensor:
        """The trunk's last hidden states ``[B, L, H]`` of right-padded ``tokens [B, L]``.

        Args:
            tokens: ids.
            states: what :meth:`bottom_states` gave for them, where that is known.
        """
        return hidden_of(trunk_of(self.model), tokens, self.bottom, states)

    def bottom_states(self, tokens: Tensor) -> Tensor:
        """``[B, L, H]``: what the frozen bottom makes of right-padded ``tokens [B, L]``, for all passes to come."""
        bottom = self.bottom
        assert bottom is not None
        return within(self.model, lambda: bottom.states(trunk_of(self.model), tokens))

    def frozen_copy(self, *, sharded: bool = False) -> "LanguageModel":
        """As it is now, and as it stays: a reference. What is frozen already is shared; ``sharded``: see
        :func:`kedge.models.bottom.copy_of_trained`."""
        return replace(self, model=copy_of_trained(self.model, sharded=sharded).requires_grad_(False))

    def shard(self, sharding: Sharding, dtype: torch.dtype | None) -> None:
        _ = self.head  # tried while the model is whole
        super().shard(sharding, dtype)

    def load_weights(self, folder: Path) -> None:
        """Replace the weights by those that :meth:`save` wrote, in place."""
        copy_weights(self.model, class_of(self.model), folder)


def load_language_model(
    source: str | Path,
    *,
    tokenizer: str | Path | None = None,
    stop_tokens: Sequence[str] = (),
    device: Device = "auto",
    dtype: Held = "auto",
    trust_remote_code: bool = False,
    attn_implementation: str | None = None,
    quantization: Quantization | None = None,
    merged: bool = True,
) -> LanguageModel:
    """Load a causal language model by hub id or folder (a run folder stands for the ``policy`` in it; one of PEFT's for
    the adapter in it on its base).

    Args:
        source: Hugging Face id, folder, or a kedge run folder.
        tokenizer: where the tokenizer is, when not beside the model.
        stop_tokens: tokens that end an answer, besides the model's own EOS ids.
        device: ``auto`` is the best there is.
        dtype: ``auto`` is float32: PPO's small steps vanish in bfloat16.
        trust_remote_code: run code that the model brings.
        attn_implementation: transformers' name of it.
        quantization: ``nf4`` or ``int8``: hold linear layers in four or eight bits a weight, which are not trained.
        merged: an adapter becomes a part of the weights; False: it stays one, to be trained further.

    Raises:
        ModelError: not found (or a hub id without a network), no tokenizer, weights missing or misshapen, tokenizer
            and model of different vocabularies, an unknown stop token.
    """
    folder = find_and_tell(source, "policy")
    loaded_tokenizer = load_tokenizer(tokenizer or folder, key="tokenizer", trust_remote_code=trust_remote_code)
    model, missing = open_model(
        AutoModelForCausalLM, folder, dtype=dtype, device=device, merged=merged, quantization=quantization,
        trust_remote_code=trust_remote_code, attn_implementation=attn_implementation,
    )  # fmt: skip
    if base_of(folder) != folder:
        read_generation_settings(model, folder)
    refuse_missing_weights(
        missing, source, "it is no causal language model (a reward model or a critic has no output head)"
    )
    return wrap(model, loaded_tokenizer, stop_tokens, source)


def wrap(
    model: PreTrainedModel, tokenizer: Tokenizer, stop_tokens: Sequence[str] = (), source: object = "model"
) -> LanguageModel:
    """A :class:`LanguageModel` of a model and a tokenizer that are loaded already, checked against each other.

    Raises:
        ModelError: different vocabularies, or an unknown stop token.
    """
    rows = vocabulary_rows(model)
    if len(tokenizer) > rows or rows - len(tokenizer) > max(SPARE_ROWS, rows // 20):
        raise ModelError(
            f"{source}: the tokenizer has {len(tokenizer):,} tokens and the model {rows:,}; they do not belong together"
        )
    model.eval()
    return LanguageModel(model, tokenizer, _eos_ids(model, tokenizer, stop_tokens))


def read_generation_settings(model: PreTrainedModel, folder: str | Path) -> None:
    """Those beside an adapter, in place of its base's: the EOS ids in force, and how to draw."""
    if (Path(folder) / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)


def positions_of(source: str | Path, adapter: Mapping[str, Any], *, trust_remote_code: bool = False) -> int | None:
    """The longest sequence that the model in a folder or hub id will take, in tokens, with the adapter of its training.

    Raises:
        ModelError: as :func:`load_config`. ConfigError: a prefix leaves no room for a text.
    """
    positions = max_positions(load_config(source, trust_remote_code=trust_remote_code))
    taken = adapter.get("num_virtual_tokens") or prefix_in(source)
    if positions is not None and taken >= positions:
        raise no_room(taken, positions)
    return None if positions is None else positions - taken


def accepts(model: PreTrainedModel, argument: str) -> bool:
    """Whether the model's forward takes ``argument`` by name."""
    return argument in inspect.signature(model.forward).parameters


def _eos_ids(model: PreTrainedModel, tokenizer: Tokenizer, stop_tokens: Sequence[str]) -> tuple[int, ...]:
    settings = getattr(model, "generation_config", None)
    found: list[int] = []
    for source in (getattr(settings, "eos_token_id", None), model.config.eos_token_id, tokenizer.eos_token_id):
        found += source if isinstance(source, list) else [] if source is None else [source]
    vocabulary = tokenizer.get_vocab()
    for token in several(stop_tokens):
        if token not in vocabulary:
            raise ModelError(f"stop_tokens: {token!r} is not one token of this tokenizer; use stop_strings for text")
        found.append(vocabulary[token])
    return tuple(token for token in dict.fromkeys(found) if token < vocabulary_rows(model))
