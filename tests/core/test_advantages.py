"""Advantages, against literal numbers and the double sum that defines them, in plain Python."""

import math

import pytest
import torch
from torch import tensor

from kedge.core import gae, group_advantages, token_gae

KINDS = ["grpo", "dr_grpo", "rloo", "reinforce++"]


def gae_by_definition(rewards, values, next_values, carry, gamma, lam):
    """A_t = sum over k of (gamma lam)**k delta_{t+k}, up to and including the step after which nothing carries."""
    deltas = [r + gamma * n - v for r, v, n in zip(rewards, values, next_values, strict=True)]
    advantages = []
    for t in range(len(deltas)):
        total = 0.0
        for k, delta in enumerate(deltas[t:]):
            total += (gamma * lam) ** k * delta
            if not carry[t + k]:
                break
        advantages.append(total)
    return advantages


@pytest.mark.parametrize(
    ("next_values", "carry", "expected"),
    [
        ([1.0, 1.5, 2.0], [1.0, 1.0, 1.0], [4.80272, 4.726, 3.3]),
        ([1.0, 0.0, 2.0], [1.0, 0.0, 1.0], [2.12, 1.0, 3.3]),  # terminated after t=1
        ([1.0, 1.5, 2.0], [1.0, 0.0, 1.0], [3.092, 2.35, 3.3]),  # cut off after t=1, in a state worth 1.5
    ],
)
def test_gae(next_values, carry, expected):
    rewards, values = tensor([1.0, 2.0, 3.0]), tensor([0.5, 1.0, 1.5])
    advantages, returns = gae(rewards, values, tensor(next_values), tensor(carry), gamma=0.9, lam=0.8)
    assert advantages.tolist() == pytest.approx(expected, rel=1e-6)
    assert returns.tolist() == pytest.approx([a + v for a, v in zip(expected, [0.5, 1.0, 1.5], strict=True)])


@pytest.mark.parametrize(("gamma", "lam"), [(0.99, 0.95), (0.9, 1.0), (0.9, 0.0), (1.0, 1.0), (0.0, 0.5)])
def test_gae_by_definition(gamma, lam):
    torch.manual_seed(0)
    rewards, values, next_values = torch.randn(3, 4, 12, dtype=torch.float64)
    carry = (torch.rand(4, 12) < 0.7).double()
    advantages, _ = gae(rewards, values, next_values, carry, gamma=gamma, lam=lam)
    for row in range(4):
        arrays = (x[row].tolist() for x in (rewards, values, next_values, carry))
        assert advantages[row].tolist() == pytest.approx(gae_by_definition(*arrays, gamma, lam), rel=1e-9)


def test_gae_with_lambda_one_is_the_discounted_sum_of_rewards():
    values = tensor([0.3, -0.2, 5.0, 0.7])
    next_values = tensor([-0.2, 5.0, 0.7, 0.0])
    _, returns = gae(tensor([1.0, 2.0, 4.0, 8.0]), values, next_values, torch.ones(4), gamma=0.5, lam=1.0)
    assert returns.tolist() == pytest.approx([4.0, 6.0, 8.0, 8.0])


def test_gae_nothing_leaks_from_the_next_episode():
    carry = tensor([1.0, 0.0, 1.0])
    first, _ = gae(torch.ones(3), torch.ones(3), torch.ones(3), carry, gamma=0.9, lam=0.8)
    later, _ = gae(tensor([1.0, 1.0, 99.0]), tensor([1.0, 1.0, -99.0]), torch.ones(3), carry, gamma=0.9, lam=0.8)
    assert torch.equal(first[:2], later[:2])
    assert first[2] != later[2]


# KL of .1, -.2, .3 taken off at .05, a score of 1 on the last token.
REWARDS, VALUES = [-0.005, 0.01, 0.985], [0.2, 0.4, 0.6]


@pytest.mark.parametrize(
    ("bootstrap", "expected"),
    [
        (None, [0.7419625, 0.57575, 0.385]),
        ([0.0], [0.7419625, 0.57575, 0.385]),
        ([1.0], [1.6444625, 1.52575, 1.385]),
    ],
)
def test_token_gae(bootstrap, expected):
    bootstrap = None if bootstrap is None else tensor(bootstrap)
    rewards, values, mask = tensor([REWARDS]), tensor([VALUES]), torch.ones(1, 3, dtype=torch.bool)
    advantages, returns = token_gae(rewards, values, mask, bootstrap=bootstrap)  # gamma 1, lam .95 by default
    assert advantages[0].tolist() == pytest.approx(expected, rel=1e-5)
    assert returns[0].tolist() == pytest.approx([a + v for a, v in zip(expected, VALUES, strict=True)], rel=1e-5)


@pytest.mark.parametrize("junk", [math.nan, math.inf, -1e9])
@pytest.mark.parametrize("where", [[0, 1, 2], [2, 3, 4], [0, 2, 4], [1, 4, 6]])
def test_token_gae_masked_tokens_do_not_exist(where, junk):
    rewards, values = torch.full((2, 2, 7), junk)
    mask = torch.zeros(2, 7, dtype=torch.bool)
    rewards[0, where], values[0, where], mask[0, where] = tensor(REWARDS), tensor(VALUES), True
    advantages, returns = token_gae(rewards, values, mask)
    assert advantages[0, where].tolist() == pytest.approx([0.7419625, 0.57575, 0.385], rel=1e-5)
    assert returns[0, where].tolist() == pytest.approx([0.9419625, 0.97575, 0.985], rel=1e-5)
    assert advantages[~mask].eq(0).all()
    assert returns[~mask].eq(0).all()


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 1.0), (0.9, 0.8), (1.0, 0.0)])
@pytest.mark.parametrize("cut_off", [False, True])
def test_token_gae_by_definition(gamma, lam, cut_off):
    torch.manual_seed(1)
    rewards, values = torch.randn(2, 5, 9, dtype=torch.float64)
    mask, bootstrap = torch.rand(5, 9) < 0.6, torch.randn(5, dtype=torch.float64) if cut_off else None
    advantages, returns = token_gae(rewards, values, mask, gamma=gamma, lam=lam, bootstrap=bootstrap)
    for row in range(5):
        chosen = mask[row]
        r, v = rewards[row, chosen].tolist(), values[row, chosen].tolist()
        following = [*v[1:], bootstrap[row].item() if cut_off else 0.0]
        expected = gae_by_definition(r, v, following, [1] * len(r), gamma, lam)
        assert advantages[row, chosen].tolist() == pytest.approx(expected, rel=1e-9)
        assert returns[row, chosen].tolist() == pytest.approx([a + b for a, b in zip(expected, v, strict=True)])


def test_token_gae_leaves_its_arguments_alone():
    rewards, values, mask = torch.ones(1, 3), torch.ones(1, 3), tensor([[True, False, True]])
    token_gae(rewards, values, mask)
    assert rewards.eq(1).all()
    assert values.eq(1).all()
    assert mask.tolist() == [[True, False, True]]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        # Group means 3 and 1, population variances 3.5 and 3; batch mean 2, variance 4.25.
        (
            "grpo",
            [
                -1.069044968,
                -0.534522484,
                0,
                1.603567451,
                -0.577350269,
                -0.577350269,
                -0.577350269,
                1.732050808,
            ],
        ),
        ("dr_grpo", [-2, -1, 0, 3, -1, -1, -1, 3]),
        ("rloo", [-8 / 3, -4 / 3, 0, 4, -4 / 3, -4 / 3, -4 / 3, 4]),
        (
            "reinforce++",
            [-0.48507125, 0, 0.48507125, 1.940285, -0.9701425, -0.9701425, -0.9701425, 0.9701425],
        ),
    ],
)
def test_group_advantages(kind, expected):
    scores = tensor([1.0, 2.0, 3.0, 6.0, 0.0, 0.0, 0.0, 4.0])
    assert group_advantages(scores, 4, kind=kind).tolist() == pytest.approx(expected, rel=1e-5, abs=1e-6)
    if kind == "grpo":
        assert group_advantages(scores, 4).tolist() == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_rloo_by_definition():
    scores = torch.randn(12, generator=torch.Generator().manual_seed(0)).tolist()
    expected = []
    for i, score in enumerate(scores):
        group = range(i - i % 3, i - i % 3 + 3)
        others = [scores[j] for j in group if j != i]
        expected.append(score - sum(others) / len(others))
    assert group_advantages(tensor(scores), 3, kind="rloo").tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [2, 3, 7, 16])
@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, -0.7, 1e6 + 0.1])
@pytest.mark.parametrize("kind", KINDS)
def test_equal_scores_give_exactly_zero(kind, value, size, dtype):
    assert group_advantages(torch.full((3 * size,), value, dtype=dtype), size, kind=kind).eq(0).all()


@pytest.mark.parametrize("kind", ["grpo", "dr_grpo", "rloo"])
def test_an_equal_group_beside_an_unequal_one(kind):
    advantages = group_advantages(tensor([0.1, 0.1, 0.1, 0.0, 0.0, 1.0]), 3, kind=kind)
    assert advantages[:3].eq(0).all()
    assert advantages[3:].ne(0).all()


@pytest.mark.parametrize("kind", ["grpo", "dr_grpo", "reinforce++"])
def test_a_group_of_one(kind):
    advantages = group_advantages(tensor([1.0, 3.0]), 1, kind=kind)
    assert advantages.tolist() == pytest.approx([-1.0, 1.0] if kind == "reinforce++" else [0.0, 0.0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_constant_added_to_every_score_changes_nothing(kind):
    scores = torch.randn(12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(group_advantages(scores + 7, 4, kind=kind), group_advantages(scores, 4, kind=kind))


@pytest.mark.parametrize(
    ("kind", "size", "match"),
    [("ppo", 2, "'ppo'"), ("grpo", 4, "4"), ("grpo", 0, "0"), ("rloo", 1, "at least 2")],
)
def test_group_advantages_errors(kind, size, match):
    with pytest.raises(ValueError, match=match):
        group_advantages(torch.zeros(6), size, kind=kind)
