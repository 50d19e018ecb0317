"""What a step says of itself: metrics under TRL's names where it has one."""

import math
import statistics
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor

from kedge.core import kl
from kedge.evaluation.metrics import mean
from kedge.rewards.scores import Scores
from kedge.runs.folder import Metrics
from kedge.training.ppo.batch import Batch
from kedge.training.ppo.config import PPOConfig
from kedge.training.ppo.experience import Experience


def rollout_metrics(experience: Experience, config: PPOConfig, kl_penalty: float) -> Metrics:
    """Means over the step's answers, as they were before the update.

    Args:
        kl_penalty: the coefficient with which KL was taken off the rewards; 0 where it was not.
    """
    rollouts, completions, scores = experience.rollouts, experience.completions, experience.scores
    divergence = float(kl(rollouts.logprobs, experience.batch.ref_logprobs).sum(-1).mean())
    sums, n = scores.sums(), len(completions)
    score = mean(sums)
    components = {f"rewards/{name}": mean(values) for name, values in scores.components.items()}
    return {
        "objective/scores": score,
        "objective/scores_std": statistics.pstdev(sums),
        **_equal_groups(sums, config.num_generations),
        "objective/kl": divergence,
        "objective/entropy": float(-rollouts.logprobs.sum(-1).mean()),
        "objective/non_score_reward": -kl_penalty * divergence,
        "objective/rlhf_reward": score - kl_penalty * divergence,
        **{name: value for name, value in components.items() if not math.isnan(value)},
        **_spreads(scores),
        **{
            f"rewards/{name}_{reason}": float(count)
            for name, counts in scores.failure_counts().items()
            for reason, count in counts.items()
        },
        "completions/mean_length": sum(len(c.ids) for c in completions) / n,
        "completions/cut_off": sum(c.finish_reason == "length" for c in completions) / n,
        **({"completions/masked": _left_out(experience.batch)} if config.cutoff == "mask" else {}),
        "completions/empty": sum(not c.text.strip() for c in completions) / n,
        "completions/repeated": mean([repeated(c.ids) for c in completions]),
        "val/num_eos_tokens": float(sum(c.finish_reason == "eos" for c in completions)),
        **_critic_metrics(experience.batch),
    }


def _equal_groups(scores: Sequence[float], size: int) -> Metrics:
    """Share of the prompts whose answers, ``size`` next to each other, all have the same score."""
    if size == 1:
        return {}
    groups = [set(scores[first : first + size]) for first in range(0, len(scores), size)]
    return {"objective/equal_groups": sum(len(group) == 1 for group in groups) / len(groups)}


def _left_out(batch: Batch) -> float:
    """Share of the answers of which nothing is trained on."""
    return float(1.0 - batch.mask.any(-1).float().mean())


def repeated(ids: Sequence[int]) -> float:
    """Share of an answer's pairs of neighbouring tokens that stand in it before; 0 where there are no pairs."""
    pairs = list(pairwise(ids))
    return 1.0 - len(set(pairs)) / len(pairs) if pairs else 0.0


def _spreads(scores: Scores) -> Metrics:
    """Each component's standard deviation; and each one's share of what they all move the score by, as it is paid."""
    judged = {name: [x for x in values if not math.isnan(x)] for name, values in scores.components.items()}
    found = {f"rewards/{name}_std": statistics.pstdev(values) for name, values in judged.items() if values}
    paid = {name: [x for x in values if not math.isnan(x)] for name, values in scores.paid.items()}
    spreads = {name: statistics.pstdev(values) for name, values in paid.items() if values}
    whole = sum(spreads.values())
    if len(spreads) < 2 or whole == 0.0:
        return found
    shares = {f"rewards/{name}_share": spread / whole for name, spread in spreads.items()}
    return found | shares | {"rewards/largest_share": max(shares.values())}


def _critic_metrics(batch: Batch) -> Metrics:
    if batch.old_values is None or batch.returns is None:
        return {}
    return {"val/explained_variance": explained_variance(batch.old_values[batch.mask], batch.returns[batch.mask])}


def explained_variance(values: Tensor, returns: Tensor) -> float:
    """1 - Var(returns - values) / Var(returns): 1 is a perfect critic, 0 no better than a constant, below 0 worse."""
    if returns.numel() < 2 or float(returns.var()) == 0.0:
        return 0.0
    return float(1.0 - (returns - values).var() / returns.var())


WATCHED = {
    "score": "objective/scores",
    "kl": "objective/kl",
    "length": "completions/mean_length",
    "explained variance": "val/explained_variance",
}
"""What to watch while it runs. A run without a critic has no explained variance."""


def live_lines(metrics: Metrics) -> tuple[str, ...]:
    """A step in two lines of at most 80 characters: what to watch, and its seconds by phase."""
    watched = [f"{label} {metrics[name]:.3g}" for label, name in WATCHED.items() if name in metrics]
    phases = {name.removeprefix("time/"): value for name, value in metrics.items() if name.startswith("time/")}
    seconds = [f"{phase} {value:.{2 if value < 100 else 0}f}" for phase, value in phases.items()]
    return tuple(f"  {line}" for line in ("   ".join(watched), f"seconds: {'  '.join(seconds)}"))
