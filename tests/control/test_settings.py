"""Each setting does what it says: against numbers worked out by hand."""

import numpy as np
import pytest
import torch
from counting import Counting

from kedge.control import Agent, ControlConfig
from kedge.control.normalization import Normalization
from kedge.control.rollout import Steps


def test_annealing():
    linear = {"learning_rate_schedule": "linear", "clip_range_schedule": "linear"}
    agent = Agent("CartPole-v1", n_steps=32, learning_rate=0.01, clip_range=0.4, **linear)
    assert agent.update._annealed(0.25) == (0.0025, 0.1)
    assert Agent("CartPole-v1", learning_rate=0.01, clip_range=0.4).update._annealed(0.25) == (0.01, 0.4)
    lefts, update = [], agent.update
    agent.update = lambda rollout, left: lefts.append(left) or update(rollout, left)
    agent.update.generator = update.generator
    agent.learn(128)
    assert lefts == [1.0, 0.75, 0.5, 0.25]


@pytest.mark.parametrize(("clip", "loss"), [(None, 0.5), (0.1, 1.805)])
def test_value_clipping(clip, loss):
    """V went from 0 to 1, the return is 2: (2 - 1)^2 / 2, or where it may go to 0.1 only, (2 - 0.1)^2 / 2."""
    agent = Agent("CartPole-v1", clip_range_vf=clip, normalize_advantage=False, ent_coef=0.0, vf_coef=1.0)
    one, nothing = torch.ones(1, 1), torch.zeros(1, 1)
    agent.network.both = lambda *_: (torch.zeros(1, 1, 2), one)
    steps = Steps(
        torch.zeros(1, 1, 4), torch.zeros(1, 1, dtype=torch.long), nothing - np.log(2), nothing, nothing, 2 * one
    )
    assert float(agent.update.loss(steps, 0.2)[1]["value_loss"]) == pytest.approx(loss)


def test_entropy_and_value_weights():
    """An even choice of two: entropy ln 2."""
    agent = Agent("CartPole-v1", ent_coef=0.1, vf_coef=0.25)
    one = torch.ones(1, 1)
    agent.network.both = lambda *_: (torch.zeros(1, 1, 2), one)
    steps = Steps(torch.zeros(1, 1, 4), torch.zeros(1, 1, dtype=torch.long), one * -np.log(2), one, 3 * one, 3 * one)
    expected = -3.0 + 0.25 * (3 - 1) ** 2 / 2 - 0.1 * np.log(2)
    assert float(agent.update.loss(steps, 0.2)[0]) == pytest.approx(expected)


def test_first_weights():
    net = Agent("CartPole-v1").network

    def square(weight):
        small = weight if weight.shape[0] < weight.shape[1] else weight.T
        return small @ small.T

    for part in (net.actor, net.critic):
        for layer in (part[0], part[2]):
            torch.testing.assert_close(square(layer.weight), 2 * torch.eye(layer.weight.shape[1]), atol=1e-5, rtol=0)
    torch.testing.assert_close(square(net.action_head.weight), 1e-4 * torch.eye(2), atol=1e-7, rtol=0)
    torch.testing.assert_close(square(net.value_head.weight), torch.eye(1), atol=1e-6, rtol=0)
    assert all(not p.any() for name, p in net.named_parameters() if "bias" in name)


def test_observations_are_scaled():
    scales = Normalization(1, 2, observations=True, rewards=False, gamma=0.9)
    rows = np.array([[0.0], [4.0]], np.float32)
    assert scales.observations(rows, learn=True)[:, 0] == pytest.approx([-1, 1], abs=1e-3)
    assert scales.observations(np.array([[5.0]], np.float32), learn=False)[0, 0] == pytest.approx(1.5, abs=1e-3)
    assert scales.observations(np.array([[99.0]], np.float32), learn=False)[0, 0] == 10
    assert scales.seen.mean == pytest.approx([2], abs=1e-3)  # frozen


def test_rewards_are_scaled():
    """Discounted by a half the returns are 1, 1.5 (the end), -1, 2.5; each reward over the deviation so far."""
    scales = Normalization(1, 1, observations=False, rewards=True, gamma=0.5)
    ended = [False, True, False, False]
    real = np.ones(1, bool)
    scaled = [
        float(scales.rewards(np.array([r]), np.array([e]), real)[0]) for r, e in zip([1, 1, -1, 3], ended, strict=True)
    ]
    expected = [10, 1 / 0.25, -1 / np.std([1, 1.5, -1]), 3 / np.std([1, 1.5, -1, 2.5])]
    assert scaled == pytest.approx(expected, rel=0.01)


def test_a_step_that_only_reset_earns_nothing():
    scales = Normalization(1, 1, observations=False, rewards=True, gamma=0.5)
    before = (scales.returns.copy(), scales.earned.count)
    scales.rewards(np.array([7.0]), np.array([False]), np.array([False]))
    assert (scales.returns, scales.earned.count) == before


def test_a_cut_off_observation_is_scaled_too():
    agent = Agent(Counting(3), n_steps=30, normalize_observations=True, gamma=1.0, gae_lambda=0.0)
    agent.network.values = lambda observations, *_: (10 * observations[..., 0], None)
    rollout = agent.collector.collect(30)
    mean, deviation = agent.normalization.seen.mean[0], agent.normalization.seen.variance[0] ** 0.5
    assert float(agent.collector._value_after(np.full(1, 3.0, np.float32), 0)) == pytest.approx(
        10 * (3 - mean) / deviation, rel=1e-4
    )
    assert rollout.observations.abs().max() < 3


def test_scales_are_saved(tmp_path):
    agent = Agent("Pendulum-v1", n_steps=64, normalize_observations=True, normalize_rewards=True).learn(64)
    agent.save(tmp_path / "a")
    state, again = agent.normalization.state_dict(), Agent.load(tmp_path / "a").normalization.state_dict()
    assert all(np.array_equal(state[name], again[name]) for name in state)
    assert state["observations.count"] > 60
    assert state["rewards.variance"] != 1.0


def test_one_step_alone_is_learnt_from():
    agent = Agent("CartPole-v1", n_steps=4, batch_size=1, n_epochs=1)
    before = agent.network.action_head.weight.clone()
    agent.learn(4)
    assert not torch.equal(agent.network.action_head.weight, before)


def test_batches_and_epochs():
    agent = Agent("CartPole-v1", n_steps=20, n_envs=2, batch_size=16, n_epochs=3)
    agent.learn(40)
    assert agent.metrics[-1]["updates"] == 3 * 3  # of 16, 16 and 8 steps
    sizes = [batch.logprobs.numel() for batch in agent.update._minibatches(agent.collector.collect(20))]
    assert sizes == [16, 16, 8] * 3


def test_defaults_are_stable_baselines():
    sb3 = pytest.importorskip("stable_baselines3")
    theirs, ours = sb3.PPO("MlpPolicy", "CartPole-v1", device="cpu"), ControlConfig()
    for name in ("n_steps", "batch_size", "n_epochs", "gamma", "gae_lambda", "ent_coef", "vf_coef", "max_grad_norm",
                 "learning_rate", "normalize_advantage", "target_kl"):  # fmt: skip
        assert getattr(ours, name) == getattr(theirs, name), name
