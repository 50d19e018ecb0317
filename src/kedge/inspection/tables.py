"""Summaries as tables, and answers side by side, for the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from kedge.data.records import plain
from kedge.evaluation.evaluate import Comparison
from kedge.inspection.doctor import Finding

EXPLAINED = {
    "kl": "KL from before, nats an answer",
    "length": "length, tokens",
    "ended_by_eos": "ended by itself",
    "distinct_1": "distinct words",
    "distinct_2": "distinct word pairs",
}
SHARES = ("ended_by_eos", "distinct_1", "distinct_2")


def prompts_caption(trained_on: Mapping[str, int]) -> str:
    """What may be said of an evaluation's prompts. ``trained_on``: ``{run: how many of them}``, where that is known."""
    seen = [f"{count} of them trained on by {run}" for run, count in trained_on.items() if count]
    unseen = [run for run, count in trained_on.items() if not count]
    said = [*seen, *([f"none trained on by {' or '.join(unseen)}"] if unseen else [])]
    return "prompts" + (f" ({'; '.join(said)})" if said else "")


def comparison_table(summary: Mapping[str, Any], *, title: str, prompts: str = "prompts never trained on") -> Table:
    """Before, after and win rates of :meth:`Comparison.summary` (or of a run's summary.json)."""
    table = Table(title=title, title_justify="left", caption_justify="left", header_style="bold")
    table.caption = f"{summary['eval_prompts']} {prompts}; win rate with its 95% interval"
    table.add_column("")
    for heading in ("before", "after", "win rate"):
        table.add_column(heading, justify="right")
    for name in {**summary["after"], **summary["before"]}:  # a judge may have abstained from either
        after = summary["after"].get(name)
        if after == summary["before"].get(name) == 0 and isinstance(after, int):
            continue  # failures counted, and there were none
        rate = summary["win_rate"].get(name)
        shown = "" if rate is None else f"{rate['rate']:.1%}  [{rate['low']:.1%}, {rate['high']:.1%}]"
        table.add_row(
            EXPLAINED.get(name, escape(name)), _number(name, summary["before"].get(name)), _number(name, after), shown
        )
    return table


def held_out_table(summary: Mapping[str, Any], *, title: str) -> Table:
    """Before and after of a supervised job's summary."""
    table = Table(title=title, title_justify="left", header_style="bold")
    table.add_column("held out")
    for heading in ("before", "after"):
        table.add_column(heading, justify="right")
    for name, after in summary["after"].items():
        table.add_row(name, _number(name, summary["before"].get(name)), _number(name, after))
    return table


def trust_table(rows: Sequence[tuple[str, str, str]], *, title: str) -> Table:
    """What a trust report says: ``(what, how much, how to read it)``."""
    table = Table(title=escape(title), title_justify="left", header_style="bold", show_header=False)
    for name, value, reading in rows:
        table.add_row(name, value, escape(reading))
    return table


MARKS = {"pass": "[green]pass[/]", "warn": "[yellow]warn[/]", "fail": "[bold red]fail[/]", "skip": "[dim]skip[/]"}


def findings_table(findings: Sequence[Finding], *, title: str) -> Table:
    """The doctor's findings, each with its remedy."""
    table = Table(title=title, title_justify="left", header_style="bold", show_lines=True)
    for heading in ("check", "", "found, and what to do"):
        table.add_column(heading, overflow="fold")
    for finding in findings:
        said = escape(finding.found) + (f"\n[italic]{escape(finding.remedy)}[/]" if finding.remedy else "")
        table.add_row(finding.check, MARKS[finding.status], said)
    return table


def examples(comparison: Comparison, count: int, *, judge: str) -> Group:
    """The first ``count`` prompts with the answer before and after, and what ``judge`` thinks of each."""
    panels = []
    for i, prompt in enumerate(comparison.after.prompts[:count]):
        body = Text(plain(prompt.text), style="italic")
        for label, evaluation in (("before", comparison.before), ("after", comparison.after)):
            score = evaluation.scores[judge][i]
            body.append(f"\n{label}", style="bold not italic")
            body.append(f" ({judge} {score:.2f})  ", style="dim not italic")
            body.append(evaluation.completions[i].text.strip(), style="not italic")
        panels.append(Panel(body, border_style="dim"))
    return Group(*panels)


def curve_table(rows: Sequence[Mapping[str, float]], columns: Mapping[str, str], *, title: str) -> Table:
    """Evaluations along a run: a line each. ``columns``: ``{heading: metric}``."""
    table = Table(title=title, title_justify="left", header_style="bold")
    for heading in columns:
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(*(_number(metric, row.get(metric)) for metric in columns.values()))
    return table


def _number(name: str, value: float | None) -> str:
    if value is None:
        return "–"
    if name == "step" or isinstance(value, int):
        return str(int(value))
    return f"{value:.0%}" if name in SHARES else f"{value:.3f}"
