"""Who looks on, when they are told, and how they end it."""

import os
import signal

import pytest
import torch

from kedge.control import Agent
from kedge.control.job import ControlJob, settings_of
from kedge.errors import ConfigError, Stopped
from kedge.runs.callbacks import Callback


class Noting(Callback):
    def __init__(self, stop_in=None, at=None):
        self.told, self.stop_in, self.at = [], stop_in, at

    def note(self, hook, agent):
        self.told.append((hook, agent.num_timesteps))
        return False if (hook, agent.num_timesteps) == (self.stop_in, self.at) else None

    def on_training_start(self, agent):
        self.note("start", agent)

    def on_rollout_end(self, agent):
        return self.note("rollout", agent)

    def on_step(self, agent, metrics):
        assert {"policy_loss", "value_loss", "approx_kl", "clip_fraction", "entropy", "explained_variance"} <= set(
            metrics
        )
        return self.note("update", agent)

    def on_training_end(self, agent):
        self.note("end", agent)


def test_in_their_order():
    noting = Noting()
    agent = Agent("CartPole-v1", n_steps=32)
    agent.learn(64, noting)
    expected = [("start", 0), ("rollout", 32), ("update", 32), ("rollout", 64), ("update", 64), ("end", 64)]
    assert noting.told == expected
    agent.learn(32, [noting, Noting()])
    assert noting.told[6:] == [("start", 64), ("rollout", 96), ("update", 96), ("end", 96)]


def test_functions():
    seen = []

    def look(agent, metrics):
        seen.append((agent.num_timesteps, "approx_kl" in metrics))
        return agent.num_timesteps < 64

    noting = Noting()
    assert Agent("CartPole-v1", n_steps=32).learn(320, [look, noting]).num_timesteps == 64
    assert Agent("CartPole-v1", n_steps=32).learn(320, look).num_timesteps == 64
    assert seen == [(32, True), (64, True)] * 2
    assert noting.told[-1] == ("end", 64)
    for wrong in (3, Noting, [look, "x"], object()):
        with pytest.raises(ConfigError, match=r"callback: .* is neither a kedge\.Callback nor a function"):
            Agent("CartPole-v1", n_steps=32).learn(32, wrong)


@pytest.mark.parametrize("hook", ["rollout", "update"])
def test_false_ends_it(hook):
    """After the update that was begun; all callbacks are still told."""
    noting, other = Noting(hook, 64), Noting()
    agent = Agent("CartPole-v1", n_steps=32).learn(320, [noting, other])
    assert agent.num_timesteps == 64
    assert noting.told == other.told
    assert noting.told[-2:] == [("update", 64), ("end", 64)]


def test_ctrl_c_keeps_the_agent(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = settings_of("CartPole-v1", ["n_steps=32", "total_timesteps=3200"])
    update = Agent._episodes

    def and_a_signal(agent):
        if agent.num_timesteps == 96:
            os.kill(os.getpid(), signal.SIGINT)
        return update(agent)

    monkeypatch.setattr(Agent, "_episodes", and_a_signal)
    with pytest.raises(
        Stopped, match=r"SIGINT after 96 of 3,200 steps; the agent so far is in runs/CartPole-v1"
    ) as stopped:
        ControlJob("runs/CartPole-v1", settings).train()
    assert stopped.value.exit_status == 130
    assert Agent.load("runs/CartPole-v1/agent").num_timesteps == 96
    assert (tmp_path / "runs/CartPole-v1/curve.png").is_file()


def test_it_learns_on_one_thread_and_gives_the_others_back():
    threads = []

    class Counting(Callback):
        def on_step(self, agent, metrics):
            threads.append(torch.get_num_threads())

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        Agent("CartPole-v1", n_steps=32).learn(32, Counting())
        threads.append(torch.get_num_threads())
    finally:
        torch.set_num_threads(before)
    assert threads == [1, 2]
