"""Importance weights: what a token counts that another policy drew than the one that learns from it."""

from typing import Literal

from torch import Tensor
from torch.nn.functional import hardtanh

from kedge.core.losses import LOG_RATIO_LIMIT
from kedge.core.masking import keep

ImportanceKind = Literal["truncate", "mask"]


def importance_ratio(logprobs: Tensor, sampler_logprobs: Tensor, mask: Tensor | None) -> Tensor:
    """How much likelier the policy is to choose each token than who drew it.

    Args:
        logprobs: ``[..., L]`` in nats, of the taken tokens under the policy.
        sampler_logprobs: ``[..., L]`` under the distribution that they were drawn from.
        mask: ``[..., L]`` bool, True on the tokens that count; None: all do.

    Returns:
        ``[..., L]``, 1.0 where ``mask`` is False.
    """
    difference = keep(logprobs, mask) - keep(sampler_logprobs, mask)
    return hardtanh(difference, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()


def importance_weights(
    logprobs: Tensor,
    sampler_logprobs: Tensor,
    mask: Tensor | None,
    *,
    cap: float = 2.0,
    kind: ImportanceKind = "truncate",
) -> Tensor:
    """The factor by which a token's part of the policy's loss makes up for another policy having drawn it.

    With ``truncate`` the ratio, but ``cap`` at most: a small bias for a bounded variance (Ionides 2008; Espeholt et al.
    2018, IMPALA, section 4.1). With ``mask`` the ratio, and 0 where it is above ``cap`` or below ``1 / cap``: nothing
    is learnt from tokens on which the two differ so much. The clipped surrogate then compares with the policy as it was
    when the update began, and not with the one that drew (the "decoupled" objective of Hilton et al. 2021).

    Args:
        logprobs: ``[..., L]`` in nats, of the taken tokens under the policy when the update begins.
        sampler_logprobs: ``[..., L]`` under the distribution that they were drawn from.
        mask: ``[..., L]`` bool, True on the tokens that count; None: all do.
        cap: the largest weight; more than 1.
        kind: what becomes of a ratio beyond it.

    Returns:
        ``[..., L]``, 0.0 where ``mask`` is False.
    """
    ratio = importance_ratio(logprobs.detach(), sampler_logprobs.detach(), mask)
    if kind == "truncate":
        return keep(ratio.clamp(max=cap), mask)
    within = (ratio <= cap) & (ratio >= 1.0 / cap)
    return keep(keep(ratio, within), mask)
