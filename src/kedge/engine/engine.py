"""Prompts in, completions with exact log-probabilities out, for any causal language model with or without a cache.

Rows of different lengths share a batch without any padding: the batch is prefilled to its shortest prompt, and a row
whose prompt is longer is fed its own next token where the others draw one. So column and position are one, nothing
is ever masked, and the architecture does not matter (rotary, learned or no positions, sliding windows, recurrences).
A row that has ended leaves the batch. Prompts of very different lengths go to different batches.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from kedge.data.encode import decode_answer
from kedge.engine.sampling import Sampling, random_stream
from kedge.errors import DataError
from kedge.models.language_model import LanguageModel, accepts

FinishReason = Literal["eos", "stop", "length"]

# Rows of one batch at most: what its cache and logits take grows with them.
MAX_ROWS = 256

# A batch runs one step for each token of its longest prompt beyond its shortest; past this it is cheaper to split.
LENGTH_SPREAD = 16


@dataclass(frozen=True)
class Completion:
    """One answer."""

    prompt_ids: list[int]
    ids: list[int]
    """The answer's tokens as drawn, EOS included."""
    logprobs: list[float]
    """Of each, in nats, under the distribution it was drawn from."""
    text: str
    """Without special tokens, and cut before a stop string."""
    finish_reason: FinishReason
    """``eos``, ``stop`` (a stop string), or ``length`` (cut off)."""


@dataclass
class _Request:
    """A row while it is being written."""

    index: int
    prompt: list[int]
    uniform: Tensor
    ids: list[int]
    logprobs: list[float]
    finish_reason: FinishReason | None = None

    def next_known(self, column: int) -> int | None:
        """The prompt's token at ``column``; None past its end."""
        return self.prompt[column] if column < len(self.prompt) else None


class Engine:
    """Generates with the model it is given, in place: the trainer's weights are the engine's weights."""

    def __init__(self, language_model: LanguageModel) -> None:
        self.lm = language_model

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, *, seed: int = 0, first_request: int = 0
    ) -> list[Completion]:
        """One completion a prompt, in order.

        Args:
            prompts: token ids, at least one each.
            sampling: how to draw.
            seed: request ``i`` draws from the random stream (seed, first_request + i), whatever the batch.

        Raises:
            DataError: a prompt plus ``max_new_tokens`` is longer than the model's positions.
            NumericsError: the model gives NaN or infinite logits.
        """
        requests = [
            _Request(i, list(ids), random_stream(seed, first_request + i, sampling.max_new_tokens), [], [])
            for i, ids in enumerate(prompts)
        ]
        self._check(requests, sampling)
        for batch in _of_similar_length(requests):
            for _ in self._decode(batch, sampling):
                pass
        return [self._finished(request, sampling) for request in requests]

    def stream(self, prompt: Sequence[int], sampling: Sampling, *, seed: int = 0) -> Iterator[str]:
        """The answer to one prompt, in pieces of text as they become certain; together they are the whole text."""
        request = _Request(0, list(prompt), random_stream(seed, 0, sampling.max_new_tokens), [], [])
        self._check([request], sampling)
        shown = ""
        for _ in self._decode([request], sampling):
            text = self._text(request, sampling)
            # Hold back what may still change: half a character, or the beginning of a stop string.
            certain = text if request.finish_reason else text[: len(text) - _uncertain(text, sampling.stop_strings)]
            if len(certain) > len(shown):
                yield certain[len(shown) :]
                shown = certain

    @torch.inference_mode()
    def _decode(self, requests: list[_Request], sampling: Sampling) -> Iterator[None]:
        """Run the batch to its end, yielding after every step."""
        column = min(len(request.prompt) for request in requests)
        tokens = torch.tensor([request.prompt[:column] for request in requests], device=self.lm.device)
        model = _Stepper(self.lm)
        active = requests
        while active:
            logits = model.step(tokens)
            drawn, logprobs = sampling.draw(logits, self._uniform(active))
            chosen = []
            for request, token, logprob in zip(active, drawn.tolist(), logprobs.tolist(), strict=True):
                known = request.next_known(column)
                chosen.append(token if known is None else known)
                if known is None:
                    request.ids.append(token)
                    request.logprobs.append(logprob)
                    request.finish_reason = self._finish_reason(request, sampling)
            yield
            going = [i for i, request in enumerate(active) if request.finish_reason is None]
            if len(going) < len(active):
                active = [active[i] for i in going]
                model.keep_rows(going)
            tokens = torch.tensor([[chosen[i]] for i in going], device=self.lm.device)
            column += 1

    def _uniform(self, active: Sequence[_Request]) -> Tensor:
        # A row still inside its prompt draws too and the draw is dropped; its stream has not advanced.
        return torch.stack([request.uniform[len(request.ids)] for request in active]).to(self.lm.device)

    def _finish_reason(self, request: _Request, sampling: Sampling) -> FinishReason | None:
        if request.ids[-1] in self.lm.eos_ids:
            return "eos"
        if sampling.stop_strings:
            text = decode_answer(self.lm.tokenizer, request.prompt, request.ids)
            if any(stop in text for stop in sampling.stop_strings):
                return "stop"
        return "length" if len(request.ids) == sampling.max_new_tokens else None

    def _text(self, request: _Request, sampling: Sampling) -> str:
        text = decode_answer(self.lm.tokenizer, request.prompt, request.ids)
        cuts = [text.index(stop) for stop in sampling.stop_strings if stop in text]
        return text[: min(cuts)] if cuts else text

    def _finished(self, request: _Request, sampling: Sampling) -> Completion:
        assert request.finish_reason is not None
        text = self._text(request, sampling)
        return Completion(request.prompt, request.ids, request.logprobs, text, request.finish_reason)

    def _check(self, requests: Sequence[_Request], sampling: Sampling) -> None:
        limit = self.lm.positions
        for request in requests:
            if not request.prompt:
                raise DataError(f"prompt {request.index + 1}: no tokens in it")
            if limit is not None and len(request.prompt) + sampling.max_new_tokens > limit:
                raise DataError(
                    f"prompt {request.index + 1}: {len(request.prompt)} tokens and {sampling.max_new_tokens} new ones "
                    f"are more than the model's {limit} positions; shorten the prompt or the answer"
                )


class _Stepper:
    """Feeds a model its tokens, with its KV cache where it has one and with the whole text each time where not."""

    def __init__(self, lm: LanguageModel) -> None:
        self.model = lm.model
        self.extra = {"logits_to_keep": 1} if accepts(lm.model, "logits_to_keep") else {}
        self.cache: Any = None
        self.text: Tensor | None = None  # [B, L] all tokens so far; only without a usable cache

    def step(self, tokens: Tensor) -> Tensor:
        """Logits ``[B, V]`` after ``tokens [B, n]``, which follow what was fed before."""
        if self.text is not None:
            self.text = tokens = torch.cat([self.text, tokens], dim=1)
            return self.model(input_ids=tokens, use_cache=False, **self.extra).logits[:, -1]
        output = self.model(input_ids=tokens, past_key_values=self.cache, use_cache=True, **self.extra)
        self.cache = getattr(output, "past_key_values", None)
        if not hasattr(self.cache, "reorder_cache"):
            self.text = tokens
        return output.logits[:, -1]

    def keep_rows(self, rows: list[int]) -> None:
        """Drop the rows that have ended."""
        index = torch.tensor(rows, dtype=torch.long, device=self.model.device)
        if self.text is not None:
            self.text = self.text[index]
        else:
            # Beam search's method, because layers of every kind have it: those that carry a state (convolutions,
            # recurrences) lack batch_select_indices, or inherit one that leaves the state as it is.
            self.cache.reorder_cache(index)


def _of_similar_length(requests: Sequence[_Request]) -> list[list[_Request]]:
    batches: list[list[_Request]] = []
    for request in sorted(requests, key=lambda r: len(r.prompt)):
        shortest = len(batches[-1][0].prompt) if batches else 0
        near = len(request.prompt) <= shortest + max(LENGTH_SPREAD, shortest // 2)
        if batches and near and len(batches[-1]) < MAX_ROWS:
            batches[-1].append(request)
        else:
            batches.append([request])
    return batches


def _uncertain(text: str, stops: Sequence[str]) -> int:
    """How many characters at the end may still change with the next token."""
    whole = text.rstrip("\N{REPLACEMENT CHARACTER}")  # half a character may become the stop string's next one
    prefixes = (n for stop in stops for n in range(len(stop) - 1, 0, -1) if whole.endswith(stop[:n]))
    return len(text) - len(whole) + max(prefixes, default=0)
