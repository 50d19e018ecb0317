"""Bugs in rewards: workers that stay, samples that go missing."""

from bugs.mutant import Mutant

ISOLATED = ("tests/rewards/test_isolated.py",)

REWARDS = [
    Mutant(
        "helpers-stay",
        "rewards/pool.py",
        "os.killpg(self.process.pid, signal.SIGKILL)",
        "self.process.kill()",
        ISOLATED,
        "a worker is killed, and what its function has started runs on",
    ),
    Mutant(
        "orphans",
        "rewards/worker.py",
        "        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)\n",
        "",
        ISOLATED,
        "a worker at work outlives a run that is killed",
    ),
    Mutant(
        "queue-counts",
        "rewards/pool.py",
        "self.call, self.began = call, time.monotonic()",
        "self.call, self.began = call, self.began or time.monotonic()",
        ISOLATED,
        "the time limit counts from a worker's first call",
    ),
    Mutant(
        "dead-stay",
        "rewards/pool.py",
        "        self._remove_dead()\n        try:",
        "        try:",
        ISOLATED,
        "a worker that was killed between two steps gets a sample, which is counted as failed",
    ),
    Mutant(
        "own-process-only",
        "rewards/scores.py",
        "for part in parts for failure in part.failures[name]",
        "for part in parts[:1] for failure in part.failures[name]",
        ISOLATED,
        "failures in other processes than the first are not counted",
    ),
    Mutant(
        "prompts-shared",
        "rewards/function.py",
        '"prompts": [own_copy(prompt.text) for prompt in prompts]',
        '"prompts": [prompt.text for prompt in prompts]',
        ("tests/rewards/test_weighted.py",),
        "a function changes the messages that the next one sees",
    ),
    Mutant(
        "one-after-another",
        "rewards/weighted.py",
        "together(coroutines) if waiting else []",
        "[together([each])[0] for each in coroutines]",
        ("tests/rewards/test_weighted.py",),
        "coroutine functions do not wait together",
    ),
    Mutant(
        "a-loop-each",
        "rewards/waiting.py",
        "@cache\n",
        "",
        ("tests/rewards/test_function.py",),
        "a client that was opened on one loop is used on another",
    ),
    Mutant(
        "held-out-columns-unseen",
        "training/ppo/prompts.py",
        "    for records in (train, evaluation):",
        "    for records in (train,):",
        ("tests/training/test_ppo.py",),
        "a metric that wants a column fails at the first evaluation",
    ),
]
