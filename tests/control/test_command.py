"""``kedge control``: from an id or a recipe to an agent, a curve, and a film."""

import json
import os
import shutil
import signal
from functools import partial

import pytest
import torch
from PIL import Image

from kedge.control import Agent, evaluate_policy, job
from kedge.control.update import AgentUpdate


@pytest.fixture
def kedge(kedge, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    return partial(kedge, "control")


def test_an_id(kedge, tmp_path):
    status, out, err = kedge("CartPole-v1", "total_timesteps=256", "n_steps=128", "eval_episodes=3")
    assert status == 0, err
    run = tmp_path / "runs/CartPole-v1"
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["env"], summary["steps"], summary["episodes"]) == ("CartPole-v1", 256, 3)
    assert [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()] == [128, 256]
    assert Image.open(run / "curve.png").size == (960, 540)
    agent = Agent.load(run / "agent")
    assert evaluate_policy(agent, "CartPole-v1", 3, seed=10_000) == (summary["return"], summary["deviation"])
    assert Agent.load("runs/CartPole-v1").num_timesteps == 256
    assert f"{summary['return']:.2f}" in out

    status, out, err = kedge("--watch", "runs/CartPole-v1")
    assert status == 0, err
    assert Image.open(run / "watched.gif").n_frames > 2

    status, _, err = kedge("CartPole-v1")
    assert (status, "--overwrite" in err, "--resume" in err) == (2, True, True)
    status, _, err = kedge("runs/CartPole-v1/recipe.toml", "control.run=runs/again")
    assert status == 0, err
    again = json.loads((tmp_path / "runs/again/summary.json").read_text())
    assert again["return"] == summary["return"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "name an environment or a recipe"),
        (["CartPole-v9"], "environment 'CartPole-v9'"),
        (["CartPole-v1", "n_epoch=3"], "did you mean 'n_epochs'"),
        (["none.toml"], "none.toml: no such recipe file"),
        (["empty.toml"], "no table [control]"),
        (["--watch", "runs/none"], "no saved agent"),
        (["CartPole-v1", "--watch", "runs/none"], "--watch RUN stands alone"),
        (["--watch", "runs/none", "--resume"], "--watch RUN stands alone"),
        (["CartPole-v1", "env=Pendulum-v1"], "CartPole-v1 is named already"),
        (["full.toml", "n_env=2"], "full.toml: [control] n_env: unknown key; did you mean 'n_envs'?"),
        (["full.toml", "n_envs=none"], "n_envs: Input should be a valid integer"),
        (["CartPole-v1", "net_arch=[8]"], "net_arch: kedge's name for it is 'hidden_sizes'"),
        (["CartPole-v1", "control.n_envs=none"], "n_envs: Input should be a valid integer"),
        (["misspelt.toml"], "unknown key 'contrl'; did you mean 'control'?"),
    ],
)
def test_what_is_refused(kedge, tmp_path, words, said):
    (tmp_path / "empty.toml").write_text("[ppo]\n")
    (tmp_path / "full.toml").write_text('[control]\nenv = "CartPole-v1"\n')
    (tmp_path / "misspelt.toml").write_text('[contrl]\nenv = "CartPole-v1"\n')
    status, _, err = kedge(*words)
    assert status == 2
    assert said in err
    assert not (tmp_path / "runs").exists()


class TestResume:
    WORDS = ("CartPole-v1", "total_timesteps=512", "n_steps=64", "eval_episodes=1", "normalize_observations=true")
    LINEAR = ("learning_rate_schedule=linear",)

    @pytest.fixture
    def broken_off(self, kedge, monkeypatch):
        """After 192 of 512 steps, as by Ctrl-C."""
        collected, update = [], Agent._episodes

        def and_a_signal(agent):
            collected.append(agent)
            if agent.num_timesteps == 192:
                os.kill(os.getpid(), signal.SIGINT)
            return update(agent)

        with monkeypatch.context() as patched:
            patched.setattr(Agent, "_episodes", and_a_signal)
            status, _, err = kedge(*self.WORDS, *self.LINEAR)
        assert status == 130
        assert "go on: kedge control CartPole-v1 total_timesteps=512" in err
        assert err.rstrip().endswith("--resume")
        return collected[0]

    def steps(self, tmp_path):
        lines = (tmp_path / "runs/CartPole-v1/metrics.jsonl").read_text().splitlines()
        return [json.loads(line)["step"] for line in lines]

    def test_it_goes_on_from_the_saved_agent(self, kedge, tmp_path, monkeypatch, broken_off):
        begun, rates, learn = [], [], Agent.learn

        def noting(agent, *args, **kwargs):
            begun.append(agent)
            assert torch.equal(agent.update.leaves[0], broken_off.update.leaves[0])
            assert agent.normalization.seen.count == broken_off.normalization.seen.count
            assert torch.equal(agent.update.optimizer.steps[0], broken_off.update.optimizer.steps[0])
            return learn(agent, *args, **kwargs)

        annealed = AgentUpdate._annealed
        monkeypatch.setattr(AgentUpdate, "_annealed", lambda self, left: rates.append(left) or annealed(self, left))
        monkeypatch.setattr(Agent, "learn", noting)
        (tmp_path / "runs/CartPole-v1/metrics.jsonl").open("a").write('{"step": 256, "return": 1.0}\n{"ste')  # killed
        status, _, err = kedge(*self.WORDS, *self.LINEAR, "--resume")
        assert status == 0, err
        assert begun[0].num_timesteps == 512
        assert self.steps(tmp_path) == list(range(64, 513, 64))
        assert rates == pytest.approx([1 - n / 512 for n in range(192, 512, 64)])
        assert [line["step"] for line in begun[0].metrics] == self.steps(tmp_path)  # the curve is of all of it
        assert json.loads((tmp_path / "runs/CartPole-v1/summary.json").read_text())["steps"] == 512

    def test_longer_and_no_shorter_and_nothing_else(self, kedge, tmp_path, broken_off):
        words = [*self.WORDS, *self.LINEAR, "--resume"]
        status, _, err = kedge(*words, "total_timesteps=64")
        assert (status, "192 are done" in err) == (2, True)
        status, _, err = kedge(*words, "gamma=0.5")
        assert (status, "control.gamma was 0.99 and is 0.5 now" in err) == (2, True)
        assert kedge(*words, "total_timesteps=576")[0] == 0
        assert kedge(*words, "total_timesteps=570")[0] == 0  # finished: it is evaluated again, and that is all
        assert self.steps(tmp_path) == list(range(64, 577, 64))

    def test_an_agent_is_saved_now_and_then(self, kedge, tmp_path, monkeypatch):
        monkeypatch.setattr(job, "SAVED_EVERY", 0.0)
        saved, save = [], Agent.save
        monkeypatch.setattr(Agent, "save", lambda self, to: saved.append(self.num_timesteps) or save(self, to))
        assert kedge("CartPole-v1", "total_timesteps=128", "n_steps=64", "eval_episodes=0")[0] == 0
        assert saved == [64, 128, 128]

    def test_killed_before_the_first(self, kedge, tmp_path, broken_off):
        shutil.rmtree(tmp_path / "runs/CartPole-v1/agent")
        status, _, err = kedge(*self.WORDS, *self.LINEAR, "--resume")
        assert (status, "no agent in it yet; the run begins again" in err) == (0, True)
        assert self.steps(tmp_path) == list(range(64, 513, 64))
