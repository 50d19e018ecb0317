"""What the jobs read: prompts, demonstrations and preferences, as plain text or chat messages.

The columns are those that TRL's users know: ``prompt``; ``prompt`` + ``completion``, or ``messages``; ``prompt`` +
``chosen`` + ``rejected``. Chosen and rejected without a prompt are whole texts or conversations. Labels (1 preferred,
0 not) beside a ``text``, ``messages``, or ``prompt`` + ``completion`` become preferences too: each preferred one meets
one that is not, an answer to the same prompt where there is one. ShareGPT's and Alpaca's columns are read as well, see
:mod:`kedge.data.shapes`.
"""

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from kedge.data.files import Row, Source, column, rows_of
from kedge.data.shapes import as_demonstration, as_preference, as_prompt
from kedge.errors import DataError

Messages = list[dict[str, Any]]
Text = str | Messages
"""Plain text, or chat messages ``[{"role": ..., "content": ...}]``."""

LABELS = {"0": "0", "0.0": "0", "false": "0", "1": "1", "1.0": "1", "true": "1"}
"""How people and their tools write 0 and 1."""

TAGS = ("kto_tag", "label")
"""Columns that say whether an answer is good: LLaMA-Factory's, TRL's."""

T = TypeVar("T")


@dataclass(frozen=True)
class Prompt:
    """What the policy is asked. ``columns`` holds the row's other columns, for the reward."""

    text: Text
    columns: Mapping[str, Any] = field(default_factory=dict)
    origin: str = "prompt"


@dataclass(frozen=True)
class Demonstration:
    """A prompt and what to answer. With messages, ``completion`` is the last of them, the assistant's."""

    prompt: Text
    completion: Text
    origin: str = "demonstration"
    begins_a_turn: bool = False
    """After an assistant's message another turn of the assistant begins; else the completion goes on with that one."""

    @property
    def whole(self) -> Text:
        """Both together."""
        if isinstance(self.prompt, list) and self.begins_a_turn:
            return self.prompt + self.completion  # type: ignore[operator]
        return _answered(self.prompt, self.completion)


@dataclass(frozen=True)
class Preference:
    """Two whole texts or conversations (prompt included), the first preferred."""

    chosen: Text
    rejected: Text
    origin: str = "preference"
    margin: float = 0.0
    """By how much the chosen one should score higher, at the least."""
    agreement: float = 1.0
    """Share of the raters who prefer the chosen one; 1/2: a tie."""


def prompts(rows: Iterable[Row]) -> list[Prompt]:
    """Column ``prompt``; the other columns travel along.

    Raises:
        DataError: a row without a usable prompt.
    """
    return [
        Prompt(
            _text(column(row, "prompt"), row, "prompt"),
            {key: value for key, value in row.columns.items() if key != "prompt"},
            row.origin,
        )
        for row in map(as_prompt, rows)
    ]


def read_prompts(source: Source, columns: Mapping[str, str] | None = None) -> list[Prompt]:
    """Prompts of a data source, or of a list of texts, of chat messages or of rows with a column ``prompt``.

    Raises:
        DataError: nothing in it, or a row that is no prompt.
    """
    found = prompts(rows_of(source, rename=columns, bare="prompt"))
    # A reward gets every column that some row has, whichever rows it is asked about.
    names = dict.fromkeys(name for prompt in found for name in prompt.columns)
    return [replace(prompt, columns={name: prompt.columns.get(name) for name in names}) for prompt in found]


def demonstrations(rows: Iterable[Row]) -> list[Demonstration]:
    """Columns ``prompt`` + ``completion``, or ``messages``, or ``text`` (all of it is the completion).

    Raises:
        DataError: a row with none of these, or a conversation that does not end with the assistant.
    """
    return [_demonstration(as_demonstration(row)) for row in rows]


def preferences(rows: Sequence[Row], *, seed: int = 0) -> list[Preference]:
    """Columns ``chosen`` + ``rejected``, with or without ``prompt`` (answers to it, or whole conversations that begin
    with it), perhaps ``margin`` and ``agreement``; or ``label`` (LLaMA-Factory: ``kto_tag``) beside a demonstration's
    columns, paired at random, and where there are answers of both kinds to a prompt among those.

    Raises:
        DataError: a row with none of these, a label that is not 0 or 1, or labels of one kind only.
    """
    names = rows[0].columns if rows else {}
    if (tag := next((tag for tag in TAGS if tag in names), None)) and "chosen" not in names:
        return _paired(rows, tag, seed)
    return [_preference(as_preference(row)) for row in rows]


def held_out(
    items: Sequence[T], size: int, *, seed: int, what: str, count: str | None = None
) -> tuple[list[T], list[T]]:
    """Split off ``size`` items for evaluation: ``(training, evaluation)``, deterministic for a seed.

    Args:
        what: their setting, for the message.
        count: how many there are, where they are no rows.

    Raises:
        DataError: nothing would be left to train on.
    """
    if size >= len(items):
        raise DataError(f"{what}: {count or f'{len(items)} rows'}; eval_size={size} leaves none to train on")
    order = random.Random(f"held out {seed}").sample(range(len(items)), len(items))
    chosen = set(order[:size])
    return [x for i, x in enumerate(items) if i not in chosen], [items[i] for i in sorted(chosen)]


def plain(text: Text) -> str:
    """Text as it is; of messages the contents, a line each. For logs and samples, not for models."""
    return text if isinstance(text, str) else "\n".join(f"{m['role']}: {m['content']}" for m in text)


def joined(prompt: Text, completion: str) -> Text:
    """The whole text, or the whole conversation, that ``completion`` makes of ``prompt``.

    A completion of a conversation that ends with the assistant's message is the rest of that message.
    """
    return _answered(prompt, completion if isinstance(prompt, str) else as_messages(completion))


def is_begun(prompt: Text) -> bool:
    """Whether a prompt is a conversation that ends with the assistant's message, which the answer goes on with."""
    return isinstance(prompt, list) and bool(prompt) and prompt[-1]["role"] == "assistant"


def as_messages(completion: str) -> Messages:
    """A completion as the assistant's turn."""
    return [{"role": "assistant", "content": completion}]


def _answered(prompt: Text, answer: Text) -> Text:
    """Prompt and answer together, in one form; an assistant's message that the prompt begins is one with its rest."""
    if not (is_begun(prompt) and isinstance(answer, list) and answer and answer[0]["role"] == "assistant"):
        return prompt + answer  # type: ignore[operator]
    begun, rest = prompt[-1], answer[0]
    contents = [message["content"] for message in (begun, rest)]  # type: ignore[index]
    if all(isinstance(content, str) for content in contents):
        content: Any = "".join(contents)
    else:  # parts, as models of more than text have them
        content = [p for c in contents for p in ([{"type": "text", "text": c}] if isinstance(c, str) else c)]
    return [*prompt[:-1], {**begun, **rest, "content": content}, *answer[1:]]  # type: ignore[dict-item]


def _text(value: Any, row: Row, name: str) -> Text:
    if isinstance(value, str):
        if not value:
            raise DataError(f"{row.origin}: column {name!r} is empty")
        return value
    if (
        isinstance(value, list | tuple)
        and value
        and all(isinstance(m, dict) and m.get("role") and m.get("content") is not None for m in value)
    ):
        for message in value:
            if not isinstance(message["content"], str):  # a template would write it out as Python does
                raise DataError(
                    f"{row.origin}: column {name!r} has a message whose content is no text: "
                    f"{str(message['content'])[:60]!r}; of parts, take the text"
                )
        return list(value)
    raise DataError(
        f"{row.origin}: column {name!r} must be text or a list of messages with 'role' and 'content', "
        f"not {type(value).__name__}: {str(value)[:60]!r}"
    )


def _demonstration(row: Row) -> Demonstration:
    if "messages" in row.columns:
        messages = _text(column(row, "messages"), row, "messages")
        if isinstance(messages, str) or messages[-1]["role"] != "assistant":
            raise DataError(f"{row.origin}: 'messages' must be a list of messages that ends with role 'assistant'")
        if not messages[-1]["content"]:
            raise DataError(f"{row.origin}: the last message, the assistant's, is empty; there is nothing to learn")
        return Demonstration(messages[:-1], messages[-1:], row.origin, begins_a_turn=True)
    if "text" in row.columns and "completion" not in row.columns:
        return Demonstration("", _text(column(row, "text"), row, "text"), row.origin)
    prompt = _text(column(row, "prompt"), row, "prompt")
    completion = _text(column(row, "completion"), row, "completion")
    return Demonstration(prompt, _like(prompt, completion, row, "completion"), row.origin)


def _preference(row: Row) -> Preference:
    chosen = _text(column(row, "chosen"), row, "chosen")
    rejected = _text(column(row, "rejected"), row, "rejected")
    if "prompt" in row.columns:
        prompt = _text(column(row, "prompt"), row, "prompt")
        chosen, rejected = (
            _whole(prompt, answer) or _answered(prompt, _like(prompt, answer, row, name))
            for name, answer in (("chosen", chosen), ("rejected", rejected))
        )
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise DataError(f"{row.origin}: 'chosen' and 'rejected' must both be text or both be messages")
    return Preference(
        chosen,
        rejected,
        row.origin,
        0.0 if (margin := number_in(row, "margin", least=0)) is None else margin,
        1.0 if (agreement := number_in(row, "agreement", least=0, most=1)) is None else agreement,
    )


def number_in(row: Row, name: str, *, least: float = -math.inf, most: float = math.inf) -> float | None:
    """What a column holds; None where it is missing, or empty in this row.

    Raises:
        DataError: it is no number, or not within these limits.
    """
    value = row.columns.get(name)
    if value is None or value == "":
        return None
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number) or not least <= number <= most:
        limits = "" if least == -math.inf else f" from {least:g}" + ("" if most == math.inf else f" to {most:g}")
        raise DataError(f"{row.origin}: {name!r} must be a number{limits}, not {value!r}")
    return number


def _whole(prompt: Text, answer: Text) -> Messages | None:
    """The conversation, where ``answer`` is all of it and not the answer alone: messages that begin with the prompt (as
    in UltraFeedback), whichever of the two has the system's message."""
    if isinstance(answer, str):
        return None
    asked = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    system, asked = _parted(asked)
    own, said = _parted(answer)
    begins = [_said(m) for m in said[: len(asked)]] == [_said(m) for m in asked]
    return [*(own or system), *said] if asked and begins and len(said) > len(asked) else None


def _parted(messages: Messages) -> tuple[Messages, Messages]:
    """The system's messages at the beginning, and the others."""
    others = next((i for i, message in enumerate(messages) if message["role"] != "system"), len(messages))
    return messages[:others], messages[others:]


def _said(message: Mapping[str, Any]) -> tuple[str, str]:
    return message["role"], message["content"].strip()


def _like(prompt: Text, answer: Text, row: Row, name: str) -> Text:
    """``answer`` in the form of ``prompt``: a plain answer to chat messages is the assistant's turn."""
    if isinstance(prompt, list) and isinstance(answer, str):
        return as_messages(answer)
    if isinstance(prompt, str) and isinstance(answer, list):
        raise DataError(
            f"{row.origin}: 'prompt' is text but {name!r} is messages, which do not begin with it; make both the same, "
            "or leave 'prompt' out where they are whole conversations"
        )
    return answer


@dataclass(frozen=True)
class _Judged:
    """A text that somebody called good or bad, and what it answers."""

    whole: Text
    asked: str
    good: bool
    origin: str


def _paired(rows: Sequence[Row], tag: str, seed: int) -> list[Preference]:
    judged = [_judged(row, tag) for row in rows]
    if len({x.good for x in judged}) < 2:
        raise DataError(
            f"{rows[0].origin.rpartition(': ')[0] or 'data'}: all labels are alike; pairs need both 1 and 0"
        )
    rng = random.Random(f"pairs {seed}")
    by_prompt: dict[str, list[_Judged]] = {}
    for x in judged:
        by_prompt.setdefault(x.asked, []).append(x)
    pairs, alone = [], []
    for answers in by_prompt.values():
        if len({x.good for x in answers}) == 2:
            pairs += _met(answers, rng)
        else:
            alone += answers
    if len({x.good for x in alone}) == 2:
        pairs += _met(alone, rng)
    elif alone:  # they meet any of the other kind, each once
        others = [x for x in judged if x.good != alone[0].good]
        pairs += _met(alone + others, rng)[: len(alone)]
    return pairs


def _met(judged: Sequence[_Judged], rng: random.Random) -> list[Preference]:
    """Each of the kind that there are more of meets one of the other kind."""
    bad, good = ([x for x in judged if x.good is kind] for kind in (False, True))
    rng.shuffle(bad)
    rng.shuffle(good)
    size = max(len(good), len(bad))
    good, bad = ((side * (size // len(side) + 1))[:size] for side in (good, bad))
    return [Preference(g.whole, b.whole, g.origin) for g, b in zip(good, bad, strict=True)]


def _judged(row: Row, tag: str) -> _Judged:
    label = LABELS.get(str(column(row, tag)).lower())
    if label is None:
        raise DataError(f"{row.origin}: {tag} {row.columns[tag]!r}; labels are 1 (preferred) and 0")
    if "text" in row.columns:
        return _Judged(_text(column(row, "text"), row, "text"), "", label == "1", row.origin)
    shown = _demonstration(as_demonstration(row))
    return _Judged(shown.whole, plain(shown.prompt), label == "1", shown.origin)
