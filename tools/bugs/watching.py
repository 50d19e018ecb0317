"""Bugs in what a person sees of a run."""

from bugs.mutant import Mutant

TRACKERS = ("tests/runs/test_trackers.py",)

WATCHING = [
    Mutant(
        "tracked-twice",
        "runs/trackers.py",
        "purge_step=since",
        "purge_step=None",
        TRACKERS,
        "a resumed run's steps stand in TensorBoard twice",
    ),
    Mutant(
        "purged-too-far",
        "runs/trackers.py",
        '            if row["step"] >= since:',
        '            if row["step"] > since:',
        TRACKERS,
        "where the last evaluation is done again, TensorBoard loses the last step",
    ),
    Mutant(
        "superseded-stays",
        "runs/trackers.py",
        "for superseded in before if self._run.offline else ():",
        "for superseded in ():",
        TRACKERS,
        "two offline files of Weights & Biases hold the same steps",
    ),
    Mutant(
        "another-run",
        "runs/trackers.py",
        'id=remembered.read_text(encoding="utf-8")',
        "id=None",
        TRACKERS,
        "a resumed run is another run at Weights & Biases",
    ),
    Mutant(
        "left-open",
        "runs/folder.py",
        "            run.close()\n        raise",
        "            pass\n        raise",
        ("tests/training/test_watching.py",),
        "a run that is broken off holds its tracker, and cannot be taken up in the same process",
    ),
    Mutant(
        "no-time-left",
        "runs/progress.py",
        "speed_estimate_period=WINDOW",
        "speed_estimate_period=30.0",
        ("tests/runs/test_progress.py",),
        "no time left is shown where a step takes longer than half a minute",
    ),
    Mutant(
        "past-the-bar",
        "runs/progress.py",
        "print(message, file=sys.stderr, flush=True)",
        "Console(stderr=True).print(message)",
        ("tests/runs/test_progress.py",),
        "messages go into the live view instead of above it",
    ),
]
