"""Classic mistakes in what every training job shares, and in SFT and reward modelling."""

from bugs.mutant import Mutant

OPTIMIZATION, OPTIMIZATION_TESTS = "training/optimization.py", ("tests/training/test_optimization.py",)
OPTIMIZATION_MUTANTS = [
    Mutant(
        "adam-epsilon",
        "training/optimizers.py",
        "EPS = 1e-5",
        "EPS = 1e-8",
        OPTIMIZATION_TESTS,
        "PyTorch's epsilon, not PPO's",
    ),
    Mutant(
        "weight-decay-ignored",
        OPTIMIZATION,
        "weight_decay=config.weight_decay",
        "weight_decay=0.0",
        OPTIMIZATION_TESTS,
        "weight_decay is accepted and ignored",
    ),
    Mutant(
        "warmup-starts-at-zero",
        OPTIMIZATION,
        "return (step + 1) / warmup",
        "return step / warmup",
        OPTIMIZATION_TESTS,
        "the first step of a warm-up does nothing",
    ),
    Mutant(
        "decay-counts-the-warmup",
        OPTIMIZATION,
        "done = (step - warmup) / max(1, total_steps - warmup)",
        "done = step / total_steps",
        OPTIMIZATION_TESTS,
        "the learning rate jumps down after the warm-up",
    ),
    Mutant(
        "schedule-compounds",
        OPTIMIZATION,
        'group["peak_lr"] * factor',
        'group["lr"] * factor',
        OPTIMIZATION_TESTS,
        "factors multiply up from step to step",
    ),
    Mutant(
        "clipping-left-out",
        OPTIMIZATION,
        "limit = math.inf if max_norm is None else max_norm",
        "limit = math.inf",
        OPTIMIZATION_TESTS,
        "max_grad_norm is accepted and ignored",
    ),
    Mutant(
        "every-pass-in-the-same-order",
        OPTIMIZATION,
        "permutation(rows, seed, epoch)",
        "permutation(rows, seed, 0)",
        OPTIMIZATION_TESTS,
        "no shuffling between passes",
    ),
    Mutant(
        "same-batch-every-step",
        OPTIMIZATION,
        "range(step * batch_size, (step + 1) * batch_size)",
        "range(batch_size)",
        OPTIMIZATION_TESTS,
        "the order of the data ignores the step",
    ),
]

CHECKPOINT, CHECKPOINT_TESTS = "training/checkpoint.py", ("tests/training/test_checkpoint.py",)
CHECKPOINT_MUTANTS = [
    Mutant(
        "half-a-checkpoint-counts",
        "storage/checkpoints.py",
        "if not (checkpoint / CHECKSUMS_FILE).is_file():",
        "if not checkpoint.is_dir():",
        CHECKPOINT_TESTS,
        "a folder without checksums is looked into",
    ),
    Mutant(
        "old-checkpoints-go-first",
        CHECKPOINT,
        "                write_models(self._aside)\n",
        "                [shutil.rmtree(old) for old in checkpoints(target.parent)]\n"
        "                write_models(self._aside)\n",
        CHECKPOINT_TESTS,
        "a crash while saving leaves nothing to resume from",
    ),
    Mutant(
        "checkpoint-runs-code",
        CHECKPOINT,
        "weights_only=True",
        "weights_only=False",
        CHECKPOINT_TESTS,
        "loading a checkpoint unpickles anything",
    ),
]

SUPERVISED, SFT_TESTS = "training/supervised.py", ("tests/training/test_sft.py",)
RESUMED_SFT = ("tests/training/test_sft.py::test_resumed_is_uninterrupted",)
SUPERVISED_MUTANTS = [
    Mutant(
        "supervised-mean-of-means",
        SUPERVISED,
        "self.loss([rows[i] for i in part] or rows[:1], denominator)",
        "self.loss([rows[i] for i in part] or rows[:1], self.weigh([rows[i] for i in part]))",
        SFT_TESTS,
        "every micro-batch divides by its own count",
    ),
    Mutant(
        "supervised-schedule-left-out",
        SUPERVISED,
        "        set_learning_rate(self.optimizer, schedule(self.config, self.step_done, self.total_steps))\n",
        "",
        ("tests/training/test_sft.py",),
        "the schedule is logged and not applied",
    ),
    Mutant(
        "supervised-optimizer-not-restored",
        "training/loop.py",
        'load_optimizer(self.optimizer, state["optimizer"], checkpoint)',
        "pass",
        RESUMED_SFT,
        "a resumed run begins with empty Adam moments",
    ),
    Mutant(
        "supervised-weights-not-restored",
        SUPERVISED,
        "self.role.load_weights(checkpoint / self.result)",
        "pass",
        RESUMED_SFT,
        "a resumed run begins with the base model's weights",
    ),
    Mutant(
        "supervised-gradients-pile-up",
        SUPERVISED,
        "            self.ranks.after_step()\n        self.optimizer.zero_grad(set_to_none=True)\n",
        "            self.ranks.after_step()\n",
        RESUMED_SFT,
        "gradients are never cleared",
    ),
    Mutant(
        "supervised-dropout-not-seeded",
        SUPERVISED,
        "torch.manual_seed((self.config.seed * 1_000_003 + self.step_done) % 2**63)",
        "pass",
        RESUMED_SFT,
        "dropout goes on from wherever the global stream stands",
    ),
    Mutant(
        "supervised-without-dropout",
        SUPERVISED,
        "self.module.train()",
        "self.module.eval()",
        SFT_TESTS,
        "the model's dropout is ignored in SFT",
    ),
    Mutant(
        "evaluation-with-dropout",
        SUPERVISED,
        '        self.module.eval()\n        with self.timer("evaluate")',
        '        self.module.train()\n        with self.timer("evaluate")',
        SFT_TESTS,
        "held-out loss is measured with dropout",
    ),
    Mutant(
        "held-out-rows-trained-on",
        SUPERVISED,
        "return read(train), read(aside) if aside else []",
        "return read(rows), read(aside) if aside else []",
        SFT_TESTS,
        "the rows set aside are trained on all the same",
    ),
    Mutant(
        "supervised-broken-gradient-applied",
        SUPERVISED,
        "if not torch.isfinite(norm):",
        "if False:",
        SFT_TESTS,
        "a NaN walks into the weights",
    ),
    Mutant(
        "sft-on-prompts-too",
        "training/sft.py",
        "padded([trained for _, trained in examples], False)",
        "padded([[False] + [True] * (len(trained) - 1) for _, trained in examples], False)",
        SFT_TESTS,
        "SFT trains on the prompts as well",
    ),
    Mutant(
        "sft-mask-by-pad-id",
        "training/sft.py",
        "False)[0].bool()",
        "False)[0].bool() & (tokens != self.lm.pad_id)",
        ("tests/training/test_sft.py::test_learns_to_end_where_pad_is_eos",),
        "where pad is EOS, the model never learns to stop",
    ),
    Mutant(
        "sft-counts-prompts",
        "training/sft.py",
        "float(sum(sum(trained) for _, trained in examples))",
        "float(sum(len(trained) for _, trained in examples))",
        SFT_TESTS,
        "the loss is divided by all tokens, prompts included",
    ),
]

PAIRS, REWARD_TESTS = "training/labels/pairs.py", ("tests/training/test_reward_modeling.py",)
REWARD_MUTANTS = [
    Mutant(
        "preferences-swapped",
        PAIRS,
        "chosen, rejected = scores.chunk(2)",
        "rejected, chosen = scores.chunk(2)",
        REWARD_TESTS,
        "the rejected answer learns to score higher",
    ),
    Mutant(
        "reward-mean-of-means",
        PAIRS,
        "            denominator=denominator,\n",
        "",
        REWARD_TESTS,
        "every micro-batch divides by its own pairs",
    ),
    Mutant(
        "reward-center-ignored",
        PAIRS,
        "            center=self.center,\n",
        "",
        REWARD_TESTS,
        "center_rewards_coefficient is accepted and ignored",
    ),
]

TRAINING = [*OPTIMIZATION_MUTANTS, *CHECKPOINT_MUTANTS, *SUPERVISED_MUTANTS, *REWARD_MUTANTS]
