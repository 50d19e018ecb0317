"""What a step says of itself: metrics under TRL's names where it has one."""

import math
from collections.abc import Sequence

from torch import Tensor

from kedge.core import kl
from kedge.engine.engine import Completion
from kedge.engine.rollouts import Rollouts
from kedge.evaluation.metrics import mean
from kedge.rewards.scores import Scores
from kedge.tracking import Metrics
from kedge.training.ppo.batch import Batch


def rollout_metrics(
    completions: Sequence[Completion], rollouts: Rollouts, scores: Scores, batch: Batch, kl_penalty: float
) -> Metrics:
    """Means over the step's answers, as they were before the update.

    Args:
        kl_penalty: the coefficient with which KL was taken off the rewards; 0 where it was not.
    """
    divergence = float(kl(rollouts.logprobs, batch.ref_logprobs).sum(-1).mean())
    score, n = mean(scores.sums()), len(completions)
    components = {f"rewards/{name}": mean(values) for name, values in scores.components.items()}
    return {
        "objective/scores": score,
        "objective/kl": divergence,
        "objective/entropy": float(-rollouts.logprobs.sum(-1).mean()),
        "objective/non_score_reward": -kl_penalty * divergence,
        "objective/rlhf_reward": score - kl_penalty * divergence,
        **{name: value for name, value in components.items() if not math.isnan(value)},
        "completions/mean_length": sum(len(c.ids) for c in completions) / n,
        "completions/cut_off": sum(c.finish_reason == "length" for c in completions) / n,
        "val/num_eos_tokens": float(sum(c.finish_reason == "eos" for c in completions)),
        **_critic_metrics(batch),
    }


def _critic_metrics(batch: Batch) -> Metrics:
    if batch.old_values is None or batch.returns is None:
        return {}
    return {"val/explained_variance": explained_variance(batch.old_values[batch.mask], batch.returns[batch.mask])}


def explained_variance(values: Tensor, returns: Tensor) -> float:
    """1 - Var(returns - values) / Var(returns): 1 is a perfect critic, 0 no better than a constant, below 0 worse."""
    if returns.numel() < 2 or float(returns.var()) == 0.0:
        return 0.0
    return float(1.0 - (returns - values).var() / returns.var())
