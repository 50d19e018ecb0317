"""``kedge launch`` on a Ray of its own, and on a cluster of two nodes: what becomes of actors, nodes and trainers."""

import signal
import subprocess

import psutil
import pytest
import worlds

from environments import python_with

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="session")
def ray_python():
    return python_with("ray", "ray>=2.40")


@pytest.fixture
def launched(ray_python, world):
    """``launched(steps, *words)``: a folder, and the command that trains in it on Ray."""

    def launch(steps, *words):
        folder = world(steps)
        return folder, worlds.started(folder, "launch", "r.toml", *words, python=ray_python)

    return launch


def actor_of(folder, rank):
    return psutil.Process(worlds.trainer(folder, rank).ppid())


def test_to_the_end(launched, kedge, lines, monkeypatch):
    folder, job = launched(4, "--processes", "2", "--ray")
    status, said = worlds.ended(job, folder, 120)
    assert status == 0, said
    assert "[0] result: runs/r-ppo/policy" in said
    monkeypatch.chdir(folder)
    assert kedge("ppo", "r.toml", "ppo.run=runs/alone")[0] == 0
    alone, together = (lines(folder / "runs" / name, "metrics.jsonl") for name in ("alone", "r-ppo"))
    for one, two in zip(alone, together, strict=True):
        assert two == pytest.approx(one, abs=1e-4, rel=1e-3, nan_ok=True)


def test_a_killed_actor_and_a_restart(launched):
    folder, job = launched(40, "--processes", "2", "--ray", "--restarts", "1")
    worlds.wait_for_steps(job, folder / "runs/r-ppo", 3)
    pid = worlds.trainer(folder, 1).pid
    actor_of(folder, 1).kill()
    status, said = worlds.ended(job, folder, 180)
    assert status == 0, said
    assert f"process 1 (pid {pid} on " in said
    assert "is lost: its actor died: " in said
    assert "begins again, 1 of 1" in said
    assert not worlds.left(folder)


@pytest.mark.parametrize("who", ["actor", "trainer"])
def test_one_that_is_stopped(launched, who):
    folder, job = launched(4000, "--processes", "2", "--ray")
    worlds.wait_for_steps(job, folder / "runs/r-ppo", 1)
    trainer = worlds.trainer(folder, 1)
    (trainer if who == "trainer" else actor_of(folder, 1)).suspend()
    status, said = worlds.ended(job, folder, 50)
    assert status == 4, said
    assert f"process 1 (pid {trainer.pid} on " in said
    assert ("has been stopped" if who == "trainer" else "its actor has not answered for 20 s") in said
    assert not worlds.left(folder)


def test_ctrl_c(launched):
    folder, job = launched(4000, "--processes", "2", "--ray")
    worlds.wait_for_steps(job, folder / "runs/r-ppo", 1)
    job.send_signal(signal.SIGINT)
    status, said = worlds.ended(job, folder, 60)
    assert status == 130, said
    assert "go on: kedge launch r.toml --processes 2 --ray --resume" in said
    assert list((folder / "runs/r-ppo/checkpoints").glob("step-*"))


def test_more_than_the_cluster_has(launched):
    folder, job = launched(4, "--nodes", "3")
    status, said = worlds.ended(job, folder, 60)
    assert status == 2, said
    assert "--nodes 3: the cluster has 1: " in said


def test_a_lost_node_and_what_is_left(ray_python, world):
    """One process on each of two nodes; a node dies, and the job goes on with one process on the other."""
    folder = world(60)
    cluster = subprocess.Popen(
        [str(ray_python), worlds.ROOT / "tests/launch/two_nodes.py"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        address = cluster.stdout.readline().strip()
        words = ["--nodes", "2", "--address", address, "--restarts", "1"]
        job = worlds.started(folder, "launch", "r.toml", *words, python=ray_python)
        worlds.wait_for_steps(job, folder / "runs/r-ppo", 3)
        cluster.stdin.write("\n")
        cluster.stdin.flush()
        status, said = worlds.ended(job, folder, 180)
        assert status == 0, said
        assert " is lost: its actor died: " in said
        assert "1 of 2 processes are left" in said
    finally:
        cluster.communicate("\n\n", timeout=60)
