"""What came of a task, for the terminal."""

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from kedge.data.records import plain
from kedge.tasks.measuring import Interval
from kedge.tasks.running import Result
from kedge.tasks.task import Task

LONGEST = 400
"""Characters of a prompt or an answer that are shown."""


def result_table(task: Task, result: Result) -> Group:
    """What each side's answers are worth, a column a side; what the field compares by comes first."""
    table = Table(title=task.name, title_justify="left", header_style="bold", box=SIMPLE_HEAD, padding=(0, 1))
    seeds = max(len(side.answers) for side in result.sides.values())
    primary = task.primary_metric.removeprefix("-")
    better = "less is better" if task.primary_metric.startswith("-") else "more is better"
    count = f"{_many(len(result.rows), 'row')} never trained on, {_many(seeds, 'seed')}"
    about = f"{count}; 95% intervals over rows; compared by {primary}: {better}"
    table.add_column("")
    for side in result.measures:
        table.add_column(side, justify="right")
    every = [name for found in result.measures.values() for name in found]
    for name in dict.fromkeys([primary, *every]):
        if name in every:
            table.add_row(name, *(_said(found.get(name)) for found in result.measures.values()))
    return Group(table, Text(about, style="italic dim"))  # a caption would be as narrow as the table


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def result_examples(task: Task, result: Result, count: int) -> Group:
    """The first rows, with what each side answered."""
    panels = []
    for number, row in enumerate(result.rows[:count]):
        body = Text(_short(plain(task.prompt(row))), style="italic")
        expected = task.demonstration(row)
        for label, text in (
            *((name, side.answers[0][number]) for name, side in result.sides.items()),
            *((("expected", expected),) if expected is not None else ()),
        ):
            body.append(f"\n{label:10}", style="bold not italic")
            body.append(_short(text.strip()).replace("\n", f"\n{'':10}"), style="not italic")
        panels.append(Panel(body, border_style="dim"))
    return Group(*panels)


def _said(each: Interval | None) -> str:
    return "" if each is None else f"{each.value:.3f}\n[{each.low:.3f}, {each.high:.3f}]"


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
