"""Classic mistakes in data and models."""

from bugs.mutant import Mutant

# data/encode.py
ENCODE_MUTANTS = [
    Mutant(
        "prompts-are-demonstrated-too",
        "data/encode.py",
        "mask = [False] * start + [True] * (len(whole) - start)",
        "mask = [True] * len(whole)",
        ("tests/data/test_encode.py", "tests/training/test_sft.py"),
        "SFT trains on the prompts as well",
    ),
    Mutant(
        "demonstrations-without-end",
        "data/encode.py",
        "return ids if not ends or _has_ended(tokenizer, ids, ends) else [*ids, ends[0]]",
        "return ids",
        ("tests/data/test_encode.py",),
        "the model is never shown how an answer ends",
    ),
]

# models/
SCORING, FORWARD_TESTS = "models/forward.py", ("tests/models/test_forward.py",)
MODELS_MUTANTS = [
    Mutant(
        "logprobs-off-by-one",
        SCORING,
        "hidden = before(lm.hidden(tokens, states), places)",
        "hidden = before(lm.hidden(tokens, states), places + 1)",
        FORWARD_TESTS,
        "a token's log-probability from the logits after it, which have seen it",
    ),
    Mutant(
        "shared-values-off-by-one",
        SCORING,
        "else value_head(hidden)",
        "else value_head(hidden.roll(-1, 0))",
        FORWARD_TESTS,
        "a shared critic's value is of the state after the token",
    ),
    Mutant(
        "separate-values-off-by-one",
        "models/critic.py",
        "self.head(before(hidden_of(self.trunk, tokens, self.bottom, states), places))",
        "self.head(before(hidden_of(self.trunk, tokens, self.bottom, states), places + 1))",
        FORWARD_TESTS,
        "a separate critic's value is of the state after the token",
    ),
    Mutant(
        "scoring-temperature-left-out",
        SCORING,
        "token_logprobs(logits, taken, temperature=temperature)",
        "token_logprobs(logits, taken)",
        FORWARD_TESTS,
        "reference and update at temperature 1, whatever the sampler's",
    ),
    Mutant(
        "entropy-temperature-left-out",
        SCORING,
        "taken, temperature=temperature, entropy_gradient=entropy_gradient",
        "taken, entropy_gradient=entropy_gradient",
        FORWARD_TESTS,
        "the entropy of another distribution",
    ),
    Mutant(
        "attention-from-ids",
        "models/batch.py",
        "return (torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]).long()",
        "return (tokens != 0).long()",
        ("tests/models/test_batch.py",),
        "a pad id inside the text is not attended to",
    ),
    Mutant(
        "budget-without-padding",
        "models/batch.py",
        "(len(batches[-1]) + 1) * lengths[batches[-1][0]] <= budget",
        "sum(lengths[i] for i in batches[-1]) + lengths[index] <= budget",
        ("tests/models/test_batch.py",),
        "padding does not count as memory",
    ),
    Mutant(
        "critic-on-the-policys-weights",
        "models/scalar.py",
        "scalar = cls(copy_of_trained(trunk_of(model), sharded=sharded))",
        "scalar = cls(trunk_of(model))",
        ("tests/training/test_ppo_update.py::test_the_value_loss_reaches_a_shared_trunk",),
        "a separate critic trains the policy's own trunk",
    ),
    Mutant(
        "critic-starts-at-random",
        "models/scalar.py",
        "nn.init.zeros_(self.linear.weight)",
        "nn.init.normal_(self.linear.weight)",
        ("tests/models/test_critic.py",),
        "the first advantages are noise",
    ),
    Mutant(
        "value-head-not-loaded",
        "models/critic.py",
        "self.read(folder / HEAD_FILE)",
        "pass",
        ("tests/models/test_critic.py",),
        "a checkpoint's value head is left where it lies",
    ),
    Mutant(
        "score-of-the-padding",
        "models/reward_model.py",
        "where = torch.arange(len(lengths), device=device), lengths - 1",
        "where = torch.arange(len(lengths), device=device), torch.full_like(lengths, tokens.shape[1] - 1)",
        ("tests/models/test_reward_model.py",),
        "the reward model is read at the batch's last column",
    ),
    Mutant(
        "reward-model-keeps-the-beginning",
        "models/reward_model.py",
        "ids[-self.max_length :]",
        "ids[: self.max_length]",
        ("tests/models/test_reward_model.py",),
        "of a long text the answer is cut away",
    ),
    Mutant(
        "model-left-in-training-mode",
        "models/language_model.py",
        "    model.eval()\n    return LanguageModel(",
        "    model.train()\n    return LanguageModel(",
        ("tests/training/test_ppo.py::test_dropout_is_off", "tests/training/test_ppo_guards.py"),
        "dropout in sampling, reference and update",
    ),
]

HEAD_MUTANTS = [
    Mutant(
        "soft-cap-left-out",
        "models/head.py",
        "if self.soft_cap is not None:",
        "if False:",
        ("tests/models/test_head.py",),
        "logits from hidden states are not soft-capped as the model's own are",
    ),
    Mutant(
        "logit-scale-left-out",
        "models/head.py",
        "if self.scale != 1.0:",
        "if False:",
        ("tests/models/test_head.py",),
        "logits from hidden states are not scaled as the model's own are",
    ),
    Mutant(
        "head-never-tried-out",
        "models/head.py",
        "return head if agree(",
        "return head if True or agree(",
        ("tests/models/test_head.py",),
        "a head that gives other logits than the model is used all the same",
    ),
    Mutant(
        "head-tried-out-with-dropout",
        "models/head.py",
        "    model.eval()\n    try:",
        "    try:",
        ("tests/models/test_head.py", "tests/training/test_sft.py"),
        "dropout makes the trial fail, and uses up random numbers",
    ),
    Mutant(
        "chunks-without-gradient",
        "models/forward.py",
        "checkpoint(read, *chunk, use_reentrant=False, preserve_rng_state=False)",
        "read(chunk[0].detach(), chunk[1])",
        FORWARD_TESTS,
        "log-probabilities made in chunks do not train the trunk",
    ),
    Mutant(
        "chunks-at-another-temperature",
        "models/forward.py",
        "partial(_outputs, temperature=temperature,",
        "partial(_outputs, temperature=1.0,",
        FORWARD_TESTS,
        "temperature left out where logits come from hidden states",
    ),
    Mutant(
        "checkpointing-asked-for-and-off",
        "models/recompute.py",
        "layer.training = True  # not",
        "layer.training = False  # not",
        ("tests/models/test_recompute.py", "tests/training/test_ppo.py"),
        "gradient checkpointing is accepted and ignored",
    ),
    Mutant(
        "checkpointing-turns-dropout-on",
        "models/recompute.py",
        "layer.training = True  # not layer.train(), which would reach the dropout inside",
        "layer.train()",
        ("tests/models/test_recompute.py",),
        "gradient checkpointing brings dropout into the update",
    ),
]

LOWER = [*ENCODE_MUTANTS, *MODELS_MUTANTS, *HEAD_MUTANTS]
