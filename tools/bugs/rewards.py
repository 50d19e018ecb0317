"""Bugs in rewards: workers that stay, samples that go missing."""

from bugs.mutant import Mutant

ISOLATED = ("tests/rewards/test_isolated.py",)
KINDS = ("tests/rewards/test_kinds.py",)

REMOTE = ("tests/serving/test_remote.py",)

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
        "with begun([*waiting.values()]) if waiting else nullcontext(list) as rest:",
        "from kedge.rewards.waiting import together\n\n"
        "        with nullcontext(lambda: [together([each])[0] for each in waiting.values()]) as rest:",
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
    Mutant(
        "installed-kinds-unread",
        "config/plugins.py",
        "for point in entry_points(group=group):",
        'for point in entry_points(group=group + "."):',
        KINDS,
        "what another package brings is not found",
    ),
    Mutant(
        "fields-of-a-kind-lost",
        "rewards/said.py",
        "[_written(judge) for judge in judges]",
        "[RewardSpec.model_dump(judge, include={'kind', 'weight'}) if isinstance(judge, RewardSpec) else judge "
        "for judge in judges]",
        KINDS,
        "the saved recipe has the weight of a reward and not its settings",
    ),
    Mutant(
        "switched-off-is-as-good-as-unset",
        "rewards/spec.py",
        """if value == "none" and fields[key].default is None}""",
        """if value == "none"}""",
        KINDS,
        "what was switched off has its default again in the saved recipe",
    ),
    Mutant(
        "settings-of-a-kind-may-change",
        "training/fingerprints.py",
        """f", {part.settings}" if part.settings else \"\"""",
        '""',
        KINDS,
        "a run is resumed with another pattern, and nothing says so",
    ),
    Mutant(
        "models-of-a-kind-unplanned",
        "rewards/build.py",
        "for spec in _specs(what) for source in spec.reward_models()]",
        "for spec in _specs(what) if isinstance(spec, ModelSpec) for source in spec.reward_models()]",
        KINDS,
        "a plan leaves out the reward model that another kind loads",
    ),
    Mutant(
        "served-scores-in-the-order-they-came",
        "rewards/library/remote.py",
        'sorted(reply["data"], key=lambda each: int(each["index"]))',
        'reversed(reply["data"])',
        REMOTE,
        "each answer has another one's score",
    ),
    Mutant(
        "whoever-is-served",
        "rewards/library/remote.py",
        "if self.served and served != self.served:",
        "if False:",
        REMOTE,
        "half of a run is trained on the scores of another model",
    ),
    Mutant(
        "a-run-does-not-know-who-is-served",
        "rewards/library/remote.py",
        'return f"served {self.served}"',
        'return "served"',
        REMOTE,
        "a run is resumed with another reward model",
    ),
    Mutant(
        "all-of-the-text-is-the-answer",
        "rewards/library/remote.py",
        '"input": list(texts), "answers": list(answers)}',
        '"input": list(texts)}',
        REMOTE,
        "a model that reads steps judges those of the prompt",
    ),
]
