"""The losses of PPO and of the reward model."""

import torch
from torch import Tensor
from torch.nn.functional import hardtanh, logsigmoid

from kedge.core.kl import kl
from kedge.core.masking import keep, masked_mean

LossMetrics = dict[str, Tensor]

# Beyond it a ratio says nothing but "far away", and in float32 it would soon be infinite and its gradient NaN.
LOG_RATIO_LIMIT = 20.0


def policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor | None,
    *,
    clip: tuple[float, float] = (0.2, 0.2),
    dual_clip: float | None = None,
    weights: Tensor | None = None,
    denominator: Tensor | float | None = None,
    metrics: bool = True,
) -> tuple[Tensor, LossMetrics]:
    """The clipped surrogate of PPO (Schulman et al. 2017, eq. 7), to be minimised.

    Args:
        logprobs: ``[..., L]`` of the taken tokens under the policy being trained; carries the gradient.
        old_logprobs: ``[..., L]`` under the policy that sampled them.
        advantages: ``[..., L]``.
        mask: ``[..., L]`` bool, True on trained tokens; None: all are.
        clip: ``(low, high)``: the ratio is clipped to ``[1 - low, 1 + high]``. A larger ``high`` leaves rare tokens
            room to grow (Yu et al. 2025, "clip-higher").
        dual_clip: with a negative advantage, bound the loss at ``-dual_clip * advantage`` (Ye et al. 2020); > 1.
        weights: ``[..., L]`` factor a token, e.g. an importance weight for a stale sampler.
        denominator: global count of trained tokens (see :func:`kedge.core.masked_mean`).
        metrics: False returns none: with a network of a few thousand weights they take as long as the loss.

    Returns:
        ``(loss, metrics)``: the scalar loss, and detached means over the same tokens with the same denominator, so
        that the parts of a batch add up: ``clipfrac``, ``approxkl`` (k3 of old against new), ``ratio``.
    """
    old_logprobs, advantages = keep(old_logprobs.detach(), mask), keep(advantages.detach(), mask)
    log_ratio = keep(logprobs, mask) - old_logprobs
    ratio = hardtanh(log_ratio, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()  # clamp, with a backward pass of one kernel
    losses = -advantages * ratio
    with torch.no_grad():  # where the clipped one is the larger, it is a constant
        clipped_loss = -advantages * ratio.clamp(1.0 - clip[0], 1.0 + clip[1])
        is_clipped = clipped_loss > losses
    losses = torch.where(is_clipped, clipped_loss, losses)
    if dual_clip is not None:
        losses = torch.where(advantages < 0, torch.minimum(losses, -advantages * dual_clip), losses)
    if weights is not None:
        losses = losses * keep(weights.detach(), mask)
    loss = masked_mean(losses, mask, denominator=denominator)
    if not metrics:
        return loss, {}
    with torch.no_grad():
        seen = {
            "clipfrac": masked_mean(is_clipped.float(), mask, denominator=denominator),
            "approxkl": masked_mean(
                kl(old_logprobs, old_logprobs + log_ratio, estimator="k3"), mask, denominator=denominator
            ),
            "ratio": masked_mean(ratio, mask, denominator=denominator),
        }
    return loss, seen


def _value_errors(values: Tensor, returns: Tensor, mask: Tensor | None) -> Tensor:
    return (keep(values, mask) - keep(returns.detach(), mask)).square() / 2


def _near(values: Tensor, old_values: Tensor, clip: float) -> Tensor:
    """``values``, moved at most ``clip`` from the old ones."""
    return old_values.detach() + (values - old_values.detach()).clamp(-clip, clip)


def value_loss(
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    mask: Tensor | None,
    *,
    clip: float | None = None,
    denominator: Tensor | float | None = None,
) -> Tensor:
    """Half the squared error of the critic, a mean over tokens.

    Args:
        values: ``[..., L]`` V before each token, carrying the gradient.
        old_values: ``[..., L]`` as they were when the rollout was made.
        returns: ``[..., L]`` the target.
        mask: ``[..., L]`` bool, True on trained tokens; None: all are.
        clip: let a value move at most this far from its old one, pessimistically: the larger of the clipped and
            the unclipped error counts (the value clipping of OpenAI's baselines). None: no clipping.
        denominator: global count of trained tokens.
    """
    errors = _value_errors(values, returns, mask)
    if clip is not None:
        errors = torch.maximum(errors, _value_errors(_near(values, old_values, clip), returns, mask))
    return masked_mean(errors, mask, denominator=denominator)


def value_clip_fraction(
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    mask: Tensor | None,
    *,
    clip: float,
    denominator: Tensor | float | None = None,
) -> Tensor:
    """Share of tokens on which :func:`value_loss` took the clipped error. Same arguments."""
    with torch.no_grad():
        clipped = _value_errors(_near(values, old_values, clip), returns, mask)
        worse = (clipped > _value_errors(values, returns, mask)) & ((values - old_values).abs() > clip)
        return masked_mean(worse.float(), mask, denominator=denominator)


def preference_loss(
    chosen: Tensor,
    rejected: Tensor,
    *,
    margin: Tensor | None = None,
    agreement: Tensor | None = None,
    label_smoothing: float = 0.0,
    center: float = 0.0,
    denominator: Tensor | float | None = None,
) -> tuple[Tensor, LossMetrics]:
    """Negative log-likelihood of preferences under Bradley & Terry (1952), as in Ouyang et al. 2022, eq. 1.

    Args:
        chosen: ``[N]`` scores of the preferred answers.
        rejected: ``[N]`` of the others.
        margin: ``[N]`` by how much the chosen one should win (Touvron et al. 2023, eq. 2).
        agreement: ``[N]`` share of the raters who prefer the chosen one, 1/2 for a tie; default 1.
        label_smoothing: share of labels, from 0 to 1/2, that may be the wrong way round (Mitchell 2023).
        center: coefficient of ``(chosen + rejected)**2``, which keeps scores around 0 (Eisenstein et al. 2023).
        denominator: global number of pairs, where this is one part of a batch.

    Returns:
        ``(loss, metrics)`` with ``accuracy`` (a tie is half right) and ``margin`` (mean chosen - rejected).
    """
    everything = torch.ones_like(chosen, dtype=torch.bool)
    difference = chosen - rejected
    ahead = difference if margin is None else difference - margin
    losses = -logsigmoid(ahead)
    if agreement is not None or label_smoothing:
        share = torch.ones_like(ahead) if agreement is None else agreement
        share = share * (1 - label_smoothing) + (1 - share) * label_smoothing
        losses = losses + (1 - share) * ahead  # -log(1 - sigmoid(x)) = x - log(sigmoid(x))
    if center:
        losses = losses + center * (chosen + rejected).square()
    with torch.no_grad():
        right = (difference > 0).float() + (difference == 0).float() / 2
        metrics = {
            "accuracy": masked_mean(right, everything, denominator=denominator),
            "margin": masked_mean(difference, everything, denominator=denominator),
        }
    return masked_mean(losses, everything, denominator=denominator), metrics


def rating_loss(
    outputs: Tensor, ratings: Tensor, *, denominator: Tensor | float | None = None
) -> tuple[Tensor, LossMetrics]:
    """Mean squared error of ratings of several objectives.

    Args:
        outputs: ``[N, K]`` of the model.
        ratings: ``[N, K]`` of raters, in the outputs' units; NaN where nobody said. Each row has one at least.
        denominator: global number of texts, where this is one part of a batch.

    Returns:
        ``(loss, metrics)`` with ``error``, the same number: 1 where ratings of variance 1 are guessed by their mean.
    """
    known = ~ratings.isnan()
    squared = keep((outputs - ratings.nan_to_num()).square(), known).sum(-1) / known.sum(-1)
    loss = masked_mean(squared, torch.ones_like(squared, dtype=torch.bool), denominator=denominator)
    return loss, {"error": loss.detach()}


def step_loss(
    outputs: Tensor, labels: Tensor, weights: Tensor, *, denominator: Tensor | float | None = None
) -> tuple[Tensor, LossMetrics]:
    """Cross-entropy of whether steps are right.

    Args:
        outputs: ``[M]`` log-odds of the model, of the steps of several answers.
        labels: ``[M]`` from 0, wrong, to 1, right.
        weights: ``[M]`` of the steps; those of an answer sum to 1.
        denominator: global number of answers, where this is one part of a batch.

    Returns:
        ``(loss, metrics)`` with ``accuracy``, weighed alike; a label of 1/2 is right either way by half.
    """
    counts = weights > 0
    losses = (-logsigmoid(outputs) + (1 - labels) * outputs) * weights
    with torch.no_grad():
        chosen = (outputs > 0).to(labels)
        right = (chosen * labels + (1 - chosen) * (1 - labels)) * weights
    total = weights.sum() if denominator is None else denominator
    loss, accuracy = (masked_mean(x, counts, denominator=total) for x in (losses, right))
    return loss, {"accuracy": accuracy}
