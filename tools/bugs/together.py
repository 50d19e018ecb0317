"""Classic mistakes where a step is made of parts: several answers a prompt, several processes."""

from bugs.mutant import Mutant

PARALLEL, PARALLEL_TESTS = "parallel.py", ("tests/training/test_parallel.py",)
BATCH, PPO_TESTS = "training/ppo/batch.py", ("tests/training/test_ppo.py", "tests/training/test_ppo_batch.py")

TOGETHER = [
    Mutant(
        "groups-torn-apart",
        "training/ppo/trainer.py",
        "[self.prompts[row] for row in rows for _ in range(self.config.num_generations)]",
        "[self.prompts[row] for _ in range(self.config.num_generations) for row in rows]",
        PPO_TESTS,
        "an answer is compared with answers to other prompts",
    ),
    Mutant(
        "answers-to-a-prompt-all-the-same",
        "sampling/rollouts.py",
        "first_request=numbers[0]",
        "first_request=0",
        ("tests/training/test_ppo.py",),
        "every step draws the same random numbers",
    ),
    Mutant(
        "groups-of-another-size",
        BATCH,
        "group_advantages(earned, config.num_generations,",
        "group_advantages(earned, len(rewards),",
        PPO_TESTS,
        "an answer is compared with the whole batch",
    ),
    Mutant(
        "group-advantages-on-the-prompt-too",
        BATCH,
        "torch.where(mask, answers[:, None], 0.0)",
        "answers[:, None].expand_as(rewards)",
        PPO_TESTS,
        "tokens that the policy did not choose have an advantage",
    ),
    Mutant(
        "group-score-is-the-last-token-alone",
        BATCH,
        "group_advantages(earned,",
        "group_advantages(rewards[torch.arange(len(rewards)), rollouts.lengths - 1],",
        PPO_TESTS,
        "the KL penalty and rewards a token are left out of the comparison",
    ),
    Mutant(
        "gradients-of-one-process",
        PARALLEL,
        "            _all_reduce(together)\n            parts",
        "            parts",
        PARALLEL_TESTS,
        "every process trains on its own share, and their weights drift apart",
    ),
    Mutant(
        "gradients-averaged",
        PARALLEL,
        "            _all_reduce(together)\n            parts",
        "            _all_reduce(together.div_(self.size))\n            parts",
        PARALLEL_TESTS,
        "the loss divides by the global count already",
    ),
    Mutant(
        "processes-draw-the-same-numbers",
        "sampling/rollouts.py",
        "numbers = processes.share(range(first_request, first_request + len(prompts)))",
        "numbers = range(first_request, first_request + len(prompts))",
        PARALLEL_TESTS,
        "each process begins with the first random stream",
    ),
    Mutant(
        "every-process-writes",
        "runs/folder.py",
        "        if not self.processes.leads:\n            return\n        with storage(self.path",
        "        with storage(self.path",
        PARALLEL_TESTS,
        "every line of metrics.jsonl stands there twice",
    ),
    Mutant(
        "stale-weights-under-autocast",
        "training/ppo/update.py",
        "        torch.clear_autocast_cache()",
        "        pass",
        ("tests/training/test_ppo_update.py",),
        "every minibatch after the first sees the weights of the step's beginning",
    ),
    Mutant(
        "masked-minibatch-still-moves",
        "training/ppo/update.py",
        "if batch.host_mask[order[first : first + size]].any():",
        "if True:",
        ("tests/training/test_ppo_update.py",),
        "Adam's momentum moves the weights where nothing is learnt",
    ),
]
