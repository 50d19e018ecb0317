"""Prompts in, completions with exact log-probabilities out: continuous batching over any causal language model.

Requests wait in a queue, enter the batch as soon as there is room, and leave it with their last token. What a request
draws depends on its own random stream and on nothing else: not on its companions, their number or their order.
"""

import math
import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from kedge.errors import DataError
from kedge.models.device import is_tight, upload
from kedge.models.head import vocabulary_rows
from kedge.models.language_model import LanguageModel
from kedge.models.sharding import whole
from kedge.sampling.completion import Completion
from kedge.sampling.local.columns import ColumnDecoder
from kedge.sampling.local.penalties import penalised
from kedge.sampling.local.request import Request
from kedge.sampling.local.schemas import Schemas
from kedge.sampling.local.slots import SlotDecoder, slot_decoder
from kedge.sampling.sampler import Sampler, take_in
from kedge.sampling.settings import Sampling, fixed_point, random_stream, refuse_broken_logits

# Rows that are written at a time, at most: what the cache and the logits take grows with them.
MAX_ROWS = 256

# Prompt tokens taken in at a time, padding included, at most (or a single prompt).
PREFILL_TOKENS = 16_384

# On a CPU prompts of different lengths are taken in together while what is padded is less than this, in tokens, or less
# than a quarter: about what a pass of its own would cost.
PADDED = 32

# Without slots a batch runs one step for each token of its longest prompt beyond its shortest; past this, or half the
# shortest, it is cheaper to split.
LENGTH_SPREAD = 16

# Characters of a prompt that an error shows.
PROMPT_SHOWN = 80

Likeliest = Sequence[tuple[int, float]]
"""Of one place: tokens with their log-probabilities."""

Drawn = tuple[Request, list[int], list[float], Sequence[Likeliest]]
"""For a request: tokens, log-probabilities, and the likeliest tokens in their places (none where not asked for)."""


class Engine(Sampler):
    """Generates with the model it is given, in place: the trainer's weights are the engine's weights.

    One thread at a time: :class:`kedge.sampling.local.driver.Driver` steps it for many.

    Args:
        language_model: who writes.
        max_rows: requests written at a time; what they draw does not depend on it.
        burst: tokens drawn between two looks at who has ended. 1 computes nothing for a finished row; more spares an
            accelerator the wait for the host. Default: 1 on the CPU, else 8.
        prefix_bytes: remember what prompts begin with, up to so many bytes: what they share is computed once. Only
            where weights change by :meth:`publish` alone, which forgets it. 0: nothing is remembered.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        *,
        max_rows: int = MAX_ROWS,
        burst: int | None = None,
        prefix_bytes: int = 0,
    ) -> None:
        self.lm = language_model
        self.prefix_bytes = prefix_bytes
        self.max_rows = max_rows
        self.burst = burst or (1 if language_model.device.type == "cpu" else 8)
        self.version = 0
        """Of the weights, as :meth:`publish` was told."""
        self._waiting: deque[Request] = deque()
        self._active: list[Request] = []
        self._alike: list[tuple[Request, Tensor]] = []  # rows that draw alike, and one of them; none if all do
        self._last = torch.zeros(0, dtype=torch.long, device=language_model.device)  # each active row's last token
        self._decoder: SlotDecoder | ColumnDecoder | None = None
        self.schemas = Schemas(language_model.tokenizer, language_model.eos_ids, vocabulary_rows(language_model.model))
        """That answers may be asked to have."""

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, *, seed: int = 0, first_request: int = 0
    ) -> list[Completion]:
        requests = self.requests(prompts, sampling, seed, first_request)
        self._waiting.extend(requests)
        try:
            while any(request.finish_reason is None for request in requests):
                self.step()
        finally:
            self.cancel(*requests)
            self._give_back_where_tight()
        return [request.completion() for request in requests]

    def stream(self, prompt: Sequence[int], sampling: Sampling, *, seed: int = 0, request: int = 0) -> Iterator[str]:
        written = self.submit(prompt, sampling, seed=seed, request=request)
        try:
            while written.finish_reason is None:
                self.step()
                if piece := written.news():
                    yield piece
        finally:
            self.cancel(written)

    def submit(self, prompt: Sequence[int], sampling: Sampling, *, seed: int = 0, request: int = 0) -> Request:
        """Queue a prompt; the request fills while :meth:`step` is called.

        Raises:
            DataError: as :meth:`generate`.
        """
        queued = self.request(prompt, sampling, seed, request, "prompt")
        self.enqueue(queued)
        return queued

    def enqueue(self, request: Request) -> None:
        """Let a request wait for its turn."""
        self._waiting.append(request)

    @torch.inference_mode()
    def step(self) -> list[Request]:
        """Take in what there is room for, and draw a token for every active request (``burst`` of them, at most).

        Returns:
            The requests that were active.

        Raises:
            NumericsError: the model gives NaN or infinite logits. All requests are queued again.
        """
        try:
            drawn = self._draw_for_all()
            active = self._active
            for request, *places in drawn:
                for token, logprob, top in zip(*places, strict=True):
                    if request.finish_reason is None:
                        request.take(token, logprob, self.version, top)
        except BaseException:  # Ctrl-C too: cache and requests no longer agree, and an engine may be used again
            self._begin_again()
            raise
        self._drop_finished()
        return active

    @torch.inference_mode()
    def cancel(self, *requests: Request) -> None:
        """Stop writing these; what is finished stays as it is."""
        for request in requests:
            if request.finish_reason is None:
                request.finish_reason = "cancelled"
        self._waiting = deque(request for request in self._waiting if request.finish_reason is None)
        self._drop_finished()

    @torch.no_grad()
    def publish(self, weights: Mapping[str, Tensor], version: int) -> None:
        """The weights are new: everything cached dies, and what is being written goes on from its tokens.

        Tensors of the engine's own model cost nothing, for they are what it writes with; others are copied into it.

        Raises:
            ModelError: the model has no weight of such a name or shape.
        """
        take_in(self.lm, weights)
        self.version = version
        self._requeue()
        if isinstance(self._decoder, SlotDecoder):
            self._decoder.forget_prefixes()

    def whole(self) -> AbstractContextManager[None]:
        return whole(self.lm.model)

    @property
    def waiting(self) -> int:
        """Requests that wait for room."""
        return len(self._waiting)

    @property
    def writing(self) -> int:
        """Requests that are being written."""
        return len(self._active)

    def close(self) -> None:
        """Stop writing, and let go of the cache."""
        self.cancel(*self._active, *self._waiting)
        self._decoder = None

    def _draw_for_all(self) -> list[Drawn]:
        """What was drawn for every active request that is past its prompt."""
        logits = self._next_logits()
        if logits is None:
            return []
        decoder = self._chosen_decoder()
        given = decoder.waiting()
        drawn = []
        for ahead, numbers in enumerate(upload(self._numbers(self._tokens_at_once()), logits.device)):
            if ahead:
                logits = decoder.step(self._last)
            self._last, logprobs, *top = self._draw(logits, numbers)
            drawn.append((self._last, logprobs, *top))
        # Read together and only now: on an accelerator every look at a number waits for all that was asked before.
        tokens, logprobs, *top = (torch.stack(parts).cpu() for parts in zip(*drawn, strict=True))
        refuse_broken_logits(logprobs, lambda row: repr(self._active[row].prompt_text[-PROMPT_SHOWN:]))
        likeliest: Sequence[Sequence[Likeliest]] = [[()] * len(drawn)] * len(self._active)
        if top:
            likeliest = _likeliest(self._active, *top)
        rows = zip(self._active, tokens.T.tolist(), logprobs.T.tolist(), likeliest, strict=True)
        # A row inside its prompt draws too and the draw is dropped: its stream has not advanced.
        return [row for row, inside in zip(rows, given, strict=True) if not inside]

    def _next_logits(self) -> Tensor | None:
        """Logits ``[n, V]`` of the next token of every active request, newcomers last; None where there is nothing."""
        if not self._active and not self._waiting:
            return None
        parts = []
        decoder = self._chosen_decoder()
        if self._active:
            parts.append(decoder.step(self._last))
        newcomers = self._that_fit() if decoder.rows_join else self._of_similar_length()
        if newcomers:
            turns = self._in_turns(newcomers)
            self._set_active([*self._active, *(request for turn in turns for request in turn)])
            if isinstance(decoder, SlotDecoder):
                known = [*self._active, *self._waiting]
                columns = max(len(request.prompt_ids) + request.sampling.max_new_tokens for request in known)
                decoder.reserve(min(len(known), self.max_rows), columns)
            for turn in turns:
                parts.append(decoder.admit([request.known_ids for request in turn]))
                if isinstance(decoder, SlotDecoder):
                    for request, found in zip(turn, decoder.found, strict=True):
                        request.reused += found
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def _in_turns(self, newcomers: list[Request]) -> list[list[Request]]:
        """Those that are taken in together: what one of them shares with another is computed once, and where tokens
        cost more than passes, few of them are padding."""
        decoder = self._chosen_decoder()
        turns = [newcomers]
        if decoder.prefixes is not None:
            found = decoder.prefixes.turns([request.known_ids for request in newcomers])
            turns = [[newcomers[index] for index in turn] for turn in found]
        if decoder.rows_join and self.lm.device.type == "cpu":
            turns = [group for turn in turns for group in _of_like_length(turn)]
        return turns

    def _that_fit(self) -> list[Request]:
        """Requests that there is room for, first come, first served."""
        waiting, room = self._waiting, self.max_rows - len(self._active)
        # Taking in a prompt costs a forward pass: not for one at a time while many are written.
        if self._active and room < min(len(waiting), self.max_rows // 8):
            return []
        newcomers: list[Request] = []
        longest = 0
        while waiting and len(newcomers) < room:
            longest = max(longest, len(waiting[0].known_ids))
            if newcomers and (len(newcomers) + 1) * longest > PREFILL_TOKENS:
                break
            newcomers.append(waiting.popleft())
        return newcomers

    def _of_similar_length(self) -> list[Request]:
        """A batch that begins together, once the one before is done: those whose length is near the shortest's."""
        if self._active:
            return []
        self._waiting = waiting = deque(sorted(self._waiting, key=lambda request: len(request.known_ids)))
        shortest = len(waiting[0].known_ids)
        near = shortest + max(LENGTH_SPREAD, shortest // 2)
        rows = max(1, min(self.max_rows, PREFILL_TOKENS // shortest))
        return [waiting.popleft() for _ in range(rows) if waiting and len(waiting[0].known_ids) <= near]

    def _tokens_at_once(self) -> int:
        if not self._chosen_decoder().rows_join or any(request.sampling.is_biased for request in self._active):
            return 1
        # No row may run past its last token: there may be no position for it.
        return min([self.burst, *(r.sampling.max_new_tokens - len(r.ids) for r in self._active)])

    def _numbers(self, count: int) -> Tensor:
        """``[count, n]`` int64: the random numbers of the next tokens of every active row."""
        rows = [request.uniform[len(request.ids) : len(request.ids) + count] for request in self._active]
        return fixed_point(torch.tensor(rows, dtype=torch.float64).T)

    def _draw(self, logits: Tensor, uniform: Tensor) -> tuple[Tensor, ...]:
        """``(tokens [n], logprobs [n])`` for the active rows; where one of them asks for the likeliest tokens, those of
        all rows too, ``(ids [n, k], logprobs [n, k])``."""
        logits = penalised(logits, self._active)
        count = min(max(request.sampling.top_logprobs for request in self._active), logits.shape[-1])
        if not self._alike:
            sampling = self._active[0].sampling
            return *sampling.draw(logits, uniform), *(sampling.likeliest(logits, count) if count else ())
        tokens = torch.empty_like(uniform)
        logprobs = torch.empty(len(tokens), device=tokens.device)
        top = tokens.new_empty(len(tokens), count), logprobs.new_empty(len(tokens), count)
        for request, rows in self._alike:
            some = logits.index_select(0, rows)
            drawn = request.sampling.draw(some, uniform.index_select(0, rows))
            for every, part in zip((tokens, logprobs), drawn, strict=True):
                every.index_copy_(0, rows, part)
            if count:
                for every, part in zip(top, request.sampling.likeliest(some, count), strict=True):
                    every.index_copy_(0, rows, part)
        return tokens, logprobs, *(top if count else ())

    def _set_active(self, requests: list[Request]) -> None:
        """These are active now, in this order."""
        self._active = requests
        alike: dict[tuple[float, ...], list[int]] = {}
        for row, request in enumerate(requests):
            alike.setdefault(request.sampling.distribution, []).append(row)
        several = alike.values() if len(alike) > 1 else ()
        self._alike = [(requests[rows[0]], upload(torch.tensor(rows), self.lm.device)) for rows in several]

    def _drop_finished(self) -> None:
        going = [row for row, request in enumerate(self._active) if request.finish_reason is None]
        if len(going) < len(self._active):
            order = self._chosen_decoder().keep(going)
            self._set_active([self._active[row] for row in order])
            self._last = self._last[upload(torch.tensor(order, dtype=torch.long), self._last.device)]

    def _begin_again(self) -> None:
        """Queue all requests again, with nothing cached: the cache may even hold NaN, which no mask keeps out."""
        self._requeue()
        if self._decoder is not None:
            self._decoder = self._decoder.fresh()

    def _give_back_where_tight(self) -> None:
        """Where an accelerator's memory is nearly full, what comes next has the cache's part of it."""
        idle = not self._active and not self._waiting
        if idle and self._decoder is not None and is_tight(self.lm.device):
            self._decoder = self._decoder.fresh()

    def _requeue(self) -> None:
        # Where an error came between, some are written to the end.
        self._waiting.extendleft(request for request in reversed(self._active) if request.finish_reason is None)
        self._set_active([])
        self._last = self._last[:0]
        if self._decoder is not None:
            self._decoder.clear()

    def _chosen_decoder(self) -> SlotDecoder | ColumnDecoder:
        if self._decoder is None:
            self._decoder = slot_decoder(self.lm, prefix_bytes=self.prefix_bytes)
        if self._decoder is None:
            name = type(self.lm.model).__name__
            warnings.warn(f"{name}: answers are written the slower way; its cache is not the usual one", stacklevel=1)
            self._decoder = ColumnDecoder(self.lm.model)
        return self._decoder

    def requests(self, prompts: Sequence[Sequence[int]], sampling: Sampling, seed: int, first: int) -> list[Request]:
        """A request a prompt, that nobody has queued yet; they draw from the streams (seed, first), (seed, first + 1).

        Raises:
            DataError: as :meth:`generate`.
        """
        return [self.request(ids, sampling, seed, first + i, f"prompt {i + 1}") for i, ids in enumerate(prompts)]

    def request(self, prompt: Sequence[int], sampling: Sampling, seed: int, number: int, name: str) -> Request:
        """A request that nobody has queued yet.

        Args:
            prompt: token ids.
            sampling: how to draw.
            seed: of what is drawn.
            number: it draws from the random stream (seed, number).
            name: of the prompt, for the message.

        Raises:
            DataError: the prompt is empty, or with ``max_new_tokens`` longer than the model's positions.
        """
        limit, prompt = self.lm.positions, [int(token) for token in prompt]
        if not prompt:
            raise DataError(f"{name}: no tokens in it")
        known = vocabulary_rows(self.lm.model)
        if min(prompt) < 0 or max(prompt) >= known:
            raise DataError(f"{name}: has tokens outside 0 to {known - 1}, which the model knows")
        if limit is not None and len(prompt) + sampling.max_new_tokens > limit:
            raise DataError(
                f"{name}: {len(prompt)} tokens and {sampling.max_new_tokens} new ones "
                f"are more than the model's {limit} positions; shorten the prompt or the answer"
            )
        if any(not 0 <= token < known for token, _ in sampling.logit_bias):
            raise DataError(f"logit_bias: names tokens outside 0 to {known - 1}, which the model knows")
        uniform = random_stream(seed, number, sampling.max_new_tokens).tolist()
        constraint = None if sampling.json_schema is None else self.schemas.begin(sampling.json_schema)
        return Request(prompt, sampling, uniform, self.lm.tokenizer, self.lm.eos_ids, constraint)


def _of_like_length(requests: Sequence[Request]) -> list[list[Request]]:
    """The same requests, in groups that need little padding."""
    groups: list[list[Request]] = []
    tokens = 0  # of the last group, without padding
    for request in sorted(requests, key=lambda request: len(request.known_ids)):
        length = len(request.known_ids)
        tokens += length
        if groups and (len(groups[-1]) + 1) * length - tokens <= max(PADDED, tokens // 4):
            groups[-1].append(request)
        else:
            groups.append([request])
            tokens = length
    return groups


def _likeliest(requests: Sequence[Request], tokens: Tensor, logprobs: Tensor) -> list[list[Likeliest]]:
    """For each request and place as many as it asks for, of ``[places, n, k]``."""
    numbers = zip(requests, tokens.transpose(0, 1).tolist(), logprobs.transpose(0, 1).tolist(), strict=True)
    return [
        [
            # What truncation leaves out cannot be drawn.
            [(token, x) for token, x in zip(*place, strict=True) if x > -math.inf][: request.sampling.top_logprobs]
            for place in zip(ids, nats, strict=True)
        ]
        for request, ids, nats in numbers
    ]
