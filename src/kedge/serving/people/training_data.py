"""What training reads of feedback: preferences, demonstrations, ratings; and rows for other tools."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
"""Of :meth:`kedge.serving.people.store.Store.rows`."""


def preferences(rows: Iterable[Row]) -> Iterator[dict[str, Any]]:
    """``prompt``, ``chosen``, ``rejected``, and the numbers of the ``feedback`` that each comes from.

    Which of two; a correction before what it corrects; and of answers to one prompt each that was liked before each
    that was not. Of a named annotator's thumbs on one answer the last one counts. What the guard kept from people
    counts only where a reviewer has seen it.
    """
    rows = [*rows]
    last = {
        (row["answer"], row["annotator"]): row["number"]
        for row in rows
        if row["thumb"] is not None and row["annotator"] is not None and _was_seen(row)
    }
    liked: dict[str, list[Row]] = defaultdict(list)
    disliked: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if not _was_seen(row):
            continue
        if row["worse"] is not None and row["worse_told"] is None:
            yield _pair(row["answer_prompt"], row["answer_text"], row["worse_text"], [row])
        if row["correction"] is not None:
            yield _pair(row["answer_prompt"], row["correction"], row["answer_text"], [row])
        place = row["answer"], row["annotator"]
        if row["thumb"] is not None and last.get(place, row["number"]) == row["number"]:
            (liked if row["thumb"] else disliked)[json.dumps(row["answer_prompt"], sort_keys=True)].append(row)
    for prompt, good in liked.items():
        for better in good:
            for worse in disliked.get(prompt, ()):
                if better["answer_text"] != worse["answer_text"]:
                    yield _pair(better["answer_prompt"], better["answer_text"], worse["answer_text"], [better, worse])


def demonstrations(rows: Iterable[Row]) -> Iterator[dict[str, Any]]:
    """``prompt``, ``completion``: corrected answers, as they should have been."""
    for row in rows:
        if row["correction"] is not None:
            yield {
                "prompt": row["answer_prompt"], "completion": _said(row["answer_prompt"], row["correction"]),
                "feedback": [row["number"]],
            }  # fmt: skip


def ratings(rows: Iterable[Row]) -> Iterator[dict[str, Any]]:
    """``prompt``, ``completion``, ``score``: of answers that were given one."""
    for row in rows:
        if row["score"] is not None and _was_seen(row):
            yield {
                "prompt": row["answer_prompt"], "completion": _said(row["answer_prompt"], row["answer_text"]),
                "score": row["score"], "feedback": [row["number"]],
            }  # fmt: skip


def everything(rows: Iterable[Row]) -> Iterator[dict[str, Any]]:
    """All there is, a line for each feedback."""
    return (dict(row) for row in rows)


def argilla(rows: Iterable[Row]) -> Iterator[dict[str, Any]]:
    """Argilla's records of a preference: two responses side by side, and which one was chosen."""
    for pair in preferences(rows):
        yield {
            "fields": {
                "prompt": _flat(pair["prompt"]),
                "response1": _flat(pair["chosen"]),
                "response2": _flat(pair["rejected"]),
            },
            "responses": [{"values": {"preference": {"value": "response1"}}, "status": "submitted"}],
            "metadata": {"feedback": pair["feedback"]},
        }  # fmt: skip


def label_studio(rows: Iterable[Row]) -> Iterator[dict[str, Any]]:
    """Label Studio's tasks of its template for pairwise comparison."""
    for pair in preferences(rows):
        yield {
            "data": {
                "prompt": _flat(pair["prompt"]), "answer1": _flat(pair["chosen"]), "answer2": _flat(pair["rejected"])
            },
            "annotations": [
                {"result": [
                    {"from_name": "comparison", "to_name": "answer1,answer2", "type": "pairwise",
                     "value": {"selected": "left"}}
                ]}
            ],
            "meta": {"feedback": pair["feedback"]},
        }  # fmt: skip


FORMS: Mapping[str, Callable[[Iterable[Row]], Iterator[dict[str, Any]]]] = {
    "preferences": preferences,
    "demonstrations": demonstrations,
    "ratings": ratings,
    "everything": everything,
    "argilla": argilla,
    "label-studio": label_studio,
}


def _was_seen(row: Row) -> bool:
    """Whether whoever said it had the answer before them as the model wrote it, and not what the guard made of it."""
    return row["answer_told"] is None or bool(row["review"])


def _pair(prompt: Any, chosen: str, rejected: str, rows: Sequence[Row]) -> dict[str, Any]:
    return {
        "prompt": prompt, "chosen": _said(prompt, chosen), "rejected": _said(prompt, rejected),
        "feedback": [row["number"] for row in rows],
    }  # fmt: skip


def _said(prompt: Any, answer: str) -> Any:
    """An answer in the form of its prompt."""
    return answer if isinstance(prompt, str) else [{"role": "assistant", "content": answer}]


def _flat(text: Any) -> str:
    """Messages as one text, for tools that have no others."""
    if isinstance(text, str):
        return text
    if len(text) == 1:
        return str(text[0]["content"])
    return "\n".join(f"{message['role']}: {message['content']}" for message in text)
