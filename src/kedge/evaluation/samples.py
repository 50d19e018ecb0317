"""Answers as lines of samples.jsonl, to read."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kedge.data.records import Prompt
from kedge.sampling.completion import Completion


def sample_rows(
    prompts: Sequence[Prompt],
    completions: Sequence[Completion],
    scores: Mapping[str, Sequence[float]],
    divergence: Sequence[float] | None,
    *,
    count: int | None = None,
    remarks: Mapping[str, Sequence[str]] | None = None,
) -> Iterator[dict[str, Any]]:
    """The first ``count`` answers (default all), each with its scores and the remarks on them, its sequence KL and why
    it ended."""
    for i, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        if i == count:
            return
        row: dict[str, Any] = {
            "prompt": prompt.text,
            "completion": completion.text,
            "scores": {name: _number(values[i]) for name, values in scores.items()},
        }
        if said := {name: texts[i] for name, texts in (remarks or {}).items() if texts[i]}:
            row["remarks"] = said
        if divergence is not None:
            row["kl"] = round(divergence[i], 5)
        yield row | {"finish_reason": completion.finish_reason}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 5)
