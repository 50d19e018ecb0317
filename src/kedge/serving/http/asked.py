"""What a client may ask, by OpenAI's names. A parameter that is not here is refused, and none is ignored."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from kedge.errors import ConfigError
from kedge.sampling.settings import Sampling
from kedge.serving.people.tables import is_writable

Tokens = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]


def _writable(text: str) -> str:
    if not is_writable(text):
        raise ValueError("has characters that cannot be written down")
    return text


Kept = Annotated[str, AfterValidator(_writable)]
"""Text that may be kept in a database."""

MOST_STOPS, MOST_CHOICES, MOST_LIKELIEST, MOST_BIASES = 4, 128, 20, 1024
MOST_TOKENS = 2**17
"""Of an answer, also where the model has no limit of its own: each has its random number before it begins."""


class Strict(BaseModel):
    """A part of a request: nothing else may be in it, and null is as good as nothing."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, given: Any) -> Any:
        return {key: value for key, value in given.items() if value is not None} if isinstance(given, dict) else given


class Asked(Strict, ABC):
    """What chats and completions have in common."""

    model: str
    max_tokens: int | None = Field(None, ge=1, le=MOST_TOKENS)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=-1)
    """0 or -1: all."""
    min_p: float = Field(0.0, ge=0, lt=1)
    n: int = Field(1, ge=1, le=MOST_CHOICES)
    stop: list[Annotated[str, Field(min_length=1)]] = Field(default_factory=list, max_length=MOST_STOPS)
    seed: int | None = None
    stream: bool = False
    stream_options: "StreamOptions | None" = None
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    logit_bias: dict[int, Annotated[float, Field(ge=-100, le=100)]] = Field(
        default_factory=dict, max_length=MOST_BIASES
    )
    user: Kept | None = Field(None, max_length=256)
    response_format: "Format | None" = None

    @field_validator("stop", mode="before")
    @classmethod
    def _one_or_several(cls, stop: Any) -> Any:
        return [stop] if isinstance(stop, str) else stop

    @field_validator("logit_bias", mode="before")
    @classmethod
    def _keys_are_texts_in_json(cls, biases: Any) -> Any:
        if not isinstance(biases, Mapping):
            return biases
        numbered = {int(key) if isinstance(key, str) and key.isdecimal() else key: each for key, each in biases.items()}
        if len(numbered) < len(biases):
            raise ValueError("names a token twice")
        return numbered

    @field_validator("seed")
    @classmethod
    def _fits(cls, seed: int | None) -> int | None:
        if seed is not None and not -(2**63) <= seed < 2**63:
            raise ValueError("a whole number of 64 bits")
        return seed

    @model_validator(mode="after")
    def _streams(self) -> "Asked":
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options: only with stream = true")
        return self

    @property
    @abstractmethod
    def likeliest(self) -> int | None:
        """At each token so many of the likeliest are reported, and its own log-probability; None: neither."""

    def sampling(self, usual: Sampling, most: int) -> Sampling:
        """How to draw.

        Args:
            usual: where nothing is asked.
            most: tokens there is room for.

        Raises:
            ValueError: parameters that do not go together.
        """
        temperature = usual.temperature if self.temperature is None else self.temperature
        wanted = min(usual.max_new_tokens, most) if self.max_tokens is None else self.max_tokens
        if wanted > most:
            raise ValueError(f"max_tokens: {wanted}, and behind the prompt there is room for {most}")
        # Greedy: truncation changes nothing, and a token's own log-probability is the likeliest's.
        greedy = temperature == 0
        try:
            return Sampling(
                max_new_tokens=wanted,
                temperature=temperature,
                top_k=0 if greedy else max(0, self.top_k),
                top_p=1.0 if greedy else self.top_p,
                min_p=0.0 if greedy else self.min_p,
                stop_strings=tuple(self.stop) or usual.stop_strings,
                top_logprobs=0 if self.likeliest is None else max(self.likeliest, int(greedy)),
                presence_penalty=self.presence_penalty,
                frequency_penalty=self.frequency_penalty,
                logit_bias=tuple(sorted(self.logit_bias.items())),
                json_schema=None if self.response_format is None else self.response_format.schema_text,
            )
        except ConfigError as error:
            raise ValueError(str(error)) from None


class StreamOptions(Strict):
    """Of a stream."""

    include_usage: bool = False


class Message(Strict):
    """Of a conversation: text alone."""

    role: Literal["system", "user", "assistant"]
    content: str

    @field_validator("content", mode="before")
    @classmethod
    def _of_parts(cls, content: Any) -> Any:
        """Parts that are all text are one text."""
        if not isinstance(content, Sequence) or isinstance(content, str):
            return content
        if not all(
            isinstance(part, dict) and part.keys() == {"type", "text"} and part["type"] == "text"
            and isinstance(part["text"], str) for part in content
        ):  # fmt: skip
            raise ValueError('text alone: parts of {"type": "text", "text": "..."}')
        return "".join(part["text"] for part in content)


class Schema(Strict):
    """Of JSON. ``name`` and ``description`` are for people; it is held to, ``strict`` or not."""

    name: str = Field(max_length=64)
    description: str | None = None
    strict: bool | None = None
    json_schema: dict[str, Any] = Field(alias="schema")


class Format(Strict):
    """Of an answer."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: Schema | None = None

    @model_validator(mode="after")
    def _go_together(self) -> "Format":
        if (self.json_schema is None) is (self.type == "json_schema"):
            raise ValueError("json_schema: with type = json_schema, and with no other")
        return self

    @property
    def schema_text(self) -> str | None:
        """The schema as JSON; None: any text will do."""
        if self.type == "text":
            return None
        schema = {"type": "object"} if self.json_schema is None else self.json_schema.json_schema
        return json.dumps(schema)


class ChatAsked(Asked):
    """``/v1/chat/completions``."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1, le=MOST_TOKENS)
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=MOST_LIKELIEST)

    @model_validator(mode="after")
    def _go_together(self) -> "ChatAsked":
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs: only with logprobs = true")
        if self.max_completion_tokens is not None:
            if self.max_tokens is not None:
                raise ValueError("max_tokens: max_completion_tokens says it already; take one of them out")
            self.max_tokens = self.max_completion_tokens
        return self

    @property
    def likeliest(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionAsked(Asked):
    """``/v1/completions``."""

    prompt: str | Tokens | Annotated[list[str], Field(min_length=1)] | Annotated[list[Tokens], Field(min_length=1)]
    logprobs: int | None = Field(None, ge=0, le=MOST_LIKELIEST)

    @property
    def likeliest(self) -> int | None:
        return self.logprobs

    @property
    def prompts(self) -> "Sequence[str | list[int]]":
        """All of them: each a text, or tokens."""
        one = isinstance(self.prompt, str) or isinstance(self.prompt[0], int)
        return [self.prompt] if one else self.prompt  # type: ignore[list-item, return-value]


class AnswerNamed(Strict):
    """One of a response's answers."""

    id: Kept = Field(max_length=64)
    """Of the response."""
    index: int = Field(0, ge=0, lt=10_000)
    """Of the choice in it."""

    @property
    def key(self) -> str:
        """As it is kept."""
        return f"{self.id}:{self.index}"


class FeedbackAsked(AnswerNamed):
    """``/v1/feedback``: what somebody says of an answer, at least one thing."""

    thumb: Literal["up", "down"] | None = None
    score: float | None = Field(None, allow_inf_nan=False)
    better_than: AnswerNamed | None = None
    """Another answer to the same prompt."""
    correction: Kept | None = Field(None, min_length=1)
    """What it should have been."""
    comment: Kept | None = Field(None, min_length=1)
    annotator: Kept | None = Field(None, min_length=1, max_length=256)

    @model_validator(mode="after")
    def _says_something(self) -> "FeedbackAsked":
        if all(x is None for x in (self.thumb, self.score, self.better_than, self.correction, self.comment)):
            raise ValueError("one of thumb, score, better_than, correction, comment, at least")
        if self.better_than is not None and self.better_than.key == self.key:
            raise ValueError("better_than: that is the same answer")
        return self


class ScoreAsked(Strict):
    """``/v1/score``: what the reward model says of texts, or of answers to conversations."""

    model: str
    input: list[str | Annotated[list[Message], Field(min_length=1)]] = Field(min_length=1, max_length=256)
    answers: list[str] | None = None
    """What is judged of each, at its end; by default the last message, or all of a text."""

    @model_validator(mode="after")
    def _as_many(self) -> "ScoreAsked":
        if self.answers is not None and len(self.answers) != len(self.input):
            raise ValueError(f"answers: {len(self.answers)} for {len(self.input)} texts in input")
        return self
