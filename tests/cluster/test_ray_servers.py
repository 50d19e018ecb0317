"""Servers that Ray places: of a job that Ray has placed too, and where one of their actors dies."""

import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

from environments import python_with

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests" / "launch")]
import worlds  # noqa: E402

pytestmark = pytest.mark.cluster


@pytest.fixture
def job(tiny_lm, tmp_path):
    """``job(steps, ...)``: a folder, and a job in it by two processes and two stand-in servers, all placed by Ray."""

    jobs = []

    def launch(steps, *words):
        folder = worlds.make(tmp_path.resolve(), tiny_lm("llama"), steps)
        program = folder / "python"
        program.write_text(f'#!/bin/sh\nexec {sys.executable} {ROOT / "tests/sampling/pretended_vllm.py"} "$@"\n')
        program.chmod(0o755)
        sampler = f'{{ kind = "vllm", servers = 2, python = "{program}", ray = "auto", weights = "{folder}/weights" }}'
        with (folder / "r.toml").open("a") as file:
            file.write(f"sampler = {sampler}\n")
        python = python_with("ray", "ray>=2.40")
        jobs.append(worlds.started(folder, "launch", "r.toml", "--processes", "2", "--ray", *words, python=python))
        return folder, jobs[0]

    yield launch
    for process in jobs:
        process.terminate()
        process.wait(60)


def servers(folder):
    """The processes that serve this job's weights."""
    found = []
    for process in psutil.process_iter():
        try:
            words = " ".join(process.cmdline())
            if "--served-model-name" in words and str(folder) in words and "keeper.py" not in words:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def test_an_actor_that_dies_and_a_job_that_ends(job):
    folder, process = job(4000)
    worlds.wait_for_steps(process, folder / "runs/r-ppo", 1, within=300)  # six programs begin, on two cores
    serving = servers(folder)
    assert len(serving) == 2
    actor = next(each for each in serving[0].parents() if each.cmdline()[0].startswith("ray::"))
    actor.kill()
    heard(process, folder, "its actor died")
    heard(process, folder, "is there again")
    process.send_signal(signal.SIGINT)
    status, said = worlds.ended(process, folder, 60)
    assert status == 130, said
    assert len(list((folder / "weights/servers").rglob("*.log"))) == 2  # the port was the same
    until = time.monotonic() + 10
    while servers(folder):
        assert time.monotonic() < until
        time.sleep(0.1)


def heard(process, folder, words, within=200):
    until = time.monotonic() + within
    while words not in worlds.said(folder):
        assert time.monotonic() < until, worlds.said(folder)
        assert process.poll() is None, worlds.said(folder)
        time.sleep(0.1)
