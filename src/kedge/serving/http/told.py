"""What a client is told: answers in OpenAI's form, whole or piece by piece."""

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from kedge.data.encode import Tokenizer
from kedge.sampling.completion import FinishReason
from kedge.sampling.local.request import Request

FINISHED: Mapping[FinishReason | None, str | None] = {
    "eos": "stop", "stop": "stop", "length": "length", "cancelled": "stop", None: None,
}  # fmt: skip


@dataclass(frozen=True)
class Form(ABC):
    """What all parts of one response have in common."""

    model: str
    tokenizer: Tokenizer
    fingerprint: str
    """Of the weights."""
    likeliest: int | None = None
    """How many of the likeliest tokens are reported; None: no log-probabilities at all."""
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    kind = ""
    """``object``."""
    chunk_kind = ""
    """The same of a piece of a stream."""
    prefix = ""
    """Of the id."""

    @property
    def name(self) -> str:
        """The response's id, as clients see it."""
        return f"{self.prefix}-{self.id}"

    def whole(self, choices: Sequence[dict[str, Any]], usage: Mapping[str, int]) -> dict[str, Any]:
        """A response."""
        return self._around(self.kind, choices) | {"usage": dict(usage)}

    def chunk(self, choices: Sequence[dict[str, Any]], usage: Mapping[str, int] | None = None) -> dict[str, Any]:
        """A piece of a stream."""
        return self._around(self.chunk_kind, choices) | ({} if usage is None else {"usage": dict(usage)})

    @abstractmethod
    def choice(self, index: int, text: str, finished: str | None, logprobs: Any) -> dict[str, Any]:
        """Of a response."""

    @abstractmethod
    def piece(self, index: int, text: str, finished: str | None, logprobs: Any) -> dict[str, Any]:
        """Of a stream."""

    def logprobs(self, request: Request, start: int, *, text_from: int) -> Any:
        """Of a request's tokens from ``start`` on, the EOS left out; None where nobody asked.

        Args:
            request: which may still be written.
            start: index of the first token.
            text_from: characters of the answer before it.
        """
        if self.likeliest is None:
            return None
        end = known(request) - (request.finish_reason == "eos")
        return self.log_of([self._token(request, place) for place in range(start, end)], text_from)

    @abstractmethod
    def log_of(self, tokens: "Sequence[Token]", text_from: int) -> Any:
        """In this response's form."""

    def _token(self, request: Request, place: int) -> "Token":
        assert self.likeliest is not None
        top = request.top_logprobs[place] if request.top_logprobs else []
        greedy = request.sampling.temperature == 0  # it had no choice: 0 nats, where the model's own are wanted
        logprob = top[0][1] if greedy and top else request.logprobs[place]
        likeliest = [(self._word(token), nats) for token, nats in top[: self.likeliest]]
        return Token(self._word(request.ids[place]), logprob, likeliest)

    @cached_property
    def _before(self) -> list[int]:
        """Some token that is text, for the first one of a text may lose its space."""
        return list(self.tokenizer("a", add_special_tokens=False).input_ids)

    def _word(self, token: int) -> str:
        before = self.tokenizer.decode(self._before)
        return str(self.tokenizer.decode([*self._before, token])[len(before) :])

    def _around(self, kind: str, choices: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.name, "object": kind, "created": self.created, "model": self.model,
            "system_fingerprint": self.fingerprint, "choices": list(choices),
        }  # fmt: skip


@dataclass(frozen=True)
class Token:
    """A token of an answer, as text."""

    text: str
    logprob: float
    likeliest: Sequence[tuple[str, float]]


class ChatForm(Form):
    """``/v1/chat/completions``."""

    kind = "chat.completion"
    chunk_kind = "chat.completion.chunk"
    prefix = "chatcmpl"

    def choice(self, index: int, text: str, finished: str | None, logprobs: Any) -> dict[str, Any]:
        message = {"role": "assistant", "content": text, "refusal": None}
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": finished}

    def piece(self, index: int, text: str, finished: str | None, logprobs: Any) -> dict[str, Any]:
        delta = {"content": text} if text else {}
        return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finished}

    def opening(self, index: int) -> dict[str, Any]:
        """The first piece, which says who speaks."""
        return {
            "index": index, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None,
        }  # fmt: skip

    def log_of(self, tokens: Sequence[Token], text_from: int) -> Any:
        def entry(text: str, logprob: float) -> dict[str, Any]:
            return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

        content = [
            entry(t.text, t.logprob) | {"top_logprobs": [entry(text, nats) for text, nats in t.likeliest]}
            for t in tokens
        ]
        return {"content": content, "refusal": None}


class CompletionForm(Form):
    """``/v1/completions``."""

    kind = chunk_kind = "text_completion"
    prefix = "cmpl"

    def choice(self, index: int, text: str, finished: str | None, logprobs: Any) -> dict[str, Any]:
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finished}

    def piece(self, index: int, text: str, finished: str | None, logprobs: Any) -> dict[str, Any]:
        return self.choice(index, text, finished, logprobs)

    def log_of(self, tokens: Sequence[Token], text_from: int) -> Any:
        offsets = [text_from + sum(len(t.text) for t in tokens[:end]) for end in range(len(tokens))]
        return {
            "tokens": [t.text for t in tokens],
            "token_logprobs": [t.logprob for t in tokens],
            "top_logprobs": [_by_text(t.likeliest) for t in tokens],
            "text_offset": offsets,
        }


def _by_text(likeliest: Sequence[tuple[str, float]]) -> dict[str, float]:
    """The likeliest first; of tokens that read alike, such as parts of a character, the likeliest one."""
    found: dict[str, float] = {}
    for text, nats in likeliest:
        found.setdefault(text, nats)
    return found


def known(request: Request) -> int:
    """How many of its tokens are written with everything that belongs to them; it may grow meanwhile."""
    return len(request.top_logprobs if request.sampling.top_logprobs else request.versions)


def usage(prompts: Sequence[Sequence[int]], requests: Sequence[Request]) -> dict[str, int]:
    """Tokens of each prompt once, and of all answers."""
    asked, written = sum(len(ids) for ids in prompts), sum(len(request.ids) for request in requests)
    return {"prompt_tokens": asked, "completion_tokens": written, "total_tokens": asked + written}
