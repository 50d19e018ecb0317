"""Means and whitening over the tokens that count."""

import torch
from torch import Tensor

# Added to a variance before its root: advantages of nearly equal rewards stay small instead of exploding.
VARIANCE_FLOOR = 1e-8


def keep(x: Tensor, mask: Tensor | None) -> Tensor:
    """``x`` where ``mask``, 0 elsewhere. Unlike ``x * mask`` it also stops a NaN, and the gradient of one."""
    if mask is None:
        return x
    return torch.where(mask, x, torch.zeros((), dtype=x.dtype, device=x.device))


def masked_mean(x: Tensor, mask: Tensor | None, *, denominator: Tensor | float | None = None) -> Tensor:
    """Sum of ``x`` over ``mask``, divided by ``denominator`` (default: the number of True in ``mask``).

    Args:
        x: ``[...]``, any float type.
        mask: ``[...]`` bool, True where the entry counts; None: every one does.
        denominator: the global count, where this is one part of a larger batch: the parts' results then add up
            to the whole batch's mean.

    Returns:
        A scalar. The mean over an empty mask is 0.
    """
    if mask is None:
        return x.mean() if denominator is None else x.sum() / denominator
    total = keep(x, mask).sum()
    return total / (mask.sum().clamp(min=1) if denominator is None else denominator)


def center(x: Tensor, mean: Tensor, constant: Tensor) -> Tensor:
    """``x - mean``, and exactly 0 where ``constant``: the mean of equal numbers is off by a rounding, which a
    division by the root of ``VARIANCE_FLOOR`` would blow up."""
    return torch.where(constant, 0.0, x - mean)


def _spread(x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and population variance, and whether all entries are equal."""
    if mask is None:
        variance, mean = torch.var_mean(x, correction=0)
        low, high = torch.aminmax(x)
    else:
        mean = masked_mean(x, mask)
        variance = masked_mean((x - mean).square(), mask)
        low, high = torch.where(mask, x, torch.inf).amin(), torch.where(mask, x, -torch.inf).amax()
    return mean, variance, low == high


def whiten(x: Tensor, mask: Tensor | None, *, shift_mean: bool = True) -> Tensor:
    """Scale the masked entries to variance 1 (population), and shift them to mean 0 unless told not to.

    Args:
        x: ``[...]`` float.
        mask: ``[...]`` bool, True where the entry counts; None: every one does.
        shift_mean: False keeps the mean where it was, as a reward needs: moving it would change which answers
            are worth giving at all.

    Returns:
        ``[...]``, 0.0 where ``mask`` is False. Equal entries give exactly 0 (or their mean, with
        ``shift_mean=False``), never NaN.
    """
    kept = keep(x, mask)
    mean, variance, constant = _spread(kept, mask)
    scaled = center(kept, mean, constant) * torch.rsqrt(variance + VARIANCE_FLOOR)
    return keep(scaled if shift_mean else scaled + mean, mask)
