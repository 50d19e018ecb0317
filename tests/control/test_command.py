"""``kedge control``: from an id or a recipe to an agent, a curve, and a film."""

import json

import pytest
from PIL import Image

from kedge import cli
from kedge.control import PPO, evaluate_policy


@pytest.fixture
def kedge(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")

    def run(*words):
        monkeypatch.setattr("sys.argv", ["kedge", "control", *map(str, words)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return stopped.value.code or 0, *capsys.readouterr()

    return run


def test_an_id(kedge, tmp_path):
    status, out, err = kedge("CartPole-v1", "total_timesteps=256", "n_steps=128", "eval_episodes=3")
    assert status == 0, err
    run = tmp_path / "runs/CartPole-v1"
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["env"], summary["steps"], summary["episodes"]) == ("CartPole-v1", 256, 3)
    assert [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()] == [128, 256]
    assert Image.open(run / "curve.png").size == (960, 540)
    agent = PPO.load(run / "agent")
    assert evaluate_policy(agent, "CartPole-v1", 3, seed=10_000) == (summary["return"], summary["deviation"])
    assert PPO.load("runs/CartPole-v1").num_timesteps == 256
    assert f"{summary['return']:.2f}" in out

    status, out, err = kedge("--watch", "runs/CartPole-v1")
    assert status == 0, err
    assert Image.open(run / "watched.gif").n_frames > 2

    status, _, err = kedge("CartPole-v1")
    assert (status, "--overwrite" in err, "--resume" in err) == (2, True, False)
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
        (["CartPole-v1", "env=Pendulum-v1"], "CartPole-v1 is named already"),
        (["full.toml", "n_envs=2"], "nothing reads 'n_envs'; the agent's settings are control.n_envs=..."),
        (["misspelt.toml"], "nothing reads 'contrl'"),
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
