"""A file of texts, scored by a reward model."""

import statistics
from collections.abc import Sequence
from typing import Any

from kedge.data.files import Row
from kedge.data.records import demonstrations, plain, preferences
from kedge.evaluation.metrics import wilson_interval
from kedge.evaluation.trust.calibration import correlation, right
from kedge.models.reward_model import RewardModel


def score_rows(model: RewardModel, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """What there is to say of each row: ``score`` of a ``text``, of ``messages``, or of ``prompt`` + ``completion``,
    and each objective of a model that learnt several; ``chosen_score``, ``rejected_score`` and ``margin`` of a pair.

    Raises:
        DataError: rows with none of these.
    """
    if "chosen" in rows[0].columns:
        pairs = preferences(rows)
        sides = [([getattr(pair, side) for pair in pairs], _answers(rows, side)) for side in ("chosen", "rejected")]
        chosen, rejected = (model.score(texts, answers) for texts, answers in sides)
        return [
            {"chosen_score": a, "rejected_score": b, "margin": a - b} for a, b in zip(chosen, rejected, strict=True)
        ]
    answered = demonstrations(rows)
    answers = [row.completion if isinstance(row.completion, str) else row.completion[-1]["content"] for row in answered]
    outputs = model.run_texts([row.whole for row in answered], answers)
    columns = {"score": model.reading.score(outputs), **model.reading.several(outputs)}
    lists = [column.tolist() for column in columns.values()]
    return [dict(zip(columns, values, strict=True)) for values in zip(*lists, strict=True)]


def _answers(rows: Sequence[Row], side: str) -> list[str] | None:
    """What is judged of pairs whose prompts stand apart; None where they are whole."""
    apart = all(isinstance(row.columns.get("prompt"), str) and isinstance(row.columns[side], str) for row in rows)
    return [row.columns[side] for row in rows] if apart else None


def summed_up(rows: Sequence[Row], found: Sequence[dict[str, Any]]) -> dict[str, str]:
    """The scores of a file in a few lines."""
    told = {"rows": f"{len(found):,}"}
    if "margin" in found[0]:
        margins = [row["margin"] for row in found]
        hits = sum(map(right, margins))
        low, high = wilson_interval(hits, len(margins))
        told["accuracy"] = f"{hits / len(margins):.1%} (95% interval {low:.1%} to {high:.1%})"
        told["margin"] = f"{statistics.fmean(margins):.3f}, spread {statistics.pstdev(margins):.3f}"
        return told
    scores = [row["score"] for row in found]
    lengths = [float(len(plain(row.whole))) for row in demonstrations(rows)]
    told["score"] = f"{statistics.fmean(scores):.3f}, spread {statistics.pstdev(scores):.3f}"
    told["lowest and highest"] = f"{min(scores):.3f}, {max(scores):.3f}"
    return told | {"correlation with length": f"{correlation(scores, lengths):+.2f}"}
