"""The update alone, with networks and data of the caller's."""

import pytest
import torch
from torch import nn
from torch.distributions import Normal

from kedge.control.plain import PlainPPO


def networks(out=2):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, out)), nn.Linear(3, 1)


def test_the_better_action_becomes_likelier():
    """A bandit: action 1 earns 1, action 0 nothing."""
    policy, value = networks()
    ppo = PlainPPO(policy, value, lr_policy=1e-2, lr_value=1e-2, gamma=0.9, ppo_epochs=4, eps_clip=0.2)
    generator = torch.Generator().manual_seed(0)
    for _ in range(30):
        states = torch.randn(64, 3, generator=generator)
        actions = torch.distributions.Categorical(logits=policy(states)).sample()
        metrics = ppo.update(states, actions, actions.float(), states, torch.ones(64))
    assert policy(torch.zeros(1, 3)).softmax(-1)[0, 1] > 0.95
    assert set(metrics) == {"policy_loss", "value_loss", "entropy", "approx_kl", "clip_fraction"}
    assert ppo.act([0.0, 0.0, 0.0]) == 1


@pytest.mark.parametrize(("dones", "target"), [([False, True], 1.0), ([False, False], 1.0 + 0.5 * 8.0)])
def test_what_follows_an_end_does_not_count(dones, target):
    """V is 8 everywhere; with lambda 0 the last step's target is its reward, and beyond it half of 8 or nothing."""
    policy, value = networks()
    nn.init.zeros_(value.weight)
    nn.init.constant_(value.bias, 8.0)
    ppo = PlainPPO(policy, value, lr_value=0.0, lr_policy=0.0, gamma=0.5, ppo_epochs=1, lam=0.0)
    metrics = ppo.update(torch.zeros(2, 3), [0, 1], [1.0, 1.0], torch.zeros(2, 3), dones)
    first = 1.0 + 0.5 * 8.0
    assert metrics["value_loss"] == pytest.approx(((8 - first) ** 2 + (8 - target) ** 2) / 4)


def test_continuous_actions():
    policy, value = networks(out=1)

    class Gaussian(nn.Module):
        def __init__(self):
            super().__init__()
            self.mean, self.log_std = policy, nn.Parameter(torch.zeros(1))

        def forward(self, states):
            return self.mean(states), self.log_std.exp().expand(len(states), 1)

    net = Gaussian()
    ppo = PlainPPO(net, value, lr_policy=1e-2, lr_value=1e-2)
    torch.manual_seed(1)
    for _ in range(30):
        states = torch.randn(64, 3)
        actions = Normal(*net(states)).sample()
        ppo.update(states, actions, -((actions - 2.0) ** 2).squeeze(-1), states, torch.ones(64))
    assert net(torch.zeros(1, 3))[0].item() == pytest.approx(2.0, abs=0.5)


def test_the_names_of_before_are_known_and_say_the_new_ones():
    import kedge.control
    from kedge.control import plain

    with pytest.warns(DeprecationWarning, match=r"kedge\.control\.Agent now"):
        assert kedge.control.PPO is kedge.control.Agent
    with pytest.warns(DeprecationWarning, match="PlainPPO now"):
        assert plain.PPO is plain.PlainPPO
    with pytest.raises(AttributeError, match="PPPO"):
        _ = kedge.control.PPPO
