"""The losses of policy, critic and reward model: literal numbers first, then what must change nothing."""

import math

import pytest
import torch
from torch import tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from kedge.core import policy_loss, preference_loss, value_clip_fraction, value_loss

OLD = -1.25  # a log-probability; not 0, so that old and new cannot be mistaken for each other


def one_token(ratio, advantage, **settings):
    """(loss, gradient to the log-probability) of a single token."""
    logprobs = tensor([OLD + math.log(ratio)], dtype=torch.float64, requires_grad=True)
    old, mask = tensor([OLD], dtype=torch.float64), tensor([True])
    loss, _ = policy_loss(logprobs, old, tensor([advantage], dtype=torch.float64), mask, **settings)
    loss.backward()
    return loss.item(), logprobs.grad.item()


@pytest.mark.parametrize(
    ("advantage", "ratio", "clip", "loss", "gradient"),
    [
        (+1.0, 1.5, (0.2, 0.2), -1.2, 0.0),
        (+1.0, 1.5, (0.2, 0.28), -1.28, 0.0),
        (+1.0, 1.5, (0.2, 0.6), -1.5, -1.5),
        (+1.0, 0.5, (0.2, 0.2), -0.5, -0.5),  # worse than it was: the way back is never clipped
        (+2.0, 1.1, (0.2, 0.2), -2.2, -2.2),
        (-1.0, 0.5, (0.2, 0.2), 0.8, 0.0),
        (-1.0, 0.5, (0.3, 0.2), 0.7, 0.0),
        (-1.0, 0.5, (0.6, 0.2), 0.5, 0.5),
        (-1.0, 1.5, (0.2, 0.28), 1.5, 1.5),
        (-2.0, 0.9, (0.2, 0.2), 1.8, 1.8),
        (+1.0, 1.0, (0.2, 0.2), -1.0, -1.0),
        (-1.0, 1.0, (0.2, 0.2), 1.0, 1.0),
        (0.0, 3.0, (0.2, 0.2), 0.0, 0.0),
    ],
)
def test_clipped_surrogate(advantage, ratio, clip, loss, gradient):
    assert one_token(ratio, advantage, clip=clip) == pytest.approx((loss, gradient))


@pytest.mark.parametrize(
    ("advantage", "ratio", "loss", "gradient"),
    [
        (-1.0, 5.0, 3.0, 0.0),  # bounded
        (-2.0, 5.0, 6.0, 0.0),
        (-1.0, 2.0, 2.0, 2.0),  # under the bound
        (-1.0, 0.5, 0.8, 0.0),
        (+1.0, 5.0, -1.2, 0.0),  # a positive advantage knows no dual clip
        (+1.0, 0.5, -0.5, -0.5),
    ],
)
def test_dual_clip(advantage, ratio, loss, gradient):
    assert one_token(ratio, advantage, dual_clip=3.0) == pytest.approx((loss, gradient))


def test_policy_metrics():
    ratios, advantages = tensor([1.5, 0.5, 1.5, 1.0]), tensor([1.0, 1.0, -1.0, 1.0])
    old = torch.full((4,), OLD)
    logprobs = (old + ratios.log()).requires_grad_()
    loss, metrics = policy_loss(logprobs, old, advantages, torch.ones(4, dtype=torch.bool))
    assert loss.item() == pytest.approx(-0.3)  # (-1.2 - .5 + 1.5 - 1) / 4
    assert {name: value.item() for name, value in metrics.items()} == pytest.approx(
        {"clipfrac": 0.25, "ratio": 1.125, "approxkl": 0.0955542411}  # the last: mean of ratio - 1 - ln ratio
    )
    assert not any(value.requires_grad for value in metrics.values())


def test_metrics_may_be_left_out():
    arguments = tensor([0.1, -0.2]), tensor([0.0, 0.0]), tensor([1.0, -1.0]), tensor([True, True])
    loss, metrics = policy_loss(*arguments, metrics=False)
    assert loss == policy_loss(*arguments)[0]
    assert metrics == {}


def test_approxkl_is_kl_of_old_to_new():
    # Every token of a vocabulary of two, 3:1 under the old policy: .75 ln(.75/.5) + .25 ln(.25/.5).
    old, new = tensor([0.75, 0.75, 0.75, 0.25]).log(), tensor([0.5, 0.5, 0.5, 0.5]).log()
    _, metrics = policy_loss(new, old, torch.ones(4), torch.ones(4, dtype=torch.bool))
    assert metrics["approxkl"].item() == pytest.approx(0.1308120359, rel=1e-5)


def test_first_minibatch_has_ratio_one():
    logprobs = -torch.rand(4, 6) * 20
    advantages, mask = torch.randn(4, 6), torch.rand(4, 6) < 0.7
    _, metrics = policy_loss(logprobs, logprobs.clone(), advantages, mask)
    assert metrics["clipfrac"] == 0
    assert metrics["approxkl"] == 0
    assert metrics["ratio"].item() == pytest.approx(1)


def test_weights():
    old, advantages, mask = torch.full((3,), OLD), tensor([1.0, -1.0, 9.0]), tensor([True, True, False])
    logprobs = old + tensor([1.5, 1.5, 1.0]).log()
    loss, metrics = policy_loss(logprobs, old, advantages, mask, weights=tensor([0.5, 2.0, math.nan]))
    assert loss.item() == pytest.approx(1.2)  # (-1.2 * .5 + 1.5 * 2) / 2
    assert metrics["ratio"].item() == pytest.approx(1.5)  # the metrics are unweighted


def test_advantages_and_old_logprobs_carry_no_gradient():
    logprobs, old, advantages = (torch.randn(3, 4, requires_grad=True) for _ in range(3))
    policy_loss(logprobs, old, advantages, torch.ones(3, 4, dtype=torch.bool), dual_clip=3.0)[0].backward()
    assert old.grad is None
    assert advantages.grad is None
    assert logprobs.grad.ne(0).any()


@pytest.mark.parametrize("advantage", [1.0, 0.0])
def test_an_overflowing_ratio_is_clipped_too(advantage):
    logprobs = tensor([0.0], requires_grad=True)
    loss, _ = policy_loss(logprobs, tensor([-100.0]), tensor([advantage]), tensor([True]))
    loss.backward()
    assert loss.item() == pytest.approx(-1.2 * advantage)
    assert logprobs.grad.item() == 0


@pytest.mark.parametrize(
    ("value", "old", "target", "clip", "loss", "gradient"),
    [
        (2.0, 1.0, 3.0, None, 0.5, -1.0),
        (2.0, 1.0, -1.0, None, 4.5, 3.0),
        (2.0, 1.0, 3.0, 0.5, 1.125, 0.0),  # held at 1.5, still 1.5 away from 3: the larger error, and no pull
        (2.0, 1.0, 0.0, 0.5, 2.0, 2.0),  # held at 1.5 would look better than it is: the larger error, 2 away
        (0.0, 1.0, -1.0, 0.5, 1.125, 0.0),
        (0.0, 1.0, 2.0, 0.5, 2.0, -2.0),
        (1.25, 1.0, 2.0, 0.5, 0.28125, -0.75),  # not far enough from the old value to be clipped
    ],
)
def test_value_loss(value, old, target, clip, loss, gradient):
    values = tensor([value], requires_grad=True)
    result = value_loss(values, tensor([old]), tensor([target]), tensor([True]), clip=clip)
    result.backward()
    assert (result.item(), values.grad.item()) == pytest.approx((loss, gradient))


def test_value_clip_fraction():
    values, old = tensor([2.0, 2.0, 0.0, 1.25, math.nan]), torch.ones(5)
    returns, mask = tensor([3.0, 0.0, -1.0, 2.0, math.nan]), tensor([True, True, True, True, False])
    assert value_clip_fraction(values, old, returns, mask, clip=0.5) == 0.5
    assert value_clip_fraction(values, old, returns, mask, clip=0.5, denominator=8) == 0.25
    assert value_clip_fraction(values, old, returns, ~mask & False, clip=0.5) == 0


def test_a_value_within_the_clip_is_not_counted():
    torch.manual_seed(0)
    values, old, returns = torch.randn(3, 1000)
    assert value_clip_fraction(values, old, returns, torch.ones(1000, dtype=torch.bool), clip=1e3) == 0


def test_returns_and_old_values_carry_no_gradient():
    values, old, returns = (torch.randn(3, 4, requires_grad=True) for _ in range(3))
    value_loss(values, old, returns, torch.ones(3, 4, dtype=torch.bool), clip=0.2).backward()
    assert old.grad is None
    assert returns.grad is None
    assert values.grad.ne(0).any()


# What must change nothing, for every loss over tokens: f(trained, old, target, weights, mask, denominator).
def unweighted(x, old, target, weights, mask, denominator=None):
    return policy_loss(x, old, target, mask, denominator=denominator)


def weighted(x, old, target, weights, mask, denominator=None):
    return policy_loss(x, old, target, mask, clip=(0.1, 0.3), dual_clip=2.0, weights=weights, denominator=denominator)


def critic(x, old, target, weights, mask, denominator=None):
    return value_loss(x, old, target, mask, denominator=denominator), {}


def clipped_critic(x, old, target, weights, mask, denominator=None):
    fraction = value_clip_fraction(x, old, target, mask, clip=0.2, denominator=denominator)
    return value_loss(x, old, target, mask, clip=0.2, denominator=denominator), {"clipfrac": fraction}


every_loss = pytest.mark.parametrize("loss_of", [unweighted, weighted, critic, clipped_critic])


@pytest.fixture
def arrays():
    """Eight sequences of six tokens: trained, old, target, weights; and a mask with holes and an empty row."""
    random = torch.Generator().manual_seed(0)
    x = torch.randn(4, 8, 6, generator=random)
    x[1] = x[0] + 0.4 * x[1]  # old and new are near each other, on both sides of the clip
    x[3] = x[3].abs()
    mask = torch.rand(8, 6, generator=random) < 0.6
    mask[5] = False
    return list(x), mask


def measure(loss_of, arrays, mask, denominator=None):
    """(loss, metrics, gradient)."""
    trained = arrays[0].clone().requires_grad_()
    loss, metrics = loss_of(trained, *arrays[1:], mask, denominator)
    loss.backward()
    return loss.detach(), metrics, trained.grad


@every_loss
@pytest.mark.parametrize("junk", [math.nan, math.inf, -math.inf])
def test_masked_junk_changes_nothing(loss_of, arrays, junk):
    arrays, mask = arrays
    expected = measure(loss_of, arrays, mask)
    got = measure(loss_of, [x.masked_fill(~mask, junk) for x in arrays], mask)
    torch.testing.assert_close(got, expected, rtol=0, atol=0)
    assert got[2][~mask].eq(0).all()


@every_loss
def test_padding_changes_nothing(loss_of, arrays):
    arrays, mask = arrays
    loss, metrics, gradient = measure(loss_of, arrays, mask)
    padding = torch.full((8, 3), math.nan)
    padded = [torch.cat([x, padding], -1) for x in arrays]
    longer = torch.cat([mask, torch.zeros(8, 3, dtype=torch.bool)], -1)
    expected = (loss, metrics, torch.cat([gradient, torch.zeros(8, 3)], -1))
    torch.testing.assert_close(measure(loss_of, padded, longer), expected)


@every_loss
def test_masked_tokens_may_as_well_be_cut_out(loss_of, arrays):
    arrays, mask = arrays
    loss, metrics, gradient = measure(loss_of, arrays, mask)
    cut = measure(loss_of, [x[mask] for x in arrays], torch.ones(int(mask.sum()), dtype=torch.bool))
    torch.testing.assert_close(cut, (loss, metrics, gradient[mask]))


@every_loss
@pytest.mark.parametrize("denominator", [None, 7])
def test_no_mask_is_a_mask_of_all(loss_of, arrays, denominator):
    arrays, mask = arrays
    expected = measure(loss_of, arrays, torch.ones_like(mask), denominator)
    torch.testing.assert_close(measure(loss_of, arrays, None, denominator), expected)


@every_loss
@pytest.mark.parametrize("tensor_denominator", [True, False])
def test_eight_parts_add_up_to_the_whole(loss_of, arrays, tensor_denominator):
    arrays, mask = arrays
    count = mask.sum() if tensor_denominator else float(mask.sum())
    parts = [measure(loss_of, [x[i : i + 1] for x in arrays], mask[i : i + 1], count) for i in range(8)]
    losses, metrics, gradients = zip(*parts, strict=True)
    summed = (sum(losses), {k: sum(m[k] for m in metrics) for k in metrics[0]}, torch.cat(gradients))
    torch.testing.assert_close(summed, measure(loss_of, arrays, mask))


@every_loss
@pytest.mark.parametrize("denominator", [None, 7])
def test_no_token_no_loss(loss_of, arrays, denominator):
    arrays, mask = arrays
    loss, metrics, gradient = measure(loss_of, [x * math.nan for x in arrays], mask & False, denominator)
    assert loss == 0
    assert gradient.eq(0).all()
    assert all(value == 0 for value in metrics.values())


# Differences 2, -1, 0; -ln sigmoid of them: .126928, 1.313262, .693147.
CHOSEN, REJECTED = [2.0, 0.0, 1.0], [0.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("settings", "loss"),
    [
        ({}, 0.7111122930),
        ({"margin": tensor([1.0, -1.0, 0.5])}, 0.6601619508),  # differences 1, 0, -.5
        ({"center": 0.1}, 1.0111122930),  # sums 2, 1, 2: .1 * 9 / 3 on top
        ({"margin": tensor([1.0, -1.0, 0.5]), "center": 0.1}, 0.9601619508),
        ({"denominator": 6}, 0.3555561465),
        ({"label_smoothing": 0.1}, 0.7444456264),  # of differences 2, -1, 0: .1 * 1 / 3 on top
        ({"agreement": tensor([1.0, 0.75, 0.5])}, 0.6277789597),  # a quarter of -1, half of 0
        ({"agreement": tensor([0.5, 1.0, 1.0]), "label_smoothing": 0.25}, 0.9611122930),  # .5 * 2 - .25 * 1
    ],
)
def test_preference_loss(settings, loss):
    result, metrics = preference_loss(tensor(CHOSEN), tensor(REJECTED), **settings)
    assert result.item() == pytest.approx(loss, rel=1e-6)
    share = 3 / settings.get("denominator", 3)
    assert metrics["accuracy"].item() == pytest.approx(0.5 * share)  # right, wrong, and a tie is half right
    assert metrics["margin"].item() == pytest.approx(share / 3)


def test_preference_loss_is_binary_cross_entropy():
    chosen, rejected = torch.randn(2, 50, generator=torch.Generator().manual_seed(0)) * 5
    expected = binary_cross_entropy_with_logits(chosen - rejected, torch.ones(50))
    torch.testing.assert_close(preference_loss(chosen, rejected)[0], expected)


def test_preference_loss_pulls_apart():
    chosen, rejected = tensor([0.0], requires_grad=True), tensor([0.0], requires_grad=True)
    preference_loss(chosen, rejected)[0].backward()
    assert (chosen.grad.item(), rejected.grad.item()) == (-0.5, 0.5)


def test_preference_loss_knows_differences_only_and_does_not_overflow():
    chosen, rejected = tensor([3.0, -1000.0]), tensor([1.0, 1000.0])
    loss, _ = preference_loss(chosen, rejected)
    torch.testing.assert_close(preference_loss(chosen + 16, rejected + 16)[0], loss)
    assert loss.item() == pytest.approx((0.1269280110 + 2000) / 2)


def test_preference_parts_add_up_and_none_is_zero():
    chosen, rejected, margin = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    whole, metrics = preference_loss(chosen, rejected, margin=margin, center=0.1)
    parts = [
        preference_loss(c, r, margin=m, center=0.1, denominator=8)
        for c, r, m in zip(chosen.split(1), rejected.split(1), margin.split(1), strict=True)
    ]
    torch.testing.assert_close(sum(loss for loss, _ in parts), whole)
    torch.testing.assert_close({k: sum(m[k] for _, m in parts) for k in metrics}, metrics)
    nothing, metrics = preference_loss(torch.zeros(0), torch.zeros(0))
    assert nothing == 0
    assert metrics["accuracy"] == 0
    assert metrics["margin"] == 0
