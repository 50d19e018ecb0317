"""What a round is made from, written down: once, before anything is trained on it."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kedge.config.settings import write_recipe
from kedge.data.files import read_rows
from kedge.errors import DataError
from kedge.recipes.loop_table import LoopRecipe
from kedge.serving.loop.heard import Heard, is_words
from kedge.storage.writing import strict_json, write_text

RECIPE, ANCHORS, MADE_FROM = "recipe.toml", "anchors.toml", "made_from.json"

ANSWERS = ("chosen", "rejected", "completion", "messages", "label", "score", "feedback")
"""Columns of anchors that no prompt has."""

Row = Mapping[str, Any]


def write_material(folder: Path, settings: LoopRecipe, said: Heard, *, policy: str, number: int, name: str) -> None:
    """Write a round's data and recipes, ``recipe.toml`` last: where it is, all of it is there.

    Args:
        folder: of the round.
        settings: of the loop.
        said: the feedback so far, that of earlier rounds too.
        policy: the version that was accepted last.
        number: of the round.
        name: of the loop.

    Raises:
        DataError: no preference can be made of the feedback; no prompt is left to train on, or to ask at the gate; or
            anchors without prompts.
    """
    pairs = said.pairs
    if not pairs:
        raise DataError(
            f"loop.feedback: {settings.feedback}: none of its {len(said.rows)} rows makes a preference; those that say "
            "which of two is better, corrections, and thumbs up and down for answers to one prompt do"
        )
    asked = _once({"prompt": prompt} for prompt in said.prompts if is_words(prompt))
    anchors = [] if settings.anchors is None else _anchors(settings.anchors)
    ours, kept_back = _parted(asked, settings.gate.hold_out, "what people asked")
    theirs, theirs_back = _parted(_once(anchors), settings.gate.hold_out, "loop.anchors") if anchors else ([], [])
    # An anchor that has been asked again is still an anchor, and no prompt is trained on by one and held out by both.
    mixed = [{"prompt": row["prompt"]} for row in _some(theirs, len(ours), settings, number)]
    old = [row for row in anchors if row.get("chosen") is not None and row.get("rejected") is not None]
    old_pairs = [{key: row[key] for key in ("prompt", "chosen", "rejected")} for row in old]
    folder.mkdir(parents=True, exist_ok=True)
    told = _lines(said.told())
    write_text(folder / "feedback.jsonl", told)
    write_text(folder / "preferences.jsonl", _lines([*pairs, *_some(old_pairs, len(pairs), settings, number)]))
    write_text(folder / "prompts.jsonl", _lines(_once([*ours, *mixed])))
    write_text(folder / "held-out.jsonl", _lines(kept_back))
    if theirs_back:
        write_text(folder / "anchors-held-out.jsonl", _lines(_without_answers(row) for row in theirs_back))
        anchored = {"name": f"{name}-anchors-{number}", "evaluate": settings.anchors_table(folder, policy=policy)}
        write_recipe(folder / ANCHORS, anchored)
    digest = hashlib.sha256(told.encode()).hexdigest()
    made_from = {"round": number, "policy": policy, "feedback": said.numbers, "sha256": digest}
    write_text(folder / MADE_FROM, strict_json(made_from) + "\n")
    write_recipe(folder / RECIPE, {"name": f"{name}-round-{number}"} | settings.tables(folder, policy=policy))


def _anchors(source: str) -> list[dict[str, Any]]:
    """The anchors' rows, each with its prompt.

    Raises:
        DataError: one has none.
    """
    found = []
    for row in read_rows(source):
        columns, messages = row.columns, row.columns.get("messages")
        if columns.get("prompt") is None and isinstance(messages, list) and len(messages) > 1:
            columns = columns | {"prompt": messages[:-1]}  # a demonstration
        if columns.get("prompt") is None:
            raise DataError(f"loop.anchors: {row.origin}: no column 'prompt'")
        found.append(columns)
    return found


def _parted(rows: Sequence[Row], hold_out: float, what: str) -> tuple[list[Row], list[Row]]:
    """What may be trained on and what is asked at the gate; a prompt is on the same side in every round.

    Raises:
        DataError: one of them is empty.
    """
    sides: tuple[list[Row], list[Row]] = [], []
    for row in rows:
        sides[_drawn(row["prompt"]) < hold_out].append(row)
    if not all(sides):
        missing = "left to train on" if sides[1] else "held out for the gate"
        raise DataError(
            f"{what}: of {len(rows)} different prompts none is {missing} (loop.gate.hold_out = {hold_out}); more "
            "prompts are needed, or another share"
        )
    return sides


def _some(rows: Sequence[Row], beside: int, settings: LoopRecipe, number: int) -> list[Row]:
    """As many anchors as their share wants beside so many others: in each round others of them."""
    share = settings.anchor_share
    wanted = max(1, round(beside * share / (1 - share)))
    return sorted(rows, key=lambda row: _drawn([number, row]))[:wanted]


def _once(rows: Iterable[Row]) -> list[Row]:
    """Each prompt once, where it comes first."""
    return [*{json.dumps(row["prompt"], sort_keys=True): row for row in [*rows][::-1]}.values()][::-1]


def _drawn(content: Any) -> float:
    """A number in [0, 1) that is always the same for the same content."""
    digest = hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64


def _without_answers(row: Row) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in ANSWERS}


def _lines(rows: Iterable[Row]) -> str:
    return "".join(f"{strict_json(row)}\n" for row in rows)
