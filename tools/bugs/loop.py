"""Bugs in the loop that trainers share, and in what reads a run."""

from bugs.mutant import Mutant

LOOP, RUN, COMPARE = "training/loop.py", "runs/run.py", "runs/compare.py"
CALLBACKS, READ = ("tests/training/test_callbacks.py",), ("tests/runs/test_runs.py", "tests/training/test_open_run.py")
LOOP_BUGS = [
    Mutant(
        "callbacks-cannot-end-it",
        LOOP,
        "going_on = self._tell(metrics, evaluation)",
        "self._tell(metrics, evaluation)",
        CALLBACKS,
        "False from a callback is not heeded",
    ),
    Mutant(
        "callbacks-by-evaluations-cannot-end-it",
        LOOP,
        "                answers += [callback.on_evaluation(self, evaluation) for callback in self.callbacks]",
        "                [callback.on_evaluation(self, evaluation) for callback in self.callbacks]",
        CALLBACKS,
        "one that waits for a held-out score waits in vain",
    ),
    Mutant(
        "callbacks-are-not-told-of-checkpoints",
        "training/keeping.py",
        "        self.told(writing.target)\n",
        "",
        CALLBACKS,
        "what is to be done with a checkpoint is not",
    ),
    Mutant(
        "callbacks-end-it-for-good",
        LOOP,
        """happen on the way.\"\"\"
        self._ended = None
""",
        """happen on the way.\"\"\"
""",
        CALLBACKS,
        "a training that went on after a callback ended it is summed up by the evaluation of then",
    ),
    Mutant(
        "last-evaluation-is-not-written",
        LOOP,
        "begins_or_ends = self.step_done in (0, self.total_steps) or self._ended is not None",
        "begins_or_ends = self.step_done == 0",
        ("tests/training/test_ppo.py", "tests/training/test_sft.py"),
        "the curve of a run has no end",
    ),
    Mutant(
        "run-that-runs-is-stopped",
        "storage/locking.py",
        "    if lock.is_locked:\n        return True\n",
        "",
        READ,
        "a run looks stopped to the process that trains it",
    ),
    Mutant(
        "half-a-line-is-read",
        RUN,
        '.split(b"\\n")[:-1] if',
        '.split(b"\\n") if',
        READ,
        "a run cannot be watched while it writes",
    ),
    Mutant(
        "steps-without-a-metric-are-closed-up",
        RUN,
        "[row.get(name) for row in rows] for name",
        "[row[name] for row in rows if name in row] for name",
        READ,
        "columns do not line up with their steps",
    ),
    Mutant(
        "runs-differ-by-their-names",
        COMPARE,
        'name.rpartition(".")[2] not in SAME_FOR_NONE and ',
        "",
        READ,
        "every comparison begins with where the runs stand",
    ),
    Mutant(
        "a-metric-that-ended-early-has-no-last",
        COMPARE,
        "next((value for value in reversed(column) if value is not None), None)",
        "column[-1] if column else None",
        READ,
        "evaluations are not compared where the last step has none",
    ),
]
