"""Runs in the terminal: one a line, or beside each other."""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from kedge.runs.compare import Line

STATES = {"done": "done", "running": "[green]running[/]", "stopped": "[yellow]stopped[/]"}


def list_table(lines: Sequence[Line], names: Sequence[str]) -> Table:
    """A run a line, under these names."""
    table = Table(header_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("run", overflow="fold", min_width=12)
    for heading in ("stage", "state"):
        table.add_column(heading, no_wrap=True)
    table.add_column("step", justify="right", no_wrap=True)
    table.add_column("metric", overflow="ellipsis", no_wrap=True, min_width=5)
    table.add_column("first -> last", justify="right", no_wrap=True)
    table.add_column("written", no_wrap=True)
    for line, name in zip(lines, names, strict=True):
        went = f"{number(line.first)} -> {number(line.last)}" if line.metric else "–"
        about = escape((line.metric or "").rpartition("/")[2])
        written = f"{line.written:%H:%M}" if line.written.date() == date.today() else f"{line.written:%m-%d}"
        table.add_row(escape(name), line.stage, STATES[line.state], f"{line.step:,}", about, went, written)
    return table


def side_by_side(values: Mapping[str, Sequence[Any]], runs: Sequence[str], *, title: str) -> Table:
    """A row a name, a column a run."""
    table = Table(title=title, title_justify="left", header_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("", overflow="fold")
    for run in runs:
        table.add_column(escape(run), justify="right", overflow="fold")
    for name, each in values.items():
        table.add_row(escape(name), *(number(value) for value in each))
    return table


def number(value: Any) -> str:
    """As a person reads it; a dash where there is none."""
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else escape(str(value))
