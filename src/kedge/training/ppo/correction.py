"""Answers that other weights have drawn, or another program: how far off they are, what they count, which are too old.

The policy's own log-probabilities of them are computed anew before the update, and are what the update's ratio, the KL
from the reference and the entropy start from; the sampler's serve for the importance weights alone
(:mod:`kedge.core.importance`).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from kedge.core import importance_ratio, importance_weights, masked_mean
from kedge.errors import DataError, NumericsError
from kedge.runs.folder import Metrics
from kedge.sampling.completion import Completion
from kedge.sampling.rollouts import Rollouts
from kedge.training.not_finite import refuse_not_finite
from kedge.training.ppo.config import PPOConfig


def corrected(
    completions: Sequence[Completion],
    rollouts: Rollouts,
    config: PPOConfig,
    *,
    version: int,
    logprobs: Callable[[Rollouts], Tensor],
    rounding: tuple[float, float],
) -> tuple[Rollouts, Metrics]:
    """The answers as an update may take them, and what there is to say of their sampler.

    With ``max_staleness`` the log-probabilities are the policy's own, weights make up for the difference, and answers
    with a token of weights that are older than that are marked as too old; without, only the metrics are new.

    Args:
        completions: the same answers.
        rollouts: with the sampler's log-probabilities.
        config: how stale they may be, and what they count.
        version: of the policy's weights now.
        logprobs: gives ``[B, L]`` under the policy now.
        rounding: how far log-probabilities by two routes may differ, at the worst token and on average.

    Raises:
        DataError: answers that do not say whose weights wrote them. NotFiniteError: log-probabilities are not finite.
        NumericsError: at the first step, where there are no older weights, the sampler's are not the policy's.
    """
    ages = ages_of(completions, version)
    if config.max_staleness and (silent := [i for i, each in enumerate(ages, start=1) if not each]):
        raise DataError(
            f"sampler: completion {silent[0]} does not say which weights wrote its tokens (versions), and "
            f"max_staleness={config.max_staleness} has to know"
        )
    now, mask = logprobs(rollouts), rollouts.response_mask
    refuse_not_finite("log-probabilities under the policy", now)
    difference = (now - rollouts.logprobs).abs().masked_fill(~mask, 0.0)
    worst, average = float(difference.max()), float(masked_mean(difference, mask))
    if version == 0 and config.max_staleness:
        _refuse_another_policy(worst, average, rounding)
    too_old = torch.tensor([max(each, default=0) > config.max_staleness for each in ages])
    ratio = importance_ratio(now, rollouts.logprobs, mask)
    weights = importance_weights(now, rollouts.logprobs, mask, cap=config.importance_cap, kind=config.importance)
    metrics = {
        "sampler/logprob_diff_max": worst,
        "sampler/logprob_diff_avg": average,
        "policy/importance_mean": float(masked_mean(ratio, mask)),
        "policy/importance_max": float(ratio.masked_fill(~mask, 0.0).max()),
        "policy/importance_capped": float(masked_mean((weights != ratio).float(), mask)),
    }
    known = [age for each in ages for age in each]
    if known:
        metrics |= {"sampler/staleness_avg": sum(known) / len(known), "sampler/staleness_max": float(max(known))}
    if not config.max_staleness:
        return rollouts, metrics
    dropped = {"sampler/dropped": float(too_old.sum())}
    return replace(rollouts, logprobs=now, weights=weights, too_old=too_old), metrics | dropped


def ages_of(completions: Sequence[Completion], version: int) -> list[list[int]]:
    """How many updates ago each token's weights were the policy's; nothing for answers that do not say whose they are.

    Args:
        version: of the policy's weights now.
    """
    return [[version - each for each in completion.versions] for completion in completions]


def _refuse_another_policy(worst: float, average: float, rounding: tuple[float, float]) -> None:
    if worst <= rounding[0] and average <= rounding[1]:
        return
    raise NumericsError(
        f"the sampler's log-probabilities differ from the policy's by {worst:.2g} at the worst token and {average:.2g} "
        f"on average before any update (at most {rounding[0]:g} and {rounding[1]:g}): it writes with other weights, in "
        "another dtype, or says log-probabilities of another distribution"
    )
