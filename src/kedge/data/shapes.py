"""Rows in the shapes of ShareGPT and Alpaca, as rows with kedge's columns.

ShareGPT: ``conversations`` of ``{"from": "human", "value": ...}``, and maybe ``system``. Alpaca: ``instruction``, maybe
``input``, ``system`` and ``history`` (pairs of question and answer), and ``output``. They are read as LLaMA-Factory
reads them: as chat messages. A row that has kedge's own columns is left as it is.
"""

from collections.abc import Mapping
from typing import Any

from kedge.data.files import Row
from kedge.errors import DataError

ROLES: Mapping[str, str] = {
    "system": "system",
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bing", "bard", "model", "function_call"), "assistant"),
    **dict.fromkeys(("tool", "function", "observation", "function_response"), "tool"),
}
"""Who speaks in ShareGPT's ``from``, as a role of chat messages."""

Messages = list[dict[str, Any]]


def as_demonstration(row: Row) -> Row:
    """With ``messages`` that end with the answer to learn.

    Raises:
        DataError: a conversation that cannot be read, or an Alpaca row without ``output``.
    """
    if _is_sharegpt(row):
        messages = _conversation(row)
        if messages[-1]["role"] != "assistant":
            raise DataError(f"{row.origin}: 'conversations' must end with the assistant's answer (from 'gpt')")
        return _with(row, messages=messages)
    if _is_alpaca(row):
        answer = row.columns.get("output")
        if not isinstance(answer, str) or not answer:
            raise DataError(f"{row.origin}: 'instruction' without an 'output' to learn: {answer!r}")
        return _with(row, messages=[*_instruction(row), {"role": "assistant", "content": answer}])
    return row


def as_prompt(row: Row) -> Row:
    """With ``prompt``. The assistant's last message of a conversation is what the policy is to write itself, so it is
    not of the prompt; the row's own columns stay beside it, for the reward.

    Raises:
        DataError: a conversation that cannot be read, or in which nobody asks.
    """
    if _is_sharegpt(row):
        messages = _conversation(row)
        asked = messages[:-1] if messages[-1]["role"] == "assistant" else messages
        if not asked:
            raise DataError(f"{row.origin}: 'conversations' begins and ends with the assistant; nobody asks")
        return _with(row, prompt=asked)
    return _with(row, prompt=_instruction(row)) if _is_alpaca(row) else row


def as_preference(row: Row) -> Row:
    """With ``prompt``, ``chosen`` and ``rejected``: messages where they are ShareGPT's; and an Alpaca row's ``output``
    may be the two of them.

    Raises:
        DataError: a conversation that cannot be read.
    """
    if _is_sharegpt(row):
        row = _with(row, prompt=_conversation(row))
    elif _is_alpaca(row):
        both = row.columns.get("output")
        row = _with(row, prompt=_instruction(row))
        if "chosen" not in row.columns and isinstance(both, list | tuple) and len(both) == 2:
            row = _with(row, chosen=both[0], rejected=both[1])
    turns = {name: _turns(row, name) for name in ("chosen", "rejected") if _speaks(row.columns.get(name))}
    return _with(row, **turns) if turns else row


def _is_sharegpt(row: Row) -> bool:
    return row.columns.get("conversations") is not None and not {"messages", "prompt"} & row.columns.keys()


def _is_alpaca(row: Row) -> bool:
    own = {"messages", "prompt", "conversations"}
    return row.columns.get("instruction") is not None and not own & row.columns.keys()


def _with(row: Row, **columns: Any) -> Row:
    return Row(row.columns | columns, row.origin)


def _speaks(value: Any) -> bool:
    """Whether it is a message of ShareGPT's, or a list of them."""
    first = value[0] if isinstance(value, list) and value else value
    return isinstance(first, Mapping) and "from" in first


def _conversation(row: Row) -> Messages:
    turns = _turns(row, "conversations")
    return turns if turns[0]["role"] == "system" else _system(row) + turns


def _turns(row: Row, name: str) -> Messages:
    turns = row.columns[name]
    turns = [turns] if isinstance(turns, Mapping) else turns
    if not isinstance(turns, list | tuple) or not turns:
        raise DataError(f"{row.origin}: column {name!r} must be a list of {{'from', 'value'}}, not {str(turns)[:60]!r}")
    return [_message(turn, row, name) for turn in turns]


def _message(turn: Any, row: Row, name: str) -> dict[str, Any]:
    who, says = (turn.get("from"), turn.get("value")) if isinstance(turn, Mapping) else (None, None)
    if isinstance(turn, Mapping) and who is None and {"role", "content"} <= turn.keys():
        who, says = turn["role"], turn["content"]
    if who is None or says is None:
        raise DataError(f"{row.origin}: column {name!r} holds {{'from', 'value'}}, not {str(turn)[:60]!r}")
    if who not in ROLES:
        raise DataError(f"{row.origin}: column {name!r} has a turn from {who!r}; kedge knows {', '.join(ROLES)}")
    return {"role": ROLES[who], "content": says}


def _instruction(row: Row) -> Messages:
    """The questions and answers before, and the question."""
    question, context = row.columns["instruction"], row.columns.get("input") or ""
    if not isinstance(question, str) or not isinstance(context, str):
        raise DataError(f"{row.origin}: columns 'instruction' and 'input' must be text")
    asked = "\n".join(part for part in (question, context) if part)
    if not asked:
        raise DataError(f"{row.origin}: column 'instruction' is empty")
    return [*_system(row), *_history(row), {"role": "user", "content": asked}]


def _history(row: Row) -> Messages:
    history = row.columns.get("history") or []
    if not isinstance(history, list | tuple) or not all(
        isinstance(pair, list | tuple) and len(pair) == 2 and all(isinstance(text, str) for text in pair)
        for pair in history
    ):
        raise DataError(f"{row.origin}: column 'history' must be a list of [question, answer]")
    roles = ("user", "assistant")
    return [{"role": role, "content": text} for pair in history for role, text in zip(roles, pair, strict=True)]


def _system(row: Row) -> Messages:
    told = row.columns.get("system")
    if told is not None and not isinstance(told, str):
        raise DataError(f"{row.origin}: column 'system' must be text")
    return [{"role": "system", "content": told}] if told else []
