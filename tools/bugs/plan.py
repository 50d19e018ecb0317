"""Mistakes by which a plan promises too little or too much."""

from bugs.mutant import Mutant

LEDGER, LEDGER_TESTS = "inspection/ledger.py", ("tests/inspection/test_ledger.py",)
PLAN_TESTS, COMMAND_TESTS = ("tests/inspection/test_plan.py",), ("tests/inspection/test_plan_command.py",)

PLAN = [
    Mutant(
        "plan-keeps-what-is-freed",
        LEDGER,
        "        self._now -= entry.size",
        "        pass",
        LEDGER_TESTS,
        "every tensor there ever was is part of the peak",
    ),
    Mutant(
        "plan-without-gradients",
        "inspection/rehearsal.py",
        "            if rehearsed == [later]:\n                self._with_gradients()",
        "            pass",
        PLAN_TESTS,
        "the second micro-batch finds no gradients of the first",
    ),
    Mutant(
        "plan-before-the-first-step",
        "inspection/ppo_rehearsal.py",
        "        self.settle()\n",
        "",
        PLAN_TESTS,
        "AdamW has no states yet",
    ),
    Mutant(
        "plan-forgets-the-cache",
        "inspection/ppo_rehearsal.py",
        '        return decoder, self.phase(name, seconds, whole=["policy"])',
        '        return None, self.phase(name, seconds, whole=["policy"])',
        PLAN_TESTS,
        "the engine's cache is gone in the update",
    ),
    Mutant(
        "plan-of-an-average-mask",
        LEDGER,
        "index.nonzero(as_tuple=True) if index is not None and index.dtype == torch.bool",
        "torch.ones_like(index).nonzero(as_tuple=True) if index is not None and index.dtype == torch.bool",
        LEDGER_TESTS,
        "a mask chooses everything",
    ),
    Mutant(
        "advice-not-on-top-of-each-other",
        "inspection/plan.py",
        "job.rehearse({**taken, **settings})",
        "job.rehearse(settings)",
        PLAN_TESTS,
        "each change is rehearsed alone and said to come on top",
    ),
    Mutant(
        "refused-for-what-is-not-free-now",
        "recipes/fitting.py",
        "    if worst.peak <= machine.total:",
        "    if worst.peak <= machine.free:",
        COMMAND_TESTS,
        "a job is refused because a browser is open",
    ),
    Mutant(
        "planned-after-loading",
        "recipes/jobs.py",
        '    refuse_what_cannot_fit(recipe, "ppo")\n',
        "",
        COMMAND_TESTS,
        "what cannot fit is begun",
    ),
]
