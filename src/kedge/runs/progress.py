"""How far a job is, live in the terminal, with the numbers to watch; and the one place to say something meanwhile."""

import sys
from collections.abc import Iterable, Sequence

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from kedge.parallel import join

# Seconds that count for the speed: all of them. A step may be longer than any window.
WINDOW = 1e9


def say(message: str) -> None:
    """A line for the user, on stderr, above the bar where there is one; of several processes the first one speaks."""
    if join().leads:
        print(message, file=sys.stderr, flush=True)  # looked up now: a live bar stands in for stderr


class ProgressBar:
    """The bar of one job with time left, numbers at its end, and lines under it. Silent when not ``enabled``.

    Where there is no terminal, the bar appears once, at the end.
    """

    def __init__(self, label: str, total: int, *, enabled: bool = True, start: int = 0) -> None:
        self._progress = _Progress(
            TextColumn("[bold]{task.description:<14}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[numbers]}"),
            console=Console(stderr=True),
            disable=not enabled,
            speed_estimate_period=WINDOW,
            refresh_per_second=4,
        )
        self._task = self._progress.add_task(label, total=total, completed=start, numbers="")

    def __enter__(self) -> "ProgressBar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def advance(self, *lines: str, by: int = 1, **numbers: float) -> None:
        """``by`` steps done; show these numbers at the end of the bar, and these lines under it (in a terminal)."""
        shown = "  ".join(f"{name} {value:.3g}" for name, value in numbers.items())
        self._progress.lines = lines
        self._progress.update(self._task, advance=by, numbers=shown)

    def say(self, message: str) -> None:
        """A line for the user, above the bar."""
        say(message)


class _Progress(Progress):
    lines: Sequence[str] = ()

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        for line in self.lines:
            if self.console.is_terminal:  # a file gets the finished bar, and that is all
                yield Text(line, style="dim", no_wrap=True, overflow="ellipsis")
