"""One answer while it is written."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from kedge.data.encode import HALF, Tokenizer, decode_answer
from kedge.sampling.completion import Completion, FinishReason
from kedge.sampling.local.schemas import Constraint
from kedge.sampling.local.text import GrowingText
from kedge.sampling.settings import Sampling


@dataclass(eq=False)
class Request:
    """A prompt in the engine. The engine's ``submit`` makes it; it fills as the engine steps."""

    prompt_ids: list[int]
    sampling: Sampling
    uniform: Sequence[float] = field(repr=False)
    """``max_new_tokens`` random numbers in [0, 1), one a token."""
    tokenizer: Tokenizer = field(repr=False)
    eos_ids: Sequence[int] = ()
    constraint: Constraint | None = field(default=None, repr=False)
    """Of its schema, where there is one."""
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    """Of the weights that drew each token."""
    top_logprobs: list[list[tuple[int, float]]] = field(default_factory=list)
    """The likeliest tokens at each place, where they are asked for."""
    finish_reason: FinishReason | None = None
    """None while it is being written."""
    reused: int = 0
    """Tokens of it that did not have to be computed, because another prompt began with them."""
    _told: int = field(default=0, repr=False)
    """Characters of the text that :meth:`news` has given."""

    @property
    def known_ids(self) -> list[int]:
        """Prompt and answer so far."""
        return self.prompt_ids + self.ids

    @property
    def prompt_text(self) -> str:
        """The prompt, special tokens included."""
        return self.tokenizer.decode(self.prompt_ids)

    @property
    def text(self) -> str:
        """The answer so far, without special tokens, and cut before a stop string."""
        if self.finish_reason is None or "_growing" in vars(self):  # what was shown of it stays as it is
            return self._cut(self._growing.of(self.ids))
        return self._cut(decode_answer(self.tokenizer, self.prompt_ids, self.ids))

    @property
    def certain_text(self) -> str:
        """As much of the text as no further token can change."""
        text = self.text
        return text if self.finish_reason else text[: len(text) - _uncertain(text, self.sampling.stop_strings)]

    def news(self) -> str:
        """What has become certain since it was asked for last; together these pieces are the whole text."""
        certain = self.certain_text
        piece, self._told = certain[self._told :], len(certain)
        return piece

    def take(self, token: int, logprob: float, version: int, top: Sequence[tuple[int, float]] = ()) -> None:
        """The next token has been drawn.

        Args:
            token: its id.
            logprob: nats, under the distribution that it was drawn from.
            version: of the weights.
            top: the likeliest tokens in its place, ``(id, nats)``.
        """
        if self.constraint is not None:
            self.constraint.take(token)
        self.ids.append(token)
        self.logprobs.append(logprob)
        self.versions.append(version)
        if self.sampling.top_logprobs:
            self.top_logprobs.append(list(top))
        if token in self.eos_ids:
            self.finish_reason = "eos"
        elif self._stops():
            self.finish_reason = "stop"
        elif len(self.ids) == self.sampling.max_new_tokens:
            self.finish_reason = "length"

    def completion(self) -> Completion:
        """The answer; only of a request that is finished."""
        assert self.finish_reason is not None
        top = self.top_logprobs if self.sampling.top_logprobs else None
        return Completion(self.prompt_ids, self.ids, self.logprobs, self.text, self.finish_reason, self.versions, top)

    @cached_property
    def _growing(self) -> GrowingText:
        return GrowingText(self.tokenizer, self.prompt_ids)

    def _stops(self) -> bool:
        stops = self.sampling.stop_strings
        if not stops:
            return False
        text = self._growing.of(self.ids)
        return any(stop in text for stop in stops)

    def _cut(self, text: str) -> str:
        cuts = [text.index(stop) for stop in self.sampling.stop_strings if stop in text]
        return text[: min(cuts)] if cuts else text


def _uncertain(text: str, stops: Sequence[str]) -> int:
    """How many characters at the end may still change with the next token."""
    whole = text.rstrip(HALF)  # half a character may become the stop string's next one
    prefixes = (n for stop in stops for n in range(len(stop) - 1, 0, -1) if whole.endswith(stop[:n]))
    return len(text) - len(whole) + max(prefixes, default=0)
