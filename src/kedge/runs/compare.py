"""Runs beside each other: what they are, what they were told differently, what came of it."""

import os
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from kedge.config.settings import nearest
from kedge.errors import ConfigError
from kedge.runs.run import Run

HEADLINES = {
    "ppo": ("eval/score", "objective/scores"),
    "reward": ("eval/accuracy",),
    "sft": ("eval/loss", "loss"),
    "control": ("return",),
}
"""What a run of each stage is about: the first of these that was measured."""

PRICES = {"ppo": ("eval/kl", "objective/kl", "policy/entropy_avg", "completions/mean_length")}
"""What a headline is paid with."""

CLOCKS = ("time/", "throughput/")
"""How the names of metrics begin that say how fast it went."""

SAME_FOR_NONE = ("name", "run")
"""Settings that say where a run stands and not what it does."""


@dataclass(frozen=True)
class Line:
    """One run in a list."""

    run: str
    stage: str
    state: str
    step: int
    metric: str | None
    first: float | None
    last: float | None
    written: datetime
    """When its files were last written, local time."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"written": self.written.isoformat(timespec="seconds")}


def line_of(run: Run) -> Line:
    """A run in a list: how far it is, and its headline at the beginning and last."""
    rows, stage = run.rows, run.stage
    metric = next((name for name in HEADLINES.get(stage, ()) if any(row.get(name) is not None for row in rows)), None)
    values = [row[metric] for row in rows if row.get(metric) is not None] if metric else []
    first, last = (values[0], values[-1]) if values else (None, None)
    if stage == "evaluate" and (summary := run.summary):
        metric, first, last = "score", summary["before"].get("score"), summary["after"].get("score")
    files = [run.path / name for name in ("metrics.jsonl", "summary.json", "recipe.toml")]
    latest = max(file.stat().st_mtime for file in files if file.is_file())
    return Line(
        run=str(run.path),
        stage=stage,
        state=run.state,
        step=int(rows[-1]["step"]) if rows else 0,
        metric=metric,
        first=first,
        last=last,
        written=datetime.fromtimestamp(latest),
    )


@dataclass(frozen=True)
class Compared:
    """Runs beside each other; every list has one entry a run."""

    names: list[str]
    """Their folders, without what they all begin with."""
    settings: dict[str, list[Any]]
    """Those that differ."""
    metrics: dict[str, list[float | None]]
    """Last numbers."""


def compare(runs: Sequence[Run], metrics: Sequence[str] = ()) -> Compared:
    """What runs were told differently, and what came of it.

    Args:
        runs: two or more.
        metrics: only these; default all but clocks.

    Raises:
        ConfigError: a metric that no run has.
    """
    last = last_metrics(runs)
    refuse_unknown(metrics, last)
    shown = metrics or [name for name in last if not name.startswith(CLOCKS)]
    return Compared(names_of(runs), differences(runs), {name: last[name] for name in shown})


def names_of(runs: Sequence[Run]) -> list[str]:
    """The runs' folders without what they all begin with."""
    paths = [run.path.absolute() for run in runs]
    above = Path(os.path.commonpath([path.parent for path in paths]))
    return [str(path.relative_to(above)) for path in paths]


def refuse_unknown(metrics: Sequence[str], there: Collection[str]) -> None:
    """Raise for a metric that no run has.

    Raises:
        ConfigError: with those there are.
    """
    for name in metrics:
        if name not in there:
            raise ConfigError(f"{name}: no run has that metric; {nearest(name, list(there))}")


def differences(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """``{"ppo.kl_coef": [0.05, 0.1]}``: settings that are not the same in all runs, of tables that they all have; None
    where a run has none."""
    shared = set.intersection(*({name for name in run.recipe if name != "name"} for run in runs))
    settings = [{name: value for name, value in run.settings.items() if name.split(".")[0] in shared} for run in runs]
    names = dict.fromkeys(name for each in settings for name in each)
    values = {name: [each.get(name) for each in settings] for name in names}
    return {
        name: each
        for name, each in values.items()
        if name.rpartition(".")[2] not in SAME_FOR_NONE and any(value != each[0] for value in each)
    }


def last_metrics(runs: Sequence[Run]) -> dict[str, list[float | None]]:
    """``{"eval/score": [0.8, 0.9]}``: every metric's last number, held-out ones first; None where a run has none."""
    columns = [run.metrics for run in runs]
    names = sorted(dict.fromkeys(name for each in columns for name in each), key=lambda name: name[:5] != "eval/")
    last = {name: [_last(each.get(name, [])) for each in columns] for name in names if name != "step"}
    return {name: values for name, values in last.items() if values != [None] * len(runs)}


def _last(column: Sequence[float | None]) -> float | None:
    return next((value for value in reversed(column) if value is not None), None)


def to_draw(runs: Sequence[Run], metrics: Sequence[str] = ()) -> list[str]:
    """The metrics to draw: those asked for, or what the runs are about and, for PPO, at what price.

    Raises:
        ConfigError: a metric that no run has, or nothing to draw.
    """
    there = last_metrics(runs)
    refuse_unknown(metrics, there)
    usual = [name for run in runs for name in (*HEADLINES.get(run.stage, ()), *PRICES.get(run.stage, ()))]
    drawn = list(metrics) or [name for name in dict.fromkeys(usual) if name in there]
    if not drawn:
        raise ConfigError("nothing to draw: none of these runs has measured anything")
    return drawn
