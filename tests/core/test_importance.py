"""Importance weights: literal numbers, and that they make up for who drew."""

import math

import pytest
import torch
from torch import tensor

from kedge.core import importance_ratio, importance_weights

SAMPLER = -1.75  # a log-probability; not 0, so that the two cannot be mistaken for each other


def weight(ratio, **settings):
    logprobs = tensor([[SAMPLER + math.log(ratio)]], dtype=torch.float64)
    return importance_weights(logprobs, torch.full_like(logprobs, SAMPLER), None, **settings).item()


@pytest.mark.parametrize(
    ("ratio", "cap", "truncated", "masked"),
    [
        (1.0, 2.0, 1.0, 1.0),
        (1.5, 2.0, 1.5, 1.5),
        (3.0, 2.0, 2.0, 0.0),
        (3.0, 4.0, 3.0, 3.0),
        (0.6, 2.0, 0.6, 0.6),
        (0.4, 2.0, 0.4, 0.0),
        (0.4, 4.0, 0.4, 0.4),
        (1e-6, 2.0, 1e-6, 0.0),
    ],
)
def test_a_token(ratio, cap, truncated, masked):
    assert weight(ratio, cap=cap) == pytest.approx(truncated)
    assert weight(ratio, cap=cap, kind="mask") == pytest.approx(masked)


def test_far_apart_is_no_infinity():
    far = importance_ratio(tensor([[-1.0, -900.0]]), tensor([[-900.0, -1.0]]), None)
    assert far.isfinite().all()
    assert importance_weights(tensor([[-1.0]]), tensor([[-900.0]]), None).item() == 2.0


@pytest.mark.parametrize("kind", ["truncate", "mask"])
def test_masked_places_may_hold_anything(kind):
    mask = tensor([[True, False, False]])
    logprobs, sampler = tensor([[-1.0, torch.nan, -2.0]]), tensor([[-1.25, -3.0, torch.inf]])
    found = importance_weights(logprobs, sampler, mask, kind=kind)
    assert found.tolist() == [[pytest.approx(math.exp(0.25)), 0.0, 0.0]]


def test_they_carry_no_gradient():
    logprobs = tensor([[-1.0]], requires_grad=True)
    assert not importance_weights(logprobs, tensor([[-1.5]]), None).requires_grad


def test_what_one_policy_draws_speaks_for_the_other():
    """Over every token that may be drawn, with its probability: E_q[w f] = E_p[f] while nothing is capped."""
    generator = torch.Generator().manual_seed(0)
    p, q = (torch.randn(6, generator=generator, dtype=torch.float64).log_softmax(-1) for _ in range(2))
    worth = torch.randn(6, generator=generator, dtype=torch.float64)
    weights = importance_weights(p, q, None, cap=1e9)
    assert (q.exp() * weights * worth).sum().item() == pytest.approx((p.exp() * worth).sum().item())
    capped = importance_weights(p, q, None, cap=1.5)
    assert (capped == weights.clamp(max=1.5)).all()
    assert 0 < (capped < weights).sum() < 6
