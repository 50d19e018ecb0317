"""Against Stable-Baselines3: same weights, same rollout, same settings; loss of every minibatch and weights after."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from kedge.control import Agent, ControlConfig
from kedge.control.rollout import Steps
from kedge.control.update import AgentUpdate
from kedge.core import gae

sb3 = pytest.importorskip("stable_baselines3")

SETTINGS = {
    "plain": {},
    "everything": {"clip_range_vf": 0.05, "ent_coef": 0.01, "vf_coef": 0.7, "max_grad_norm": 0.1, "gamma": 0.9},
    "not normalised": {"normalize_advantage": False, "gae_lambda": 0.5},
    "stopped": {"target_kl": 2e-4, "learning_rate": 5e-3},
}
SHAPE = {"n_steps": 64, "batch_size": 32, "n_epochs": 3}


def twins(env_id, settings):
    """SB3's agent after a rollout, and ours with its weights and its rollout."""
    theirs = sb3.PPO(
        "MlpPolicy", sb3.common.env_util.make_vec_env(env_id, 2, seed=3), seed=3, device="cpu", **SHAPE, **settings
    )
    names = {"clip_range_vf": None} | settings
    config = ControlConfig(
        conventions="sb3", n_envs=2, seed=3, **SHAPE, **{k: v for k, v in names.items() if v is not None}
    )
    ours = Agent(env_id, config)
    policy, net = theirs.policy, ours.network
    with torch.no_grad():
        for mine, his in (
            (net.actor, policy.mlp_extractor.policy_net), (net.critic, policy.mlp_extractor.value_net),
            (net.action_head, policy.action_net), (net.value_head, policy.value_net),
        ):  # fmt: skip
            for a, b in zip(mine.parameters(), his.parameters(), strict=True):
                a.copy_(b)
        if net.log_std.numel():
            net.log_std.copy_(policy.log_std)
    theirs._setup_learn(1000)
    theirs.collect_rollouts(theirs.env, NoCallback(theirs), theirs.rollout_buffer, SHAPE["n_steps"])
    return theirs, ours


class NoCallback(sb3.common.callbacks.BaseCallback):
    def __init__(self, model):
        super().__init__()
        self.init_callback(model)

    def _on_step(self):
        return True


def rollout_of(theirs, space):
    buffer = theirs.rollout_buffer
    columns = {
        name: torch.as_tensor(getattr(buffer, name)) for name in ("values", "advantages", "returns", "observations")
    }
    actions = torch.as_tensor(buffer.actions)
    actions = actions.long().squeeze(-1) if isinstance(space, gym.spaces.Discrete) else actions
    shape = columns["values"].shape
    return Steps(
        **columns, actions=actions, logprobs=torch.as_tensor(buffer.log_probs),
        starts=torch.zeros(shape, dtype=torch.bool),
    )  # fmt: skip


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
@pytest.mark.parametrize("name", SETTINGS)
def test_an_update(env_id, name, monkeypatch):
    theirs, ours = twins(env_id, SETTINGS[name])
    rollout = rollout_of(theirs, ours.action_space)
    # The same steps in each minibatch: SB3 lines its steps up environment by environment.
    steps, n = rollout.logprobs.shape
    place = torch.arange(steps * n).reshape(steps, n).T.flatten()
    orders = [np.random.RandomState(epoch).permutation(steps * n) for epoch in range(SHAPE["n_epochs"])]
    left = iter(orders)
    monkeypatch.setattr(np.random, "permutation", lambda _: next(left))
    losses = []
    their_losses = []
    backward = torch.Tensor.backward
    monkeypatch.setattr(
        torch.Tensor, "backward", lambda x, *a, **k: (their_losses.append(x.item()), backward(x, *a, **k))[1]
    )
    theirs.train()
    monkeypatch.setattr(torch.Tensor, "backward", backward)

    update = AgentUpdate(ours.network, ours.distribution, ours.config)
    left = iter(orders)
    monkeypatch.setattr(update, "_order", lambda _: place[torch.as_tensor(next(left))])
    apply = update._apply
    monkeypatch.setattr(update, "_apply", lambda loss, lr: (losses.append(loss.item()), apply(loss, lr)))
    update(rollout, 1.0)
    assert len(losses) == len(their_losses)
    assert (len(losses) < 12) == (name == "stopped")
    assert losses == pytest.approx(their_losses, abs=1e-6, rel=1e-6)
    policy, net = theirs.policy, ours.network
    pairs = [
        (net.actor, policy.mlp_extractor.policy_net), (net.critic, policy.mlp_extractor.value_net),
        (net.action_head, policy.action_net), (net.value_head, policy.value_net),
    ]  # fmt: skip
    for mine, his in pairs:
        for a, b in zip(mine.parameters(), his.parameters(), strict=True):
            assert torch.allclose(a, b, rtol=0, atol=1e-6)
    if net.log_std.numel():
        assert torch.allclose(net.log_std, policy.log_std, rtol=0, atol=1e-6)


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_a_rollout(env_id):
    """Values, log-probabilities, advantages and returns of SB3's own steps. (SB3 puts what a cut-off episode's last
    observation is worth into the reward.)"""
    theirs, ours = twins(env_id, {"gamma": 0.9, "gae_lambda": 0.8})
    rollout = rollout_of(theirs, ours.action_space)
    with torch.no_grad():
        outputs, _ = ours.network.outputs(rollout.observations, rollout.starts)
        values, _ = ours.network.values(rollout.observations, rollout.starts)
        logprobs = ours.distribution.logprobs(outputs, ours.network.log_std, rollout.actions)
        after = theirs.policy.predict_values(torch.as_tensor(theirs._last_obs)).T
    buffer = theirs.rollout_buffer
    begun = np.concatenate([buffer.episode_starts[1:], theirs._last_episode_starts[None]])
    carry = torch.as_tensor(1.0 - begun, dtype=torch.float32)
    following = torch.cat([values[1:], after]) * carry
    rewards = torch.as_tensor(buffer.rewards)
    advantages, returns = gae(rewards.T, values.T, following.T, carry.T, gamma=0.9, lam=0.8)
    assert carry.eq(0).any() == (env_id == "CartPole-v1")
    assert torch.allclose(advantages.T, rollout.advantages, atol=1e-5)
    assert torch.allclose(returns.T, rollout.returns, atol=1e-5)
    assert torch.allclose(values, rollout.values, atol=1e-6)
    assert torch.allclose(logprobs, rollout.logprobs, atol=1e-5)
