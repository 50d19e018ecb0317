"""What an agent must get right about the ends of episodes, whatever the kind of environment."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from counting import Counting
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from kedge.control import Agent, evaluate_policy
from kedge.control.environments import ManyEnvironments, Step, Vectorized, environments_of
from kedge.errors import ConfigError


def played(environments, steps=9):
    """What each real step of environment 0 showed: (observation before, reward, terminated, cut off at)."""
    before = environments.reset(0)
    seen = []
    for _ in range(steps):
        step = environments.step(np.zeros(environments.n, int))
        assert isinstance(step, Step)
        if step.real[0]:
            last = step.last_observations.get(0)
            seen.append(
                (
                    float(before[0][0]),
                    float(step.rewards[0]),
                    bool(step.terminated[0]),
                    None if last is None else float(last[0]),
                )
            )
        before = step.observations
    return seen


@pytest.mark.parametrize("cut_off", [True, False])
@pytest.mark.parametrize("mode", [None, *AutoresetMode], ids=str)
def test_every_kind_of_environment_tells_the_same_story(mode, cut_off):
    make = lambda: Counting(3, cut_off=cut_off)  # noqa: E731
    several = ManyEnvironments([make(), make()])
    if mode is not None:
        several = Vectorized(SyncVectorEnv([make, make], autoreset_mode=mode))
    episode = [(0.0, 1.0, False, None), (1.0, 2.0, False, None), (2.0, 3.0, not cut_off, 3.0 if cut_off else None)]
    story = played(several)
    assert story[: len(episode) * 2] == (episode * 3)[: len(episode) * 2]
    assert len(story) == (7 if mode is AutoresetMode.NEXT_STEP else 9)


@pytest.mark.parametrize("mode", [None, *AutoresetMode], ids=str)
def test_a_rollout_by_hand(mode):
    """V(s) = 10 s by construction: advantages worked out by hand, gamma 0.5, lambda 0.5, cut off after three steps."""
    make = lambda: Counting(3)  # noqa: E731
    env = Counting(3) if mode is None else SyncVectorEnv([make], autoreset_mode=mode)
    agent = Agent(env, gamma=0.5, gae_lambda=0.5, n_steps=8)
    agent.network.values = lambda observations, *_: (10 * observations[..., 0], None)
    rollout = agent.collector.collect(8)
    real = torch.ones(8, dtype=torch.bool) if rollout.mask is None else rollout.mask[:, 0]
    # delta = r + 0.5 * V' - V: 1 + 5 - 0, 2 + 10 - 10, 3 + 15 - 20; then backwards with 0.25.
    assert rollout.advantages[real, 0][:6].tolist() == [6 + 0.25 * (2 + 0.25 * -2), 2 + 0.25 * -2, -2] * 2
    assert rollout.observations[real, 0, 0][:6].tolist() == [0, 1, 2] * 2
    assert (~real).sum() == (2 if mode is AutoresetMode.NEXT_STEP else 0)
    trained = [m.observations for m in agent.update._minibatches(rollout)]
    assert sum(x.shape[1] for x in trained) == agent.config.n_epochs * int(real.sum())


def test_environments_may_write_into_the_same_array():
    """SyncVectorEnv without copying: what was seen stays as it was seen."""
    make = lambda: gym.make("CartPole-v1")  # noqa: E731
    rollouts = [
        Agent(SyncVectorEnv([make, make], copy=copy, autoreset_mode=AutoresetMode.SAME_STEP), seed=1).collector.collect(
            30
        )
        for copy in (True, False)
    ]
    assert torch.equal(*(rollout.observations for rollout in rollouts))
    assert len(rollouts[0].observations.unique()) > 100


def value_of_for_ever(agent):
    agent.learn()
    with torch.no_grad():
        return float(agent.network.values(torch.zeros(1, 1, 1), torch.ones(1, 1, dtype=torch.bool))[0])


class Constant(Counting):
    """Reward 1 for ever, seen through a time limit; the observation never changes."""

    def step(self, action):
        _, _, ended, cut_off, info = super().step(action)
        return np.zeros(1, np.float32), 1.0, ended, cut_off, info


ENDLESS = {
    "total_timesteps": 40_000, "n_steps": 512, "batch_size": 128, "n_epochs": 10, "learning_rate": 1e-2, "gamma": 0.99,
    "hidden_sizes": (16,), "max_grad_norm": None, "learning_rate_schedule": "linear",
}  # fmt: skip


@pytest.mark.slow
def test_a_time_limit_is_no_end():
    """1 + 0.99 + 0.99^2 + ... = 100."""
    assert value_of_for_ever(Agent(Constant(50), **ENDLESS)) == pytest.approx(100, abs=1)


@pytest.mark.slow
def test_taken_for_an_end_it_would_be():
    """The same with the cut-off reported as an end: the value is that of the episodes, far from 100."""
    assert value_of_for_ever(Agent(Constant(50, cut_off=False), **(ENDLESS | {"total_timesteps": 20_000}))) < 50


class Spaces(gym.Env):
    """Any spaces; reward for whatever the space's first sample was."""

    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(0)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action), (self.action_space, action)
        self.steps += 1
        return self.observation_space.sample(), float(np.sum(np.asarray(action, float))), False, self.steps == 5, {}


BOX = spaces.Box(-1, 1, (2, 3), np.float32)
OBSERVATIONS = {
    "box": BOX,
    "discrete": spaces.Discrete(4, start=2),
    "multi": spaces.MultiDiscrete([2, 3]),
    "binary": spaces.MultiBinary(3),
    "dict": spaces.Dict({"a": BOX, "b": spaces.Discrete(3)}),
    "dict with an image": spaces.Dict(
        {"camera": spaces.Box(0, 255, (40, 36, 3), np.uint8), "in": spaces.Dict({"a": BOX, "b": spaces.Discrete(3)})}
    ),
    "image": spaces.Box(0, 255, (40, 36, 3), np.uint8),
    "small image": spaces.Box(0, 255, (3, 12, 10), np.uint8),
}
ACTIONS = {
    "discrete": spaces.Discrete(3, start=-1),
    "multi": spaces.MultiDiscrete([2, 4]),
    "binary": spaces.MultiBinary(4),
    "box": spaces.Box(np.array([0.0, -2.0], np.float32), np.array([0.5, 2.0], np.float32)),
}


@pytest.mark.parametrize("policy", ["feedforward", "lstm"])
@pytest.mark.parametrize(
    ("seen", "done"),
    [(OBSERVATIONS[name], ACTIONS["discrete"]) for name in OBSERVATIONS]
    + [(BOX, action) for action in ACTIONS.values()],
    ids=str,
)
def test_every_space(tmp_path, seen, done, policy):
    agent = Agent(
        Spaces(seen, done),
        n_steps=12,
        batch_size=6 if policy == "feedforward" else 12,
        n_epochs=2,
        policy=policy,
        hidden_sizes=(16, 8),
    )
    agent.learn(36)
    assert agent.num_timesteps == 36
    assert all(np.isfinite(list(line.values())).all() for line in agent.metrics)
    agent.save(tmp_path / "agent")
    again = Agent.load(tmp_path / "agent", Spaces(seen, done))
    observation = seen.sample()
    for deterministic in (True, False):
        action, _ = agent.predict(observation, deterministic=deterministic)
        assert done.contains(action)
    same = [x.predict(observation, deterministic=True)[0] for x in (agent, again)]
    assert np.array_equal(*same)


def test_what_is_trained_on_is_what_was_drawn():
    """Actions beyond the bounds: the environment gets them clipped, the update as they were."""
    agent = Agent(Spaces(BOX, ACTIONS["box"]), n_steps=50, log_std_init=2.0)
    rollout = agent.collector.collect(50)
    assert rollout.actions.abs().max() > 4


def test_what_is_not_supported():
    with pytest.raises(ConfigError, match="observations of Text"):
        Agent(Spaces(spaces.Text(5), ACTIONS["discrete"]))
    with pytest.raises(ConfigError, match="actions of Text"):
        Agent(Spaces(BOX, spaces.Text(5)))
    with pytest.raises(ConfigError, match="Box of real numbers"):
        Agent(Spaces(BOX, spaces.Box(0, 5, (2,), np.int64)))
    for name in ("image", "dict with an image"):
        with pytest.raises(ConfigError, match="divided by 255 already"):
            Agent(Spaces(OBSERVATIONS[name], ACTIONS["discrete"]), normalize_observations=True)
    with pytest.raises(ConfigError, match="environment 'CartPole-v9'"):
        environments_of("CartPole-v9", 1)
    with pytest.raises(ConfigError, match="n_envs: 2 copies"):
        Agent(Counting(), n_envs=2)


def test_same_seed_same_agent():
    def weights(seed):
        agent = Agent("CartPole-v1", n_envs=2, n_steps=32, seed=seed).learn(128)
        return torch.cat([x.detach().flatten() for x in agent.network.parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_evaluation_is_repeatable_and_frozen():
    agent = Agent("CartPole-v1", n_steps=64, normalize_observations=True, normalize_rewards=True).learn(128)
    before = {k: v.copy() for k, v in agent.normalization.state_dict().items()}
    first, second = (evaluate_policy(agent, "CartPole-v1", 3, seed=5) for _ in range(2))
    assert first == second
    assert all(np.array_equal(v, before[k]) for k, v in agent.normalization.state_dict().items())


def test_an_lstm_forgets_at_an_episodes_beginning_and_not_before():
    agent = Agent("CartPole-v1", policy="lstm", n_steps=16, hidden_sizes=(8, 8))
    x = torch.randn(9, 2, 4)
    starts = torch.zeros(9, 2, dtype=torch.bool)
    starts[0] = True
    starts[5, 1] = True
    with torch.no_grad():
        together, _ = agent.network.outputs(x, starts)
        apart = [agent.network.outputs(x[5:, 1:], starts[5:, 1:])[0], agent.network.outputs(x[:, :1], starts[:, :1])[0]]
        memory, stepwise = None, []
        for t in range(9):
            out, memory = agent.network.outputs(x[t : t + 1], starts[t : t + 1], memory)
            stepwise.append(out)
    assert torch.allclose(together[5:, 1:], apart[0], atol=1e-6)
    assert torch.allclose(together[:, :1], apart[1], atol=1e-6)
    assert torch.allclose(together, torch.cat(stepwise), atol=1e-6)
    assert not torch.allclose(together[5:, :1], agent.network.outputs(x[5:, :1], starts[:4, :1])[0], atol=1e-4)
