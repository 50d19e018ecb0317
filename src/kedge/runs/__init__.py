"""Runs as things one can read, list and compare, while they run and afterwards."""

from kedge.runs.run import Run, open_run, run_of, runs_in

__all__ = ["Run", "open_run", "run_of", "runs_in"]
