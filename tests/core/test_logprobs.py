"""Log-probabilities and entropy, against literal numbers and PyTorch's own distributions."""

import math

import pytest
import torch
from torch import tensor
from torch.distributions import Categorical
from torch.nn.functional import cross_entropy

from kedge.core import entropy, logprobs_and_entropy, token_logprobs

INF = math.inf


@pytest.fixture
def logits():
    return torch.randn(2, 5, 11, generator=torch.Generator().manual_seed(0)) * 3


@pytest.fixture
def tokens():
    return torch.randint(11, (2, 5), generator=torch.Generator().manual_seed(1))


# Logits (0, ln 3) are the probabilities (1/4, 3/4); at temperature 1/2, (1/10, 9/10).
@pytest.mark.parametrize(
    ("temperature", "first", "second", "spread"),
    [(1.0, -1.3862943611, -0.2876820724, 0.5623351446), (0.5, -2.3025850930, -0.1053605157, 0.3250829734)],
)
def test_literal(temperature, first, second, spread):
    logits = tensor([[0.0, math.log(3)], [0.0, math.log(3)]])
    logprobs = token_logprobs(logits, tensor([0, 1]), temperature=temperature)
    assert logprobs.tolist() == pytest.approx([first, second], rel=1e-6)
    assert entropy(logits, temperature=temperature).tolist() == pytest.approx([spread, spread], rel=1e-6)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.7])
def test_against_torch(logits, tokens, temperature):
    categorical = Categorical(logits=logits / temperature)
    ours = token_logprobs(logits, tokens, temperature=temperature)
    torch.testing.assert_close(ours, categorical.log_prob(tokens))
    torch.testing.assert_close(entropy(logits, temperature=temperature), categorical.entropy())


def test_gradient_is_that_of_cross_entropy(logits, tokens):
    a, b = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    (-token_logprobs(a, tokens, temperature=0.7)).mean().backward()
    cross_entropy(b.flatten(0, 1) / 0.7, tokens.flatten()).backward()
    torch.testing.assert_close(a.grad, b.grad)


def test_entropy_gradient_is_that_of_torch(logits):
    a, b = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    entropy(a).sum().backward()
    Categorical(logits=b).entropy().sum().backward()
    torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize("shift", [-64.0, 0.5, 64.0])
def test_a_constant_added_to_the_logits_changes_nothing(logits, tokens, shift):
    tolerance = {"atol": 2e-5, "rtol": 1e-5}
    torch.testing.assert_close(token_logprobs(logits + shift, tokens), token_logprobs(logits, tokens), **tolerance)
    torch.testing.assert_close(entropy(logits + shift), entropy(logits), **tolerance)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_worked_on_in_float32(logits, tokens, dtype):
    half = logits.to(dtype)
    for low, full in [
        (
            token_logprobs(half, tokens, temperature=0.7),
            token_logprobs(half.float(), tokens, temperature=0.7),
        ),
        (entropy(half, temperature=0.7), entropy(half.float(), temperature=0.7)),
    ]:
        assert low.dtype == torch.float32
        assert torch.equal(low, full)


def test_float64_stays_float64(logits, tokens):
    assert token_logprobs(logits.double(), tokens).dtype == torch.float64
    assert entropy(logits.double()).dtype == torch.float64


def test_a_position_does_not_see_its_neighbours(logits, tokens):
    expected = token_logprobs(logits, tokens)[:, :3].clone()
    logits[:, 3:] = math.nan
    assert torch.equal(token_logprobs(logits, tokens)[:, :3], expected)


@pytest.mark.parametrize("vocabulary", [1, 2, 1000])
def test_entropy_of_the_uniform_is_the_log_of_its_size(vocabulary):
    assert entropy(torch.full((vocabulary,), 3.0)).item() == pytest.approx(math.log(vocabulary), rel=1e-6, abs=1e-6)


def test_a_banned_token_has_probability_zero_and_adds_nothing():
    logits = tensor([[0.0, math.log(3), -INF]]).expand(3, 3)
    logprobs = token_logprobs(logits, tensor([0, 1, 2]))
    assert logprobs.tolist() == pytest.approx([-1.3862943611, -0.2876820724, -INF], rel=1e-6)
    assert entropy(logits[0]).item() == pytest.approx(0.5623351446, rel=1e-6)


def test_a_banned_token_does_not_poison_the_gradient_of_the_entropy():
    banned = tensor([0.0, 1.0, -INF], requires_grad=True)
    entropy(banned).backward()
    free = tensor([0.0, 1.0], requires_grad=True)
    entropy(free).backward()
    assert banned.grad.tolist() == pytest.approx([*free.grad.tolist(), 0.0])


def test_a_banned_token_does_not_poison_the_gradient_of_a_logprob():
    logits = tensor([[0.0, math.log(3), -INF]], requires_grad=True)
    token_logprobs(logits, tensor([0])).sum().backward()
    assert logits.grad[0].tolist() == pytest.approx([0.75, -0.75, 0.0])


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_both_at_once_are_each_alone(temperature):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 5, 11, generator=generator, dtype=torch.float64) * 3
    logits[0, 0, 4] = -torch.inf
    logits.requires_grad_()
    tokens = torch.randint(0, 4, (3, 5), generator=generator)

    def gradient(logprobs, of_entropy):
        [found] = torch.autograd.grad(logprobs.sum() + 2 * of_entropy.square().sum(), logits)
        return found

    apart = token_logprobs(logits, tokens, temperature=temperature), entropy(logits, temperature=temperature)
    together = logprobs_and_entropy(logits, tokens, temperature=temperature)
    for a, b in zip(apart, together, strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-12)
    assert torch.allclose(gradient(*apart), gradient(*together), rtol=0, atol=1e-12)
    looked_at = logprobs_and_entropy(logits, tokens, temperature=temperature, entropy_gradient=False)
    assert torch.allclose(looked_at[1], apart[1], rtol=0, atol=1e-12)
    assert not looked_at[1].requires_grad
    assert looked_at[0].requires_grad
