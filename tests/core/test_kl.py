"""KL estimators, against literal numbers and a distribution small enough to enumerate; the controllers."""

import math

import pytest
import torch
from torch import tensor
from torch.distributions import Categorical, kl_divergence

from kedge.core import AdaptiveKL, FixedKL, kl

POLICY, REFERENCE = [0.5, 0.3, 0.2], [0.2, 0.5, 0.3]
TRUE_KL = 0.2238046572  # .5 ln(.5/.2) + .3 ln(.3/.5) + .2 ln(.2/.3)


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        ("k1", [0.5, -0.5, 0.0, 2.0]),
        ("k2", [0.125, 0.125, 0.0, 2.0]),
        ("k3", [0.1065306597, 0.1487212707, 0.0, 1.1353352832]),  # e**-k1 - 1 + k1
    ],
)
def test_literal(estimator, expected):
    logprobs, reference = tensor([-1.0, -2.0, -3.0, -0.5]), tensor([-1.5, -1.5, -3.0, -2.5])
    assert kl(logprobs, reference, estimator=estimator).tolist() == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_k1_is_the_default():
    assert kl(tensor([-1.0]), tensor([-3.0])).item() == 2.0


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_expectation_is_the_true_kl(estimator):
    p, q = tensor(POLICY), tensor(REFERENCE)
    assert (p * kl(p.log(), q.log(), estimator=estimator)).sum().item() == pytest.approx(TRUE_KL, rel=1e-5)
    assert kl_divergence(Categorical(p), Categorical(q)).item() == pytest.approx(TRUE_KL, rel=1e-5)


def gradient(of, logits):
    logits = logits.clone().requires_grad_()
    of(logits).backward()
    return logits.grad


@pytest.mark.parametrize(("estimator", "right"), [("k1", False), ("k2", True), ("k3", False)])
def test_only_the_gradient_of_k2_is_that_of_the_true_kl(estimator, right):
    policy, reference = tensor(POLICY).log(), tensor(REFERENCE).log()

    def sampled(logits):  # tokens drawn once: the weights they come with are numbers, not functions
        return (tensor(POLICY) * kl(logits.log_softmax(-1), reference, estimator=estimator)).sum()

    def exact(logits):
        return kl_divergence(Categorical(logits=logits), Categorical(logits=reference))

    assert torch.allclose(gradient(sampled, policy), gradient(exact, policy), atol=1e-6) == right


def test_k3_is_never_negative_and_exact_when_small():
    torch.manual_seed(0)
    close = torch.randn(10_000) * 10 ** torch.empty(10_000).uniform_(-8, 1)
    assert kl(close, torch.zeros(10_000), estimator="k3").min() >= 0
    # x**2 / 2 to first order; exp(-x) - 1 + x in float32 would be a multiple of 6e-8.
    assert kl(tensor([1e-3]), tensor([0.0]), estimator="k3").item() == pytest.approx(5e-7, rel=1e-3)


def test_unknown_estimator():
    with pytest.raises(ValueError, match="'k4'"):
        kl(tensor([0.0]), tensor([0.0]), estimator="k4")


@pytest.mark.parametrize(
    ("observed", "episodes", "expected"),
    [
        (12.0, 512, 0.151536),  # twice the target, clipped to +20%
        (600.0, 512, 0.151536),
        (0.0, 512, 0.148464),  # clipped to -20%
        (-5.0, 512, 0.148464),
        (6.6, 512, 0.150768),  # +10%
        (5.4, 512, 0.149232),
        (6.0, 512, 0.15),
        (12.0, 10_000, 0.18),  # a whole horizon
        (12.0, 0, 0.15),
    ],
)
def test_adaptive_kl(observed, episodes, expected):
    controller = AdaptiveKL(0.15, target=6, horizon=10_000)
    assert controller.update(observed, episodes) is None
    assert controller.coefficient == pytest.approx(expected, rel=1e-9)


def test_adaptive_kl_compounds():
    controller = AdaptiveKL(1.0, target=1, horizon=100)
    for _ in range(3):
        controller.update(2.0, 50)
    assert controller.coefficient == pytest.approx(1.331)


def test_fixed_kl_stays():
    controller = FixedKL(0.05)
    controller.update(math.inf, 10**9)
    assert controller.coefficient == 0.05
