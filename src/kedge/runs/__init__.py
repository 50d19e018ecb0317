"""Runs as things one can write, read, list and compare, while they run and afterwards; and who looks on."""

from typing import TYPE_CHECKING

from kedge.lazy import lazily

if TYPE_CHECKING:
    from kedge.runs.callbacks import Callback
    from kedge.runs.folder import RunFolder
    from kedge.runs.run import Run, open_run, run_of, runs_in

__all__ = ["Callback", "Run", "RunFolder", "open_run", "run_of", "runs_in"]

_HOMES = {
    "Callback": "kedge.runs.callbacks",
    "Run": "kedge.runs.run",
    "RunFolder": "kedge.runs.folder",
    "open_run": "kedge.runs.run",
    "run_of": "kedge.runs.run",
    "runs_in": "kedge.runs.run",
}

__getattr__, __dir__ = lazily(__name__, _HOMES)
