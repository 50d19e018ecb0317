"""How far a reward model of steps can be trusted: step by step, and whether it finds the first wrong one."""

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from kedge.data.ratings import StepLabels
from kedge.evaluation.metrics import wilson_interval
from kedge.evaluation.trust.calibration import chance
from kedge.evaluation.trust.page import short
from kedge.models.batch import by_token_budget
from kedge.models.reward_model import RewardModel

WORST = 10
BATCH_TOKENS = 16_384


@dataclass(frozen=True)
class StepReport:
    """What is known of a reward model from held-out answers whose steps were labelled."""

    answers: int
    steps: int
    """Of them, with a label."""
    accuracy: float
    """Of steps; a label of 1/2 or more is right."""
    low: float
    """Lower end of its 95% interval."""
    high: float
    usual: float
    """Accuracy of always saying what most steps are."""
    log_loss: float | None
    """Nats a step; None without one."""
    first_error: float
    """Share of answers of which it names the first wrong step, or says rightly that there is none."""
    worst: list[tuple[str, float, float, str]]
    """``(origin, chance, label, step)`` of those it is surest and wrong about."""

    def headline(self) -> dict[str, Any]:
        """What a summary says of it."""
        names = ("accuracy", "low", "high", "usual", "log_loss", "first_error")
        if not self.steps:
            return {"steps": 0}
        return {"steps": self.steps} | {name: round(getattr(self, name), 4) for name in names}


@torch.no_grad()
def step_report(model: RewardModel, held: Sequence[tuple[StepLabels, list[int], Sequence[int]]]) -> StepReport:
    """Measure a reward model.

    Args:
        model: of steps.
        held: answers that it was not trained on, with their tokens and where in them, from behind, each step ends.
    """
    model.model.eval()
    told: list[list[float | None]] = [[] for _ in held]
    fits = [(i, ids[-(model.max_length or len(ids)) :], marks) for i, (_, ids, marks) in enumerate(held)]
    for batch in by_token_budget([len(ids) for _, ids, _ in fits], BATCH_TOKENS):
        rows = [fits[j] for j in batch]
        places = [
            [len(ids) + mark for mark in marks if len(ids) + mark >= 0] or [len(ids) - 1] for _, ids, marks in rows
        ]
        outputs = model.run([ids for _, ids, _ in rows], places).squeeze(-1).cpu()
        for (i, _, marks), part in zip(rows, outputs.split([len(each) for each in places]), strict=True):
            cut_off = sum(len(fits[i][1]) + mark < 0 for mark in marks)
            told[i] = [*[None] * cut_off, *part.tolist()[: len(marks) - cut_off]]
    judged = [
        (record, step, output, label)
        for (record, _, _), outputs_of in zip(held, told, strict=True)
        for step, output, label in zip(record.steps, outputs_of, record.labels, strict=True)
        if label is not None and output is not None
    ]
    if not judged:
        return StepReport(len(held), 0, 0.0, 0.0, 1.0, 1.0, None, 0.0, [])
    right = sum((output > 0) == (label >= 0.5) for _, _, output, label in judged)
    good = sum(label >= 0.5 for *_, label in judged) / len(judged)
    low, high = wilson_interval(right, len(judged))
    wrong = sorted((x for x in judged if (x[2] > 0) != (x[3] >= 0.5)), key=lambda x: -abs(x[2]))[:WORST]
    found = [
        _first(output > 0 for output in known) == _first(label >= 0.5 for label in labels)
        for (record, _, _), outputs_of in zip(held, told, strict=True)
        if len(known := [each for each in outputs_of if each is not None]) == len(outputs_of)
        and len(labels := [each for each in record.labels if each is not None]) == len(outputs_of)
    ]
    return StepReport(
        answers=len(held),
        steps=len(judged),
        accuracy=right / len(judged),
        low=low,
        high=high,
        usual=max(good, 1 - good),
        log_loss=statistics.fmean(_nats(output, label) for *_, output, label in judged),
        first_error=sum(found) / len(found) if found else 0.0,
        worst=[(x.origin, chance(output), label, step) for x, step, output, label in wrong],
    )


def _nats(output: float, label: float) -> float:
    return max(0.0, -output) + math.log1p(math.exp(-abs(output))) + (1 - label) * output


def _first(right: Any) -> int | None:
    """Number of the first step that is not right."""
    return next((i for i, each in enumerate(right) if not each), None)


def rows(report: StepReport) -> list[tuple[str, str, str]]:
    """``(what, how much, how to read it)``."""
    if report.log_loss is None:
        return [("steps", "0", "none has a label and is within the model's positions")]
    verdict = "above" if report.low > report.usual else "no better, as far as this tells, than"
    return [
        (
            "accuracy",
            f"{report.accuracy:.1%}",
            f"of {report.steps:,} steps; 95% interval {report.low:.1%} to {report.high:.1%}; {verdict} always saying "
            f"the same, {report.usual:.1%}",
        ),
        (
            "first error",
            f"{report.first_error:.1%}",
            "of answers: it names the first wrong step, or that there is none",
        ),
        ("log loss", f"{report.log_loss:.3f}", f"nats a step; a coin has {math.log(2):.3f}"),
    ]


def write_step_report(report: StepReport, folder: Path) -> None:
    """``trust.json`` and ``trust.md`` into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(asdict(report), indent=2, ensure_ascii=False)
    (folder / "trust.json").write_text(text + "\n", encoding="utf-8")
    lines = [f"# Trust report: {report.answers:,} held-out answers, step by step", "", "| | | |", "| --- | --- | --- |"]
    lines += [f"| {what} | {much} | {how} |" for what, much, how in rows(report)]
    lines += ["", "## Surest and wrong", ""] if report.worst else []
    lines += [
        f"- {origin}: {odds:.0%} right, raters {label:g}: `{short(step)}`" for origin, odds, label, step in report.worst
    ]
    (folder / "trust.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
