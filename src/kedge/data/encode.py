"""Text and chat messages to token ids, and back.

One rule: the ids a model is trained on begin with exactly the ids it will be prompted with. Where a tokenizer would
merge a plain prompt's end with the answer's beginning (a line end and the spaces behind it, say), the answer is
tokenized apart. Where a template renders a conversation otherwise once it is answered, an answer begins behind the
longest common prefix.
"""

import re
from collections.abc import Sequence
from typing import Any, Literal

from jinja2 import TemplateError

from kedge.data.records import Demonstration, Text, is_begun
from kedge.errors import DataError

Tokenizer = Any
"""A ``transformers`` tokenizer."""

HALF = "\N{REPLACEMENT CHARACTER}"
"""What the bytes of a character that is not whole yet are decoded to."""

# Tokens at the end of an answer without which it ends with a whole character: three bytes, and what ended it.
ENDING = 4


def encode_prompt(tokenizer: Tokenizer, text: Text, *, origin: str = "prompt") -> list[int]:
    """Ids that ask for an answer to ``text``: the chat template with its generation prompt, or the plain text with
    the special tokens that the tokenizer puts in front (and without those it would put at the end).

    A conversation that ends with the assistant's message is left open there: the answer goes on with it.

    Raises:
        DataError: messages for a tokenizer without chat template, nothing to begin from, or half a character.
    """
    if isinstance(text, str):
        ids = _text_ids(tokenizer, text, origin) or _begin(tokenizer)
    else:
        ids = _render(tokenizer, text, origin, "continue" if is_begun(text) else "ask")
    if not ids:
        raise DataError(f"{origin}: no tokens in it, and the tokenizer has no BOS or EOS token to begin from")
    return ids


def encode_whole(tokenizer: Tokenizer, text: Text, *, ends: Sequence[int], origin: str = "text") -> list[int]:
    """Ids of a finished text or conversation; the first of ``ends`` is appended unless one of them ends it already."""
    ids = _text_ids(tokenizer, text, origin) if isinstance(text, str) else _render(tokenizer, text, origin, "end")
    return ids if not ends or _has_ended(tokenizer, ids, ends) else [*ids, ends[0]]


def encode_demonstration(
    tokenizer: Tokenizer, demonstration: Demonstration, *, ends: Sequence[int]
) -> tuple[list[int], list[bool]]:
    """``(ids, mask)`` of a prompt with its answer, ended; the mask is True on the assistant's tokens alone.

    In a conversation the assistant's earlier turns count too, where the template renders them the same in the middle
    as at the end (some drop a turn's reasoning later).
    """
    prompt, origin = demonstration.prompt, demonstration.origin
    whole = encode_whole(tokenizer, demonstration.whole, ends=ends, origin=origin)
    if demonstration.begins_a_turn:
        asked = _render(tokenizer, prompt, origin, "ask")
    else:
        asked = encode_prompt(tokenizer, prompt, origin=origin)
    if prompt == "" and whole[: len(asked)] != asked:
        whole = asked + whole  # a prompt of nothing is the token to begin from, which the tokenizer does not put there
    if isinstance(prompt, str) and whole[: len(asked)] != asked:
        whole = _apart(tokenizer, asked, str(demonstration.completion), ends) or whole
    start = answer_start(asked, whole)
    mask = [False] * start + [True] * (len(whole) - start)
    for i, message in enumerate(prompt):
        if isinstance(message, dict) and message["role"] == "assistant":
            turn = encode_whole(tokenizer, prompt[: i + 1], ends=(), origin=origin)
            if whole[: len(turn)] == turn:
                start = answer_start(_render(tokenizer, prompt[:i], origin, "ask"), turn)
                mask[start : len(turn)] = [True] * (len(turn) - start)
    return whole, [False, *mask[1:]]  # nothing stands before the first token to predict it from


def answer_start(prompt: Sequence[int], whole: Sequence[int]) -> int:
    """Index of the first id of ``whole`` that does not belong to ``prompt``: their longest common prefix."""
    pairs = zip(prompt, whole, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(prompt), len(whole)))


def decode_answer(tokenizer: Tokenizer, prompt: Sequence[int], answer: Sequence[int]) -> str:
    """The text that ``answer`` adds to ``prompt``, special tokens left out.

    Decoded together and then cut: a SentencePiece-like tokenizer drops a leading space otherwise. Where the last
    character is not whole, one that falls back to bytes makes halves of those before it too; they are kept.
    """
    before = tokenizer.decode(list(prompt), skip_special_tokens=True)

    def added(ids: Sequence[int]) -> str:
        return str(tokenizer.decode([*prompt, *ids], skip_special_tokens=True)[len(before) :])

    text = added(answer)
    if text.endswith(HALF):
        shorter = (added(answer[:-tokens]) for tokens in range(1, min(ENDING, len(answer)) + 1))
        whole = next((each for each in shorter if not each.endswith(HALF)), "")
        if not text.startswith(whole):
            return whole + HALF
    return text


def _apart(tokenizer: Tokenizer, asked: list[int], answer: str, ends: Sequence[int]) -> list[int]:
    """``asked`` and behind it an answer's own tokens, ended; nothing where the text would be another one: a
    SentencePiece-like tokenizer puts a space in front."""
    ids = _without_final_eos(tokenizer, tokenizer(answer, add_special_tokens=False).input_ids)
    if decode_answer(tokenizer, asked, ids) != answer:
        return []
    return [*asked, *ids] if not ends or _has_ended(tokenizer, ids, ends) else [*asked, *ids, ends[0]]


def has_template(tokenizer: Tokenizer) -> bool:
    """Whether chat messages can be rendered."""
    return bool(getattr(tokenizer, "chat_template", None))


def _render(tokenizer: Tokenizer, messages: Text, origin: str, then: Literal["ask", "continue", "end"]) -> list[int]:
    """Ids of a conversation: with what asks for the assistant's turn, open at its last message, or ended."""
    if not messages:
        return []
    if not has_template(tokenizer):
        raise DataError(
            f"{origin}: chat messages, but the model's tokenizer has no chat template; "
            "give plain text, or set tokenizer.chat_template and save it with the model"
        )
    for message in messages:
        _refuse_half_characters(str(message["content"]), origin)  # type: ignore[index]
    try:
        ids = tokenizer.apply_chat_template(
            messages,
            tokenize=True,
            return_dict=False,
            add_generation_prompt=then == "ask",
            continue_final_message=then == "continue",
        )
    except TemplateError as error:
        raise DataError(f"{origin}: the tokenizer's chat template refuses these messages: {error}") from error
    except ValueError as error:
        if then != "continue":
            raise
        raise DataError(
            f"{origin}: the messages end with the assistant's, and the tokenizer's chat template does not render that "
            "so that it can be continued; end with the user's, or mend the template"
        ) from error
    return list(ids)


def _text_ids(tokenizer: Tokenizer, text: str, origin: str) -> list[int]:
    _refuse_half_characters(text, origin)
    ids = _without_final_eos(tokenizer, tokenizer(text).input_ids)
    bos = tokenizer.bos_token_id
    # A text that was rendered before begins with its own BOS, and the tokenizer puts another in front.
    return ids[1:] if bos is not None and ids[:2] == [bos, bos] else ids


def _refuse_half_characters(text: str, origin: str) -> None:
    half = re.search("[\ud800-\udfff]", text)
    if half:
        raise DataError(
            f"{origin}: half a character, {half[0]!a}, after {text[: half.start()][-40:]!r}: UTF-16 "
            "that was cut apart, or bytes that are not UTF-8; mend the text or leave it out"
        )


def _without_final_eos(tokenizer: Tokenizer, ids: Sequence[int]) -> list[int]:
    return list(ids[:-1]) if len(ids) > 1 and ids[-1] == tokenizer.eos_token_id else list(ids)


def _has_ended(tokenizer: Tokenizer, ids: Sequence[int], ends: Sequence[int]) -> bool:
    # A template may close a turn with the EOS and then a newline.
    blank = not tokenizer.decode(list(ids[-1:])).strip()
    return any(last in ends for last in (ids[-2:] if blank else ids[-1:]))


def _begin(tokenizer: Tokenizer) -> list[int]:
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    return [] if start is None else [start]
