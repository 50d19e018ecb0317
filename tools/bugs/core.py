"""Classic mistakes in the mathematics: src/kedge/core."""

from bugs.mutant import Mutant

# core/masking.py
MASKING = "core/masking.py"
MASKING_TESTS = ("tests/core/test_masking.py",)
MASKING_MUTANTS = [
    Mutant(
        "mask-polarity",
        MASKING,
        "torch.where(mask, x, torch.zeros((), dtype=x.dtype, device=x.device))",
        "torch.where(mask, torch.zeros((), dtype=x.dtype, device=x.device), x)",
        MASKING_TESTS,
        "keep drops what counts and keeps what does not",
    ),
    Mutant(
        "mask-by-product",
        MASKING,
        "return torch.where(mask, x, torch.zeros((), dtype=x.dtype, device=x.device))",
        "return x * mask",
        MASKING_TESTS,
        "a masked NaN comes through",
    ),
    Mutant(
        "mean-denominator-ignored",
        MASKING,
        "(mask.sum().clamp(min=1) if denominator is None else denominator)",
        "mask.sum().clamp(min=1)",
        ("tests/core/test_losses.py",),
        "every part of a batch divides by its own count",
    ),
    Mutant(
        "mean-over-everything",
        MASKING,
        "mask.sum().clamp(min=1) if",
        "mask.numel() if",
        MASKING_TESTS,
        "padding counts in the denominator",
    ),
    Mutant(
        "mean-of-nothing",
        MASKING,
        "mask.sum().clamp(min=1)",
        "mask.sum()",
        MASKING_TESTS,
        "an empty mask gives NaN",
    ),
    Mutant(
        "whiten-always-shifts",
        MASKING,
        "scaled if shift_mean else scaled + mean",
        "scaled",
        MASKING_TESTS,
        "reward whitening moves the mean although told not to",
    ),
    Mutant(
        "whiten-sample-variance",
        MASKING,
        "variance = masked_mean((x - mean).square(), mask)",
        "variance = masked_mean((x - mean).square(), mask, denominator=(mask.sum() - 1).clamp(min=1))",
        MASKING_TESTS,
        "whitening by the sample variance (n - 1), not the population's",
    ),
    Mutant(
        "whiten-counts-padding",
        MASKING,
        "variance = masked_mean((x - mean).square(), mask)",
        "variance = keep((x - mean).square(), mask).mean()",
        MASKING_TESTS,
        "padding enters the variance",
    ),
    Mutant(
        "whiten-rounding-noise",
        MASKING,
        "return torch.where(constant, 0.0, x - mean)",
        "return x - mean",
        MASKING_TESTS,
        "equal rewards give amplified rounding noise, not 0",
    ),
]

# core/logprobs.py
LOGPROBS = "core/logprobs.py"
LOGPROBS_TESTS = ("tests/core/test_logprobs.py",)
LOGPROBS_MUTANTS = [
    Mutant(
        "temperature-left-out",
        LOGPROBS,
        " / temperature\n",
        "\n",
        LOGPROBS_TESTS,
        "log-probabilities of another distribution than the sampler's",
    ),
    Mutant(
        "temperature-multiplied",
        LOGPROBS,
        " / temperature\n",
        " * temperature\n",
        LOGPROBS_TESTS,
        "logits times the temperature",
    ),
    Mutant(
        "logprobs-in-bfloat16",
        LOGPROBS,
        "logits.to(torch.promote_types(logits.dtype, torch.float32))",
        "logits",
        LOGPROBS_TESTS,
        "log-softmax in the precision of the logits",
    ),
    Mutant(
        "entropy-sign",
        LOGPROBS,
        "return -(p * ",
        "return (p * ",
        LOGPROBS_TESTS,
        "the entropy is negative",
    ),
]

# core/kl.py
KL = "core/kl.py"
KL_TESTS = ("tests/core/test_kl.py",)
KL_MUTANTS = [
    Mutant(
        "kl-reversed",
        KL,
        "k1 = logprobs - ref_logprobs\n",
        "k1 = ref_logprobs - logprobs\n",
        KL_TESTS,
        "KL(reference, policy): the penalty is a bonus",
    ),
    Mutant("k2-without-half", KL, "k1.square() / 2", "k1.square()", KL_TESTS, "k2 twice too large"),
    Mutant(
        "k3-sign",
        KL,
        "torch.expm1(-k1) + k1",
        "torch.expm1(k1) - k1",
        KL_TESTS,
        "k3 of the ratio upside down: still positive, no longer unbiased",
    ),
    Mutant(
        "adaptive-kl-backwards",
        KL,
        "kl / self.target - 1.0",
        "1.0 - kl / self.target",
        KL_TESTS,
        "too much KL lowers the coefficient",
    ),
    Mutant(
        "adaptive-kl-unclipped",
        KL,
        "min(max(kl / self.target - 1.0, -0.2), 0.2)",
        "kl / self.target - 1.0",
        KL_TESTS,
        "one wild step throws the coefficient",
    ),
    Mutant(
        "adaptive-kl-no-floor",
        KL,
        "max(kl / self.target - 1.0, -0.2)",
        "kl / self.target - 1.0",
        KL_TESTS,
        "the error is clipped above but not below",
    ),
]

# core/advantages.py
ADVANTAGES = "core/advantages.py"
ADVANTAGES_TESTS = ("tests/core/test_advantages.py",)
ADVANTAGES_MUTANTS = [
    Mutant(
        "gae-carry-ignored",
        ADVANTAGES,
        "decays = gamma * lam * carry",
        "decays = gamma * lam * torch.ones_like(carry)",
        ADVANTAGES_TESTS,
        "the trace runs on into the next episode",
    ),
    Mutant(
        "gae-carry-in-delta",
        ADVANTAGES,
        "deltas = rewards + gamma * next_values - values",
        "deltas = rewards + gamma * next_values * carry - values",
        ADVANTAGES_TESTS,
        "an episode that was only cut off counts as terminated",
    ),
    Mutant(
        "gae-carry-late",
        ADVANTAGES,
        "reversed(decays.unbind(-1))",
        "reversed(decays.roll(1, -1).unbind(-1))",
        ADVANTAGES_TESTS,
        "the carry of the step before",
    ),
    Mutant(
        "gae-lambda-in-delta",
        ADVANTAGES,
        "deltas = rewards + gamma * next_values - values",
        "deltas = rewards + gamma * lam * next_values - values",
        ADVANTAGES_TESTS,
        "lambda discounts the next value too",
    ),
    Mutant(
        "gae-mean-for-sum",
        ADVANTAGES,
        "running = delta + decay * running",
        "running = (1 - decay) * delta + decay * running",
        ADVANTAGES_TESTS,
        "a weighted mean of the deltas, not their sum",
    ),
    Mutant(
        "token-gae-next-value-masked",
        ADVANTAGES,
        "next_value = torch.where(here, values[..., t], next_value)",
        "next_value = values[..., t]",
        ADVANTAGES_TESTS,
        "before a masked token the next value is 0",
    ),
    Mutant(
        "token-gae-next-value-late",
        ADVANTAGES,
        "delta = rewards[..., t] + gamma * next_value - values[..., t]",
        "delta = rewards[..., t] + gamma * values[..., t] - values[..., t]",
        ADVANTAGES_TESTS,
        "the critic is off by one token",
    ),
    Mutant(
        "token-gae-masked-decay",
        ADVANTAGES,
        "running = torch.where(here, delta + gamma * lam * running, running)",
        "running = torch.where(here, delta, 0.0) + gamma * lam * running",
        ADVANTAGES_TESTS,
        "masked tokens decay the trace",
    ),
    Mutant(
        "token-gae-lambda-left-out",
        ADVANTAGES,
        "delta + gamma * lam * running",
        "delta + gamma * running",
        ADVANTAGES_TESTS,
        "lambda is accepted and ignored",
    ),
    Mutant(
        "token-gae-no-bootstrap",
        ADVANTAGES,
        "if bootstrap is None else bootstrap.to(values.dtype)",
        "",
        ADVANTAGES_TESTS,
        "a cut-off answer is scored as if it had ended",
    ),
    Mutant(
        "token-gae-bootstrap-in-trace",
        ADVANTAGES,
        "running = torch.zeros_like(next_value)",
        "running = next_value.clone()",
        ADVANTAGES_TESTS,
        "the bootstrap value is counted twice",
    ),
    Mutant(
        "group-rloo-including-oneself",
        ADVANTAGES,
        "centered = centered * (group_size / (group_size - 1))",
        "pass",
        ADVANTAGES_TESTS,
        "RLOO's baseline includes the answer itself",
    ),
    Mutant(
        "group-reinforce-per-group",
        ADVANTAGES,
        'scores.reshape(1, -1) if kind == "reinforce++" else scores.reshape(-1, group_size)',
        "scores.reshape(-1, group_size)",
        ADVANTAGES_TESTS,
        "REINFORCE++ normalises by group, not by batch",
    ),
    Mutant(
        "group-interleaved",
        ADVANTAGES,
        "else scores.reshape(-1, group_size)",
        "else scores.reshape(group_size, -1).T",
        ADVANTAGES_TESTS,
        "answers of different prompts are compared",
    ),
    Mutant(
        "group-dr-grpo-divided",
        ADVANTAGES,
        'kind in ("grpo", "reinforce++")',
        'kind in ("grpo", "dr_grpo", "reinforce++")',
        ADVANTAGES_TESTS,
        "Dr. GRPO divides by the deviation",
    ),
    Mutant(
        "group-sample-variance",
        ADVANTAGES,
        "variance = centered.square().mean(-1, keepdim=True)",
        "variance = centered.square().sum(-1, keepdim=True) / max(groups.shape[-1] - 1, 1)",
        ADVANTAGES_TESTS,
        "GRPO by the sample deviation",
    ),
]

# core/losses.py
MOMENTS = "core/moments.py"
MOMENTS_TESTS = ("tests/core/test_moments.py",)
MOMENTS_MUTANTS = [
    Mutant(
        "moments-between-batches",
        MOMENTS,
        "float((values - mean).square().sum()) + delta**2 * self.count * n / total",
        "float((values - mean).square().sum())",
        MOMENTS_TESTS,
        "the spread between batches is lost",
    ),
    Mutant(
        "moments-mean-of-means",
        MOMENTS,
        "self.mean += delta * n / total",
        "self.mean += delta / 2",
        MOMENTS_TESTS,
        "small batches weigh as much as large ones",
    ),
]

CORE = [
    *MASKING_MUTANTS,
    *LOGPROBS_MUTANTS,
    *KL_MUTANTS,
    *ADVANTAGES_MUTANTS,
    *MOMENTS_MUTANTS,
]
