"""``kedge launch`` on this machine, with real processes that are killed, stopped and interrupted."""

import signal
import sys

import pytest
import worlds


@pytest.mark.slow
def test_a_lost_process_and_a_restart_change_nothing(world, lines):
    folder = world(6)
    whole = worlds.started(folder, "launch", "r.toml", "--processes", "2", "ppo.run=runs/whole")
    status, said = worlds.ended(whole, folder, 120)
    assert status == 0, said
    assert "[0] result: runs/whole/policy" in said
    assert [line for line in said.splitlines() if not line.startswith(("[0] ", "[1] "))] == []
    job = worlds.started(folder, "launch", "r.toml", "--processes", "2", "--restarts", "1")
    worlds.wait_for_steps(job, folder / "runs/r-ppo", 3)
    killed = worlds.trainer(folder, 1)
    killed.kill()
    status, said = worlds.ended(job, folder, 120)
    assert status == 0, said
    assert f"process 1 (pid {killed.pid} on " in said
    assert "was killed by SIGKILL" in said
    assert "begins again, 1 of 1" in said
    whole, resumed = (lines(folder / "runs" / name, "metrics.jsonl") for name in ("whole", "r-ppo"))
    for one, two in zip(whole, resumed, strict=True):
        assert two == pytest.approx(one, abs=1e-5, rel=1e-4, nan_ok=True)
    log = (folder / "runs/r-ppo/launch.log").read_text()
    assert "was killed by SIGKILL" in log
    assert "[0] result: runs/r-ppo/policy" in log
    assert not worlds.left(folder)


def test_ctrl_c_reaches_the_trainers(world):
    folder = world(400)
    job = worlds.started(folder, "launch", "r.toml", "--processes", "2")
    worlds.wait_for_steps(job, folder / "runs/r-ppo", 1)
    job.send_signal(signal.SIGINT)
    status, said = worlds.ended(job, folder, 60)
    assert status == 130, said
    assert "[0] stopped by SIGINT after step" in said
    assert "go on: kedge launch r.toml --processes 2 --resume" in said
    assert list((folder / "runs/r-ppo/checkpoints").glob("step-*"))
    assert not worlds.left(folder)


def test_one_that_is_stopped_ends_the_job_by_name(world):
    folder = world(400)
    job = worlds.started(folder, "launch", "r.toml", "--processes", "2")
    worlds.wait_for_steps(job, folder / "runs/r-ppo", 1)
    stopped = worlds.trainer(folder, 1)
    stopped.suspend()
    status, said = worlds.ended(job, folder, 30)
    assert status == 4, said
    assert f"process 1 (pid {stopped.pid} on " in said
    assert "has been stopped (SIGSTOP)" in said
    assert not worlds.left(folder)


@pytest.mark.slow
def test_a_killed_launcher_takes_all_along(world):
    folder = world(400)
    job = worlds.started(folder, "launch", "r.toml", "--processes", "2")
    worlds.wait_for_steps(job, folder / "runs/r-ppo", 1)
    trainers = [worlds.trainer(folder, rank) for rank in (0, 1)]
    job.kill()
    for each in trainers:
        each.wait(10)


@pytest.mark.slow
def test_an_error_of_all_has_their_exit_status(world):
    folder = world(3)
    words = ["launch", "r.toml", "ppo.policy=nowhere", "--processes", "2", "--restarts", "3"]
    status, said = worlds.ended(worlds.started(folder, *words), folder, 60)
    assert status == 2, said
    assert "begins again" not in said


class TestBeforeAnythingStarts:
    def test_which_table(self, kedge, tmp_path):
        (tmp_path / "r.toml").write_text("[sft]\n[ppo]\n")
        status, _, said = kedge("launch", tmp_path / "r.toml")
        assert status == 2
        assert "which table? --stage sft, --stage ppo" in said
        (tmp_path / "e.toml").write_text("[evaluate]\n")
        assert "no table that trains" in kedge("launch", tmp_path / "e.toml")[2]

    def test_an_error_of_the_recipe_is_said_once(self, kedge, world):
        status, _, said = kedge("launch", world(3) / "r.toml", "ppo.stepz=3", "--processes", "2")
        assert status == 2
        assert said.count("stepz") == 1

    def test_nothing_to_go_on_from(self, kedge, world):
        folder = world(3)
        status, _, said = kedge("launch", folder / "r.toml", "--restarts", "2", "checkpoint_every=0")
        assert status == 2
        assert "set checkpoint_every" in said

    def test_more_machines_want_ray(self, kedge, world, monkeypatch):
        monkeypatch.setitem(sys.modules, "ray", None)
        status, _, said = kedge("launch", world(3) / "r.toml", "--nodes", "2")
        assert status == 2
        assert "pip install 'kedge[ray]'" in said
