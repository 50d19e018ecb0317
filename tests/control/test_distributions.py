"""Draws against the probabilities they should have, and probabilities against torch.distributions."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import distributions

from kedge.control.distributions import distribution_for

N = 40_000
LOG_STD = torch.tensor([-0.5, 0.3])


def drawn(space, outputs, log_std=LOG_STD):
    family = distribution_for(space)
    noise = family.noise((N,), log_std, torch.Generator().manual_seed(0))
    return family, family.mode(outputs + noise)


def test_a_choice():
    logits = torch.tensor([0.0, 1.0, -2.0])
    _, actions = drawn(spaces.Discrete(3), logits)
    frequency = torch.bincount(actions, minlength=3) / N
    assert frequency.tolist() == pytest.approx([0.2595, 0.7054, 0.0351], abs=0.01)


def test_several_choices():
    logits = torch.tensor([0.0, 1.0, 3.0, 0.0, 0.0])
    family, actions = drawn(spaces.MultiDiscrete([2, 3]), logits)
    assert (actions[:, 0] == 1).float().mean() == pytest.approx(0.731, abs=0.01)
    assert (actions[:, 1] == 0).float().mean() == pytest.approx(0.9094, abs=0.01)
    both = torch.cov((actions == torch.tensor([1, 0])).T.double())
    assert abs(both[0, 1]) < 0.003  # independent of each other
    pair = distributions.Categorical(logits=logits[:2]), distributions.Categorical(logits=logits[2:])
    expected = pair[0].log_prob(actions[:50, 0]) + pair[1].log_prob(actions[:50, 1])
    assert torch.allclose(family.logprobs(logits.expand(50, 5), LOG_STD, actions[:50]), expected, atol=1e-6)
    assert float(family.entropies(logits, LOG_STD)) == pytest.approx(float(pair[0].entropy() + pair[1].entropy()))


def test_switches():
    logits = torch.tensor([0.0, 2.0, -1.0])
    family, actions = drawn(spaces.MultiBinary(3), logits)
    assert actions.mean(0).tolist() == pytest.approx([0.5, 0.8808, 0.2689], abs=0.01)
    reference = distributions.Bernoulli(logits=logits)
    expected = reference.log_prob(actions[:50]).sum(-1)
    assert torch.allclose(family.logprobs(logits.expand(50, 3), LOG_STD, actions[:50]), expected, atol=1e-6)
    assert float(family.entropies(logits, LOG_STD)) == pytest.approx(float(reference.entropy().sum()), rel=1e-5)


def test_numbers():
    mean = torch.tensor([1.0, -2.0])
    family, actions = drawn(spaces.Box(-1, 1, (2,), np.float32), mean)
    assert actions.mean(0).tolist() == pytest.approx([1.0, -2.0], abs=0.03)
    assert actions.std(0).tolist() == pytest.approx(LOG_STD.exp().tolist(), rel=0.02)
    reference = distributions.Normal(mean, LOG_STD.exp())
    expected = reference.log_prob(actions[:50]).sum(-1)
    assert torch.allclose(family.logprobs(mean.expand(50, 2), LOG_STD, actions[:50]), expected, atol=1e-5)
    assert float(family.entropies(mean, LOG_STD)) == pytest.approx(float(reference.entropy().sum()), rel=1e-6)
    assert np.abs(family.for_environment(actions.numpy())).max() <= 1
