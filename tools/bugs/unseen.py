"""Bugs that were planted to see whether anybody notices, and that nobody noticed."""

from bugs.mutant import Mutant

BATCH, TRAINER, EXPERIENCE = "training/ppo/batch.py", "training/ppo/trainer.py", "training/ppo/experience.py"
BATCHES, RESUMED = ("tests/training/test_ppo_batch.py",), ("tests/training/test_ppo_resume.py",)

UNSEEN = [
    Mutant(
        "stop-string-is-cut-off",
        EXPERIENCE,
        'c.finish_reason == "length"',
        'c.finish_reason != "eos"',
        ("tests/training/test_ppo.py::test_an_answer_that_a_stop_string_ends_is_not_cut_off",),
        "an answer that a stop string ended is penalised or left out as if it were cut off",
    ),
    Mutant(
        "cut-at-the-last-stop-string",
        "sampling/local/request.py",
        "min(cuts)",
        "max(cuts)",
        ("tests/sampling/test_engine.py",),
        "of two stop strings the first one stays in the text",
    ),
    Mutant(
        "masked-answers-earn-nothing",
        BATCH,
        "each.masked_fill(~rollouts.response_mask, 0.0)",
        "each.masked_fill(~mask, 0.0)",
        BATCHES,
        "what a cut-off answer earned is 0 to those that are compared with it",
    ),
    Mutant(
        "rewards-whitened-over-masked-answers",
        BATCH,
        "whiten(rewards, mask, shift_mean=False)",
        "whiten(rewards, rollouts.response_mask, shift_mean=False)",
        BATCHES,
        "answers that are left out set the scale of the rewards",
    ),
    Mutant(
        "adaptive-kl-counts-prompts",
        TRAINER,
        "len(experience.prompts))",
        "len(experience.prompts) // self.config.num_generations)",
        RESUMED,
        "the more answers a prompt has, the slower the coefficient is",
    ),
    Mutant(
        "kl-in-the-loss-is-not-steered",
        TRAINER,
        "self.update(batch, self.step_done, kl_coef)",
        "self.update(batch, self.step_done, self.config.kl_coef)",
        RESUMED,
        "the controller steers a number that the loss does not use",
    ),
    Mutant(
        "left-out-steps-forgotten",
        "training/loop.py",
        'self.left_out.in_a_row = state["left_out"]',
        "pass",
        ("tests/training/test_guards.py",),
        "a run whose every step is left out goes on for ever if it is resumed often enough",
    ),
    Mutant(
        "drift-of-the-last-micro-batch",
        "training/ppo/update.py",
        "worst = torch.maximum(worst, summand.drift.max())",
        "worst = summand.drift.max()",
        ("tests/training/test_ppo_guards.py",),
        "the worst token is looked for in the last micro-batch alone",
    ),
    Mutant(
        "a-column-takes-an-arguments-place",
        "rewards/function.py",
        'arguments = columns | {"prompts": [own_copy(prompt.text) for prompt in prompts], "completions": texts}',
        'arguments = {"prompts": [own_copy(prompt.text) for prompt in prompts], "completions": texts} | columns',
        ("tests/rewards/test_function.py",),
        "a function judges the data's column 'completions' and not the answers",
    ),
    Mutant(
        "columns-of-some-rows",
        "data/records.py",
        "[replace(prompt, columns={name: prompt.columns.get(name) for name in names}) for prompt in found]",
        "[replace(prompt, columns={name: prompt.columns[name] for name in names if name in prompt.columns})"
        " for prompt in found]",
        ("tests/data/test_records.py",),
        "a function misses a column where no prompt of the batch has it",
    ),
    Mutant(
        "pad-at-the-end-is-judged",
        "models/reward_model.py",
        "while len(ids) > 1 and ids[-1] == self.pad_id:",
        "while False:",
        ("tests/models/test_reward_model.py",),
        "a text that ends with the pad token has one score here and another in plain transformers",
    ),
    Mutant(
        "rewards-not-steered",
        TRAINER,
        "            kl_coef = self.kl_controller.coefficient\n",
        "            kl_coef = self.config.kl_coef\n",
        RESUMED,
        "the controller steers a number that the rewards do not use",
    ),
    Mutant(
        "random-numbers-of-other-steps",
        "training/ppo/answers.py",
        "self._share(self.prompts_of(step), step * self.config.answers)",
        "self._share(self.prompts_of(step), step * self.config.batch_size)",
        ("tests/training/test_ppo.py::test_answers_follow_the_seed_and_the_step",),
        "with several answers to a prompt, a step draws the random numbers of the one before again",
    ),
    Mutant(
        "judged-under-autocast",
        TRAINER,
        'with self.timer("reward"), torch.autocast(self.policy.device.type, enabled=False):',
        'with self.timer("reward"):',
        ("tests/training/test_ppo.py::test_judges_are_not_in_autocast",),
        "a reward model scores in the precision of the policy",
    ),
    Mutant(
        "evaluated-under-autocast",
        "evaluation/evaluate.py",
        "with torch.autocast(policy.device.type, enabled=False):",
        "if True:",
        ("tests/training/test_ppo.py::test_judges_are_not_in_autocast",),
        "held-out answers are judged in the precision of the policy",
    ),
    Mutant(
        "held-out-pairs-mean-of-means",
        "training/reward_modeling.py",
        "examples, len(self.unseen), training=False)",
        "examples, len(batch), training=False)",
        ("tests/training/test_reward_modeling.py",),
        "the held-out accuracy of several micro-batches is above 1",
    ),
    Mutant(
        "held-out-loss-sum-of-means",
        "training/sft.py",
        "self._cross_entropy([self.held_out[i] for i in b], total)",
        "self._cross_entropy([self.held_out[i] for i in b], _targets([self.held_out[i] for i in b]))",
        ("tests/training/test_sft.py",),
        "the held-out loss grows with the number of micro-batches",
    ),
    Mutant(
        "cut-at-the-first-answer",
        "training/sft.py",
        "start = len(trained) - trained[::-1].index(False)",
        "start = trained.index(True)",
        ("tests/training/test_sft.py",),
        "of a long conversation the last answer is cut off, and an earlier one kept",
    ),
    Mutant(
        "best-forgotten-at-a-resume",
        "training/keeping.py",
        'self.best, self._kept = state["best"], state["step"]',
        'self._kept = state["step"]',
        ("tests/training/test_best.py",),
        "after a resume the first checkpoint that is measured is the best",
    ),
    Mutant(
        "supervised-left-out-forgotten",
        "training/loop.py",
        'self.left_out.in_a_row = state["left_out"]',
        "pass",
        ("tests/training/test_sft.py",),
        "a supervised run whose every step is left out goes on for ever if it is resumed often enough",
    ),
    Mutant(
        "kl-of-an-update-at-temperature-1",
        "training/ppo/update.py",
        "temperature=self.config.temperature, states=states)",
        "temperature=1.0, states=states)",
        ("tests/training/test_trust_region.py",),
        "at another temperature target_kl takes steps back that went nowhere",
    ),
    Mutant(
        "penalty-is-not-scaled",
        BATCH,
        """        total = total - config.missing_eos_penalty * cut_off.to(device)
    last = rollouts.lengths.to(device)[:, None] - 1
    rewards = rewards.scatter_add(1, last, total[:, None])
    if config.scale_rewards:
        moments.update(rewards.sum(-1))
        rewards = rewards / moments.std
""",
        """        pass
    last = rollouts.lengths.to(device)[:, None] - 1
    rewards = rewards.scatter_add(1, last, total[:, None])
    if config.scale_rewards:
        moments.update(rewards.sum(-1))
        rewards = rewards / moments.std
    if config.cutoff == "penalty":
        rewards = rewards.scatter_add(1, last, -config.missing_eos_penalty * cut_off[:, None].float())
""",
        BATCHES,
        "the penalty is taken off after the scores were scaled, and is of another size than they are",
    ),
    Mutant(
        "critic-judged-on-padding",
        "training/ppo/report.py",
        "explained_variance(batch.old_values[batch.mask], batch.returns[batch.mask])",
        "explained_variance(batch.old_values, batch.returns)",
        ("tests/training/test_ppo.py::test_the_critic_is_judged_on_what_is_trained_on",),
        "the explained variance is one between answers and padding",
    ),
    Mutant(
        "stop-string-is-reported-as-cut-off",
        "training/ppo/report.py",
        'sum(c.finish_reason == "length" for c in completions) / n',
        'sum(c.finish_reason != "eos" for c in completions) / n',
        ("tests/training/test_ppo.py::test_an_answer_that_a_stop_string_ends_is_not_cut_off",),
        "a guard warns of answers that reach response_length, and none does",
    ),
]
