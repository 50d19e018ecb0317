"""What people bring, and what becomes of it."""

import copy

import gymnasium as gym
import numpy as np
import pytest
import torch
from counting import Counting
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv

from kedge.control import Agent, PlainPPO, evaluate_policy
from kedge.control.observations import flatten, pixels_first
from kedge.control.pictures import film
from kedge.errors import ConfigError, ModelError, NotFiniteError


class Strict(Counting):
    """Counts what Gymnasium forbids: a step after an episode's end."""

    misused, over = 0, True

    def reset(self, **kwargs):
        self.over = False
        return super().reset(**kwargs)

    def step(self, action):
        self.misused += self.over
        seen = super().step(action)
        self.over = seen[2] or seen[3]
        return seen


def test_an_environment_that_was_played_in_between():
    env = Strict(4)
    agent = Agent(env, n_steps=6).learn(6)
    evaluate_policy(agent, env, 2)
    agent.learn(12)
    assert env.misused == 0
    assert [line.get("return", 10.0) for line in agent.metrics] == [10.0] * 3


def test_learning_goes_on_with_other_episodes(tmp_path):
    agent = Agent("CartPole-v1", n_steps=32, learning_rate=1e-9).learn(32)
    agent.save(tmp_path / "a")
    again = Agent.load(tmp_path / "a")
    begun = []
    for each in (agent, again, Agent("CartPole-v1", n_steps=32)):
        each.learn(32)
        each.collector.begin(each.config.seed + each.num_timesteps - 32)
        begun.append(each.collector._now)
    assert np.array_equal(begun[0], begun[1])
    assert not np.array_equal(begun[0], begun[2])


def test_saving_spares_what_is_there(tmp_path):
    agent = Agent("CartPole-v1", n_steps=8)
    (tmp_path / "thesis.txt").write_text("x")
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path, tmp_path / "file"):
        with pytest.raises(ConfigError, match="holds other things"):
            agent.save(folder)
    assert (tmp_path / "thesis.txt").read_text() == "x"
    agent.save(tmp_path / "agent")
    agent.save(tmp_path / "agent")  # its own may be replaced
    (tmp_path / "agent/agent.safetensors").write_bytes(b"torn")
    with pytest.raises(ModelError, match="cannot be read"):
        Agent.load(tmp_path / "agent")


def test_agents_of_many_environments_load_onto_one(tmp_path):
    Agent("CartPole-v1", n_envs=4, n_steps=8).save(tmp_path / "a")
    one = Agent.load(tmp_path / "a", gym.make("CartPole-v1"))
    assert (one.config.n_envs, one.environments.n) == (1, 1)
    three = Agent.load(tmp_path / "a", SyncVectorEnv([lambda: gym.make("CartPole-v1")] * 3))
    assert (three.config.n_envs, three.environments.n) == (3, 3)
    assert Agent.load(tmp_path / "a").environments.n == 4
    with pytest.raises(ConfigError, match="n_envs: 7, but the vector environment has 3"):
        Agent(SyncVectorEnv([lambda: gym.make("CartPole-v1")] * 3), n_envs=7)


def test_a_copied_agent_learns_apart():
    agent = Agent("Pendulum-v1", n_steps=16)
    before = torch.cat([weight.flatten() for weight in agent.network.parameters()])
    twin = copy.deepcopy(agent).learn(32)
    observation = np.ones((1, 1, 3), np.float32)
    assert torch.equal(torch.cat([weight.flatten() for weight in agent.network.parameters()]), before)
    assert not torch.equal(torch.cat([weight.flatten() for weight in twin.network.parameters()]), before)
    twin.network.load_state_dict(agent.network.state_dict())
    seen = [each.network.both(torch.from_numpy(observation), None, (None, None))[0] for each in (agent, twin)]
    assert torch.equal(*seen)


class Reusing(Counting):
    """Writes every observation into the same array."""

    def reset(self, **kwargs):
        self.array = getattr(self, "array", np.zeros(1, np.float32))
        self.array[:] = super().reset(**kwargs)[0]
        return self.array, {}

    def step(self, action):
        seen = super().step(action)
        self.array[:] = seen[0]
        return self.array, *seen[1:]


def test_a_last_observation_outlives_the_reset():
    step = None
    env = Agent(Reusing(3)).environments
    env.reset(0)
    for _ in range(3):
        step = env.step(np.zeros(1, int))
    assert step.last_observations[0] == 3
    assert step.observations[0] == 0


def test_predicting_for_several_at_once():
    agent = Agent("CartPole-v1", n_steps=8)
    rows = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    actions, _ = agent.predict(rows, deterministic=True)
    assert actions.tolist() == [int(agent.predict(row, deterministic=True)[0]) for row in rows]
    assert agent.predict(rows[:1])[0].shape == (1,)
    continuous = Agent("Pendulum-v1", n_steps=8)
    assert continuous.predict(rows[:, :3])[0].shape == (5, 1)


def test_actions_are_of_the_spaces_type():
    for space in (
        spaces.Discrete(3, dtype=np.int32),
        spaces.MultiDiscrete([2, 3], dtype=np.int32),
        spaces.Box(-1, 1, (2,), np.float16),
        spaces.Box(-1, 1, (2,), np.float64),
    ):
        env = Counting(3)
        env.action_space = space
        assert space.contains(Agent(env, n_steps=4).predict(np.zeros(1, np.float32))[0])


def test_where_an_images_channels_are():
    assert pixels_first(spaces.Box(0, 255, (12, 84, 84), np.uint8)) == (12, 84, 84)
    assert pixels_first(spaces.Box(0, 255, (84, 80, 4), np.uint8)) == (4, 84, 80)
    tiny = spaces.Box(0, 255, (3, 3, 2), np.uint8)  # too small for convolutions: numbers
    assert flatten(tiny, np.ones((5, 3, 3, 2)), 5).shape == (5, 18)


def test_many_choices_take_no_time():
    space = spaces.Discrete(200_000, start=5)
    row = flatten(space, np.array([7]), 1)
    assert (row.shape, row.sum(), row[0, 2]) == ((1, 200_000), 1, 1)


def test_a_rollout_of_resets_only():
    agent = Agent(SyncVectorEnv([lambda: Counting(1)]), n_steps=1).learn(4)
    assert [line["updates"] for line in agent.metrics] == [10, 0, 10, 0]


class Blind(Counting):
    metadata = {"render_modes": []}  # noqa: RUF012


def test_refusals(tmp_path):
    agent = Agent("CartPole-v1", n_steps=8)
    with pytest.raises(ConfigError, match="one after another"):
        evaluate_policy(agent, SyncVectorEnv([lambda: gym.make("CartPole-v1")]))
    with pytest.raises(ConfigError, match="the environment comes first"):
        Agent("MlpPolicy", gym.make("CartPole-v1"))
    with pytest.raises(ConfigError, match="seed"):
        Agent("CartPole-v1", seed=-1)
    gym.register("Blind-v0", entry_point=Blind)
    try:
        with pytest.raises(ConfigError, match="no render mode rgb_array"):
            film(Agent("Blind-v0", n_steps=8), tmp_path / "x.gif")
    finally:
        gym.registry.pop("Blind-v0")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu():
    with pytest.raises(ModelError, match="device='cuda': torch finds none here"):
        Agent("CartPole-v1", device="cuda")


def plain():
    torch.manual_seed(0)
    return PlainPPO(torch.nn.Linear(3, 2), torch.nn.Linear(3, 1), ppo_epochs=1)


def test_columns_are_rows_of_one():
    random = np.random.default_rng(0)
    states, rewards = random.normal(size=(6, 3)), random.normal(size=6)
    actions, dones = random.integers(0, 2, 6), np.zeros(6)
    flat = plain().update(states, actions, rewards, states, dones)
    column = plain().update(states, actions[:, None], rewards[:, None], states, dones[:, None])
    assert flat == column


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rewards": np.full(6, np.nan)}, "rewards: not all of them are finite"),
        ({"rewards": np.zeros(5)}, r"rewards: \[5\], but there are 6 states"),
        ({"dones": np.zeros((6, 2))}, r"dones: \[6, 2\]"),
        ({"actions": np.zeros((6, 2), int)}, r"actions: \[6, 2\], but the policy chooses \[6\]"),
    ],
)
def test_what_the_plain_class_refuses(change, said):
    data = {"states": np.zeros((6, 3)), "actions": np.zeros(6, int), "rewards": np.zeros(6),
            "next_states": np.zeros((6, 3)), "dones": np.zeros(6)}  # fmt: skip
    with pytest.raises(ValueError, match=said):
        plain().update(**(data | change))


class Ill(gym.Env):
    """Shows a number that is none at its fourth step; or, where it is cut off then, only at its last."""

    def __init__(self, value, *, dict_space, cut_off=False):
        box = gym.spaces.Box(-1, 1, (3,))
        self.observation_space = (
            gym.spaces.Dict({"arm": gym.spaces.Dict({"lidar": box}), "leg": gym.spaces.Discrete(2)})
            if dict_space
            else box
        )
        self.action_space, self.value, self.cut_off, self.t = gym.spaces.Discrete(2), value, cut_off, 0

    def show(self):
        box = np.array([0, self.value if self.t == 4 else 0, 0], np.float32)
        return {"arm": {"lidar": box}, "leg": 0} if isinstance(self.observation_space, gym.spaces.Dict) else box

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return self.show(), {}

    def step(self, action):
        self.t += 1
        return self.show(), 1.0, False, self.cut_off and self.t == 4, {}


@pytest.mark.parametrize("settings", [{}, {"normalize_observations": True}], ids=str)
@pytest.mark.parametrize("cut_off", [False, True])
@pytest.mark.parametrize("value", [np.nan, -np.inf])
@pytest.mark.parametrize(
    ("dict_space", "said"), [(True, r"gave observation 'arm\.lidar' with"), (False, "gave an observation with")]
)
def test_an_observation_with_nan(dict_space, said, value, cut_off, settings):
    agent = Agent(Ill(value, dict_space=dict_space, cut_off=cut_off), n_steps=16, batch_size=16, **settings)
    with pytest.raises(NotFiniteError, match=rf"the environment \(Ill\) {said} {value} in it, at position 1"):
        agent.learn(16)
    assert np.isfinite(agent.normalization.seen.mean).all()


def test_which_of_several_environments():
    healthy, ill = (lambda: Ill(0.0, dict_space=False)), (lambda: Ill(np.nan, dict_space=False))
    several = gym.vector.SyncVectorEnv([healthy, ill, healthy])
    with pytest.raises(NotFiniteError, match=r"environment 1 of 3 \(SyncVectorEnv\) gave an observation with nan"):
        Agent(several, n_steps=16).learn(48)


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_a_large_observation_is_no_infinity():
    Agent(Ill(1e30, dict_space=False), n_steps=16, batch_size=16, normalize_observations=True).collector.collect(16)
