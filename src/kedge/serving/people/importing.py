"""Feedback from a file, as ``kedge feedback`` or another tool writes it, and into a database: all of it or none."""

import hashlib
import json
import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import JSON, Column, Connection, Float, Integer, String, insert, select

from kedge.data.files import read_rows
from kedge.errors import DataError
from kedge.serving.people.tables import answers, feedback, is_writable

SHOWN = 8
"""Bad rows that a message names."""

SAYS = ("thumb", "score", "worse", "correction", "comment")
"""Columns of feedback, of which a row has at least one."""

CONTENT = ("answer", "created", "annotator", *SAYS)
"""What makes two feedbacks the same one where neither has a key."""

SHAPES = (
    "it is none that is known: everything (answer_id, ...), preferences (prompt, chosen, rejected), ratings (prompt, "
    "completion, score) or thumbs (prompt, completion, label)"
)


def read_feedback(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a file as :meth:`kedge.serving.people.store.Store.rows` has them; ``number`` is the row's own, or its
    place in the file.

    Args:
        path: rows of ``kedge feedback --as everything``; or ``prompt``, ``chosen``, ``rejected``; ``prompt``,
            ``completion``, ``score``; or ``prompt``, ``completion``, ``label`` (1 is good, 0 is not). Texts or
            messages; ``annotator`` and ``comment`` where there are some.

    Raises:
        DataError: no such file, or rows that are none of these; they are named by line.
    """
    found, wrong, alike = [], [], Counter[str]()
    for place, row in enumerate(read_rows(path), 1):
        try:
            found.append(
                _everything(row.columns, place) if "answer_id" in row.columns else _of_others(row.columns, place, alike)
            )
        except ValueError as error:
            wrong.append(f"{row.origin}: {error}")
    if wrong:
        more = f"\nand {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise DataError("\n".join(wrong[:SHOWN]) + more)
    return found


def add(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> int:
    """Write rows of :func:`read_feedback` that are not there yet; returns how many feedbacks that were.

    Raises:
        DataError: an answer of that name is there, and is another one. Nothing has been written then.
    """
    there = {each.id: each.text for each in connection.execute(select(answers.c.id, answers.c.text))}
    said = [dict(each._mapping) for each in connection.execute(select(feedback))]
    keys, contents = {each["key"] for each in said} - {None}, {_content(each) for each in said}
    missing: list[dict[str, Any]] = []
    new: list[dict[str, Any]] = []
    for row in rows:
        for prefix in ("answer_", "worse_") if row["worse"] is not None else ("answer_",):
            answer = {column.name: row[f"{prefix}{column.name}"] for column in answers.c}
            if answer["id"] not in there:
                there[answer["id"]] = answer["text"]
                missing.append(answer)
            elif there[answer["id"]] != answer["text"]:
                raise DataError(f"row {row['number']}: answer {answer['id']!r} is there already, with another text")
        given = {column.name: row[column.name] for column in feedback.c if column.name != "number"}
        if given["key"] in keys or _content(given) in contents:
            continue
        keys |= {given["key"]} - {None}
        contents.add(_content(given))
        new.append(given)
    for table, values in ((answers, missing), (feedback, new)):
        if values:
            connection.execute(insert(table), values)
    return len(new)


def _content(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in CONTENT)


def _everything(row: Mapping[str, Any], place: int) -> dict[str, Any]:
    """A row of ``--as everything``, checked."""
    names = [("answer_", answers), ("", feedback), *([("worse_", answers)] if row.get("worse") is not None else [])]
    found: dict[str, Any] = {f"worse_{column.name}": None for column in answers.c}
    for prefix, table in names:
        for column in table.c:
            found[f"{prefix}{column.name}"] = _fitting(row.get(f"{prefix}{column.name}"), column, prefix)
    found["number"] = place if found["number"] is None else found["number"]
    if found["answer"] != found["answer_id"] or found["worse"] != found["worse_id"]:
        raise ValueError("answer, worse: they name other answers than answer_id and worse_id")
    if found["worse"] is not None and found["worse_prompt"] != found["answer_prompt"]:
        raise ValueError("worse: an answer to another prompt; only answers to the same one are compared")
    if all(found[name] is None for name in SAYS):
        raise ValueError(f"it says nothing; one of {', '.join(SAYS)} is needed")
    if found["thumb"] not in (None, 0, 1):
        raise ValueError(f"thumb: 1 or 0, not {found['thumb']!r}")
    _text_or_messages(found["answer_prompt"], "answer_prompt", tokens=True)
    return found


def _fitting(value: Any, column: Column[Any], prefix: str) -> Any:
    name, kind = f"{prefix}{column.name}", column.type
    if value is None:
        if not column.nullable and column is not feedback.c.number:
            raise ValueError(f"{name}: missing")
        return None
    if isinstance(kind, JSON):
        if not isinstance(value, str | list | dict):
            raise ValueError(f"{name}: a text, a list or an object, not {value!r}")
    elif isinstance(kind, String):  # Text is one
        _writable(value, name)
        if kind.length is not None and len(value) > kind.length:
            raise ValueError(f"{name}: at most {kind.length} characters")
    elif isinstance(kind, Integer) and (not isinstance(value, int) or isinstance(value, bool)):
        raise ValueError(f"{name}: a whole number, not {value!r}")
    elif isinstance(kind, Float):
        _number(value, name)
    return value


def _of_others(row: Mapping[str, Any], place: int, alike: Counter[str]) -> dict[str, Any]:
    """A preference, rating or thumb: answers of nobody's, and feedback with a key that is made of what it says."""
    prompt, better, worse = row.get("prompt"), None, None
    given: dict[str, Any] = {column.name: None for column in feedback.c}
    if row.get("chosen") is not None and row.get("rejected") is not None:
        (prompt, better), (_, worse) = (_parted(prompt, row[name], name) for name in ("chosen", "rejected"))
    elif row.get("completion") is not None and row.get("score") is not None:
        prompt, better = _parted(prompt, row["completion"], "completion")
        given["score"] = float(_number(row["score"], "score"))
    elif row.get("completion") is not None and row.get("label") is not None:
        prompt, better = _parted(prompt, row["completion"], "completion")
        if row["label"] not in (0, 1):
            raise ValueError(f"label: 1 or 0, not {row['label']!r}")
        given["thumb"] = int(row["label"])
    else:
        raise ValueError(SHAPES)
    for name in ("annotator", "comment"):
        if row.get(name) is not None:
            given[name] = _fitting(row[name], feedback.c[name], "")
    digest = _digest([prompt, better, worse, *(given[name] for name in ("score", "thumb", "annotator", "comment"))])
    alike[digest] += 1  # several people may say the same
    given |= {"number": place, "key": f"import:{digest}:{alike[digest]}", "created": time.time()}
    told = dict(_answer(prompt, better, "answer")) | dict(_answer(prompt, worse, "worse"))
    return given | told | {"answer": told["answer_id"], "worse": told["worse_id"]}


def _answer(prompt: Any, text: str | None, role: str) -> Iterator[tuple[str, Any]]:
    """The columns of an answer of which only the text is known; None: of none."""
    known: dict[str, Any] = {} if text is None else {
        "id": f"import-{_digest([prompt, text])[:40]}:0", "created": time.time(), "model": "imported", "version": 0,
        "source": "imported", "prompt": prompt, "prompt_ids": [], "text": text, "ids": [], "logprobs": [],
        "sampling": {}, "finish_reason": "imported",
    }  # fmt: skip
    return ((f"{role}_{column.name}", known.get(column.name)) for column in answers.c)


def _parted(prompt: Any, answer: Any, name: str) -> tuple[Any, str]:
    """A prompt and the text of an answer to it; without a prompt, or with it once more in front, of a conversation."""
    if isinstance(answer, list):
        _text_or_messages(answer, name)
        *before, last = answer
        if last.get("role") != "assistant":
            raise ValueError(f"{name}: ends with a message of {last.get('role')!r}; the assistant's is what is judged")
        if before and prompt not in (None, before):
            raise ValueError(f"{name}: a conversation that does not begin with the prompt")
        prompt, answer = prompt if prompt is not None else before, last["content"]
    if not prompt:
        raise ValueError("prompt: missing")
    _text_or_messages(prompt, "prompt")
    return prompt, _writable(answer, name)


def _text_or_messages(value: Any, name: str, *, tokens: bool = False) -> None:
    if isinstance(value, str):
        _writable(value, name)
        return
    if not isinstance(value, list) or not value:
        raise ValueError(f"{name}: a text, or messages, not {value!r}")
    if tokens and all(isinstance(each, int) for each in value):
        return
    for message in value:
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise ValueError(f"{name}: messages have a role and a content, not {message!r}")
        _writable(message.get("content"), f"{name}.content")


def _writable(text: Any, name: str) -> str:
    if not isinstance(text, str):
        raise ValueError(f"{name}: a text, not {text!r}")
    if not is_writable(text):
        raise ValueError(f"{name}: has characters that cannot be written down")
    return text


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name}: a number, not {value!r}")
    return value


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
