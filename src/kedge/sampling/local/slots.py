"""The fast way to decode: rows of different lengths side by side in slots of one preallocated KV cache.

A row owns a slot. Its token at position p is written at column p of its slot, so nothing is padded on the left; what
stands beyond a row's last column is masked. Active rows lie in the first slots: a row that ends gives its place to the
last one, and new rows are appended. Nothing is computed for an empty slot.

For models whose cache is the usual one: keys and values a layer, with or without a sliding window.
:func:`slot_decoder` tries it out on the model itself.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, DynamicCache, PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer

from kedge.models.batch import padded
from kedge.models.device import computed_in, is_out_of_memory, upload
from kedge.models.head import OutputHead, agree, trunk_of, vocabulary_rows
from kedge.models.language_model import LanguageModel, accepts
from kedge.models.narrow import NarrowCopy
from kedge.models.prefix import PREFIXED
from kedge.models.sharding import is_sharded
from kedge.sampling.local.graphs import COLUMNS, StepGraphs, rows_bucket, width_bucket
from kedge.sampling.local.prefixes import Block, Prefixes
from kedge.sampling.local.slot_layers import Place, SlotLayer, one_token_attention

# Of the rows by which a model is tried out, in tokens.
TRIAL_LENGTHS = (5, 3, 4)

# Numbers in the mask of the ends of prompts whose beginnings are known, at most; beyond it prompts are taken in whole.
MASKED = 2**26


KNOWN = ("sdpa", "eager", PREFIXED)
"""Attentions that take masks of numbers, as the steps here make them."""

ONE_TOKEN = "kedge_one_token"
AttentionInterface.register(ONE_TOKEN, one_token_attention)


class SlotDecoder:
    """Feeds a model one token a row and step; rows come and go."""

    rows_join = True
    """New rows may join while others are written."""

    def __init__(
        self,
        model: PreTrainedModel,
        head: OutputHead,
        windows: Sequence[int | None],
        *,
        recorded: bool = True,
        prefixes: Prefixes | None = None,
    ) -> None:
        """``windows``: each layer's sliding window, None where it sees everything. ``recorded``: steps on a GPU are.
        ``prefixes``: remember what prompts begin with; only for a model whose weights stay as they are."""
        self.model, self.head, self._windows = model, head, windows
        self._place = Place()
        self._layers = [SlotLayer(self._place, 0, 0) for _ in windows]
        self._cache = Cache(layers=list(self._layers))
        self._slots = torch.zeros(0, dtype=torch.long, device=model.device)
        # A record holds places in memory, and weights that are put together come to another one each time.
        self._may_copy = not is_sharded(model)
        can_be = recorded and model.device.type == "cuda" and not _asks_how_far(model) and self._may_copy
        self.graphs = StepGraphs(model.device) if can_be else None
        self._kept_in = computed_in(model.device)  # what autocast makes of keys and values
        self.narrow: NarrowCopy | None = None  # of the model, for that precision
        self.prefixes = prefixes
        self.found: list[int] = []  # of each row that was taken in last, how many tokens were not computed
        self._lengths: list[int] = []  # tokens in each active slot, and on the device the same
        self._positions = torch.zeros(0, dtype=torch.long, device=model.device)

    def admit(self, sequences: Sequence[Sequence[int]]) -> Tensor:
        """Append rows that begin with these tokens; logits ``[n, V]`` of each one's next token."""
        if not self._lengths and computed_in(self.model.device) != self._kept_in:
            self._forget()
        if self.narrow is not None:
            self.narrow.refresh()  # the weights may be others than last time
        elif self._kept_in is not None and self._may_copy:
            self.narrow = NarrowCopy(self.model, self._kept_in)
        first = self._place.first = len(self._lengths)
        self._lengths += map(len, sequences)
        self._positions = torch.cat([self._positions, upload(torch.tensor(self._lengths[first:]), self.model.device)])
        self._make_room(len(self._lengths), max(self._lengths))
        known = [[] if self.prefixes is None else self.prefixes.find(sequence) for sequence in sequences]
        logits = self._take_in_ends(sequences, known) if any(known) else None
        if logits is None:
            self._place.rows, self.found = None, [0] * len(sequences)
            tokens, lengths = (upload(part, self.model.device) for part in padded(sequences, 0))
            # Right-padded and causal: what stands behind a row's last token is seen by none of its tokens.
            logits = self._logits(tokens, lengths - 1)
        if self.prefixes is not None:
            for slot, sequence in enumerate(sequences, first):
                self.prefixes.keep(sequence, [layer.held(slot) for layer in self._layers])
        return logits

    def _take_in_ends(self, sequences: Sequence[Sequence[int]], known: Sequence[Sequence[Block]]) -> Tensor | None:
        """What ``admit`` gives, of rows whose beginnings are known: the end of each one is computed, and of all of them
        as many tokens as the one needs that knows least. None where that would take too much memory."""
        assert self.prefixes is not None
        first, block = self._place.first, self.prefixes.block
        count = max(len(s) - block * len(blocks) for s, blocks in zip(sequences, known, strict=True))
        width = max(map(len, sequences))
        if len(sequences) * count * width > MASKED:
            return None
        # A row that knows more begins earlier than it must, so that none is padded on to positions that the model does
        # not have. Only one that is shorter than all that is padded.
        self.found = [max(0, len(sequence) - count) for sequence in sequences]
        for slot, blocks in enumerate(known, first):
            for number, layer in enumerate(self._layers if blocks else ()):
                for held, part in zip(layer.held(slot), (0, 1), strict=True):
                    begin = torch.cat([each.held[number][part] for each in blocks], dim=1)
                    held[:, : begin.shape[1]] = begin
        ends = [sequence[start:] for sequence, start in zip(sequences, self.found, strict=True)]
        tokens, lengths = (upload(part, self.model.device) for part in padded(ends, 0))
        starts = upload(torch.tensor(self.found), self.model.device)
        positions = starts[:, None] + torch.arange(count, device=starts.device)
        self._place.rows, self._place.positions = self._slots[first : first + len(ends)], positions
        self._place.width = width
        masks = self._masks(positions, width)
        return self._logits(tokens, lengths - 1, position_ids=positions, attention_mask=masks)

    def step(self, tokens: Tensor) -> Tensor:
        """Logits ``[n, V]`` after one more token in each active row, ``tokens [n]``."""
        positions = self._positions
        self._lengths = [length + 1 for length in self._lengths]
        self._positions = positions + 1
        width = max(self._lengths)
        self._make_room(len(self._lengths), width)
        if self.graphs is not None:
            try:
                return self.graphs(
                    self._one_token, tokens, positions, min(width_bucket(width), self._layers[0].columns)
                )
            except RuntimeError as error:
                if is_out_of_memory(error):
                    raise
                said = next(iter(str(error).splitlines()), "")
                name = type(self.model).__name__
                warnings.warn(f"{name}: a step cannot be recorded, and its kernels are launched: {said}", stacklevel=1)
                self.graphs = None
        return self._one_token(tokens, positions, width)

    def reserve(self, rows: int, columns: int) -> None:
        """So many rows and columns will be needed: on an accelerator the cache has that size at once, because recorded
        steps die when it grows."""
        if self.model.device.type != "cpu":
            self._make_room(rows, columns)

    def _one_token(self, tokens: Tensor, positions: Tensor, width: int) -> Tensor:
        """Logits ``[n, V]`` of one token a row, at ``positions [n]``, looking at the first ``width`` columns."""
        self._place.rows, self._place.positions, self._place.width = self._slots[: len(tokens)], positions, width
        self._place.first = 0
        masks = self._masks(positions, width)
        with self._attention_of_one_token():
            return self._logits(tokens[:, None], None, position_ids=positions[:, None], attention_mask=masks)

    def keep(self, rows: Sequence[int]) -> list[int]:
        """Drop all rows but these; returns the order in which they stand now, as indices of the old one."""
        n, kept = len(rows), set(rows)
        order = list(range(n))
        holes = [slot for slot in range(n) if slot not in kept]
        movers = [slot for slot in range(n, len(self._lengths)) if slot in kept]
        for hole, mover in zip(holes, movers, strict=True):
            order[hole] = mover
        self._lengths = [self._lengths[slot] for slot in order]
        index = upload(torch.tensor(order, dtype=torch.long), self.model.device)
        if holes:
            at = upload(torch.tensor(holes), self.model.device)
            for layer in self._layers:
                layer.move(index[at], at, max(self._lengths))
        self._positions = self._positions[index]
        return order

    def waiting(self) -> list[bool]:
        """Rows whose next token is given and not drawn: none, a prompt is taken in whole."""
        return [False] * len(self._lengths)

    def clear(self) -> None:
        """Drop all rows: nothing that is cached will be read again."""
        self.keep([])

    def fresh(self) -> "SlotDecoder":
        """One like this, with nothing cached."""
        prefixes = None if self.prefixes is None else self.prefixes.fresh()
        return SlotDecoder(self.model, self.head, self._windows, recorded=self.graphs is not None, prefixes=prefixes)

    def forget_prefixes(self) -> None:
        """The weights are others, or what is computed with them: nothing that was computed may be read again."""
        if self.prefixes is not None:
            self.prefixes = self.prefixes.fresh()

    def _forget(self) -> None:
        self._kept_in, self.narrow = computed_in(self.model.device), None
        self.forget_prefixes()
        for layer in self._layers:
            layer.forget()
        if self.graphs is not None:
            self.graphs.clear(self._layers[0].slots)

    def _logits(self, tokens: Tensor, last: Tensor | None, **more: Any) -> Tensor:
        """Logits ``[n, V]`` after the token in column ``last [n]`` of each row, the only one where None."""
        model = self._computing()
        head = replace(self.head, linear=model.get_output_embeddings())
        hidden = trunk_of(model)(
            input_ids=tokens, past_key_values=self._cache, use_cache=True, **more
        ).last_hidden_state
        return head(hidden[:, 0] if last is None else hidden[torch.arange(len(last), device=last.device), last])

    def _computing(self) -> PreTrainedModel:
        """The model, or its narrow copy where the precision is that one's now."""
        if self.narrow is None or computed_in(self.model.device) != self._kept_in:
            return self.model
        return self.narrow.model

    @contextmanager
    def _attention_of_one_token(self) -> Iterator[None]:
        config = trunk_of(self._computing()).config
        before = config._attn_implementation
        if before == "sdpa":
            config._attn_implementation = ONE_TOKEN
        try:
            yield
        finally:
            config._attn_implementation = before

    def _masks(self, positions: Tensor, width: int) -> Any:
        """Added to the scores, ``[n, 1, 1, width]`` for ``positions [n]``, ``[n, 1, T, width]`` for ``[n, T]``: 0 where
        a row may look; one mask, or one a kind of layer."""
        masks = {window: self._mask(positions, width, window) for window in dict.fromkeys(self._windows)}
        if len(masks) == 1:
            return next(iter(masks.values()))
        return {"sliding_attention" if window else "full_attention": mask for window, mask in masks.items()}

    def _mask(self, positions: Tensor, width: int, window: int | None) -> Tensor:
        column = torch.arange(width, device=positions.device)
        seen = column <= positions[..., None]
        if window is not None:
            seen &= column > positions[..., None] - window
        hidden = torch.full(seen.shape, torch.finfo(self.model.dtype).min, dtype=self.model.dtype, device=seen.device)
        return hidden.masked_fill_(seen, 0.0).view(len(positions), 1, -1, width)

    def _make_room(self, slots: int, columns: int) -> None:
        have = self._layers[0]
        if self.graphs is not None:
            slots = rows_bucket(slots)
        if slots > have.slots or columns > have.columns:
            slots, columns = max(slots, have.slots), max(_rounded_up(columns, COLUMNS), have.columns)
            for layer in self._layers:
                layer.resize(slots, columns)
            self._slots = torch.arange(slots, device=self.model.device)
            if self.graphs is not None:
                self.graphs.clear(slots)


def _rounded_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


@torch.inference_mode()
def slot_decoder(lm: LanguageModel, *, prefix_bytes: int = 0) -> SlotDecoder | None:
    """A decoder in slots, or None for a model that is not of the usual kind. With ``prefix_bytes`` it remembers what
    prompts begin with, up to so many bytes, where that gives the same.

    The usual kind has keys and values a layer and nothing else in its cache, takes positions and a mask, and has a head
    that can be taken apart. Whether all of that is so is tried out: rows of different lengths, tokens fed in slots,
    against a plain forward pass.
    """
    head = lm.head
    windows = None if head is None else sliding_windows(lm.model)
    if head is None or windows is None:
        return None
    decoder = SlotDecoder(lm.model, head, windows)
    try:
        right = _writes_as_the_model_reads(decoder)
    # An architecture may refuse what it is given here in any of these ways; what it does then is its own code.
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        if is_out_of_memory(error):
            raise
        return None
    if not right:
        return None
    room = prefix_bytes if prefix_bytes and _goes_on_from_what_is_known(decoder) else 0
    decoder = decoder.fresh()
    decoder.prefixes = Prefixes(room) if room else None
    return decoder


def _goes_on_from_what_is_known(decoder: SlotDecoder) -> bool:
    """A trial of its own: three rows that begin as one before them did, and go on, on and on, and elsewhere."""
    model = decoder.model
    rows = vocabulary_rows(model)
    decoder = decoder.fresh()
    decoder.prefixes = Prefixes(2**30, block=2)
    base = [5 * i % rows for i in range(8)]
    sequences = [base, base[:5], [*base[:4], *(3 * i % rows for i in range(5))]]
    decoder.admit([base])
    try:
        logits = decoder.admit(sequences)
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:  # as in the first trial
        if is_out_of_memory(error):
            raise
        return False
    plain = [model(input_ids=torch.tensor([s], device=model.device), use_cache=False).logits[0, -1] for s in sequences]
    return any(decoder.found) and agree(logits, torch.stack(plain))


def _writes_as_the_model_reads(decoder: SlotDecoder) -> bool:
    """The trial: three rows, one of them joining late, two tokens fed to each."""
    model = decoder.model
    rows = vocabulary_rows(model)
    sequences = [[(7 * i + 3 * j) % rows for j in range(n)] for i, n in enumerate(TRIAL_LENGTHS)]
    decoder.admit([sequence[:-2] for sequence in sequences[:2]])
    decoder.admit([sequences[2][:-2]])
    for ahead in (2, 1):
        logits = decoder.step(torch.tensor([sequence[-ahead] for sequence in sequences], device=model.device))
    plain = [model(input_ids=torch.tensor([s], device=model.device), use_cache=False).logits[0, -1] for s in sequences]
    return agree(logits, torch.stack(plain))


def _asks_how_far(model: PreTrainedModel) -> bool:
    """Whether its position embeddings depend on the longest row, for which a step asks the device."""
    rope = getattr(model.config.get_text_config(), "rope_parameters", None) or {}
    kinds = [rope, *(each for each in rope.values() if isinstance(each, dict))]  # all layers', or one a kind of layer
    return any(kind.get("rope_type") in ("dynamic", "longrope") for kind in kinds)


def sliding_windows(model: PreTrainedModel) -> list[int | None] | None:
    """Each layer's sliding window, None where it has none; None altogether where a layer keeps something else."""
    config = model.config.get_text_config()
    if not accepts(trunk_of(model), "position_ids") or model.config._attn_implementation not in KNOWN:
        return None
    if getattr(config, "attention_types", None):  # GPT-Neo masks inside its attention, by the width of the batch
        return None
    layers = DynamicCache(config=model.config).layers
    if not layers:  # the configuration names no kinds of layers: all are plain
        return [None] * config.num_hidden_layers
    if any(type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers):
        return None
    return [getattr(layer, "sliding_window", None) for layer in layers]
