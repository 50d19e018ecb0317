"""Signs of life of a program that begins: which there are, and what is none."""

import os
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from kedge.sampling.fleet.signs import Signs, Silence, signs_below

QUIET = Signs(frozenset({7, 8}), frozenset(), 3.0, 10**9, 500)


@pytest.mark.parametrize(
    "sign",
    [
        {"processes": frozenset({7, 8, 9})},
        {"processes": frozenset({7})},
        {"seconds": 3.2},
        {"read": 2 * 10**9},
        {"said": 501},
    ],
)
def test_each_of_them_counts_unless_somebody_is_stopped(sign):
    silence = Silence()
    assert silence.after(QUIET, 100.0) == 0
    assert silence.after(replace(QUIET, seconds=3.05, read=10**9 + 5000), 110.0) == 10  # who waits does that much
    lively = replace(QUIET, **sign)
    assert silence.after(replace(lively, stopped=frozenset({8})), 120.0) == 20
    assert "stopped, as by SIGSTOP: process 8" in silence.seen(replace(lively, stopped=frozenset({8})))
    assert silence.after(lively, 130.0) == 0
    assert silence.after(lively, 150.0) == 20


def test_little_by_little_is_work_too():
    silence = Silence()
    assert max(silence.after(replace(QUIET, seconds=0.04 * second), second) for second in range(60)) < 4


WORKS = """
import subprocess, time
subprocess.Popen(["sleep", "60"])
end = time.process_time() + 0.3
while time.process_time() < end:
    pass
print("done", flush=True)
time.sleep(60)
"""


def test_of_a_process_and_its_children(tmp_path):
    with (tmp_path / "log").open("wb") as log:
        work = subprocess.Popen([sys.executable, "-c", WORKS], stdout=log, start_new_session=True)
    try:
        end = time.monotonic() + 30
        while not (tmp_path / "log").stat().st_size:
            assert time.monotonic() < end
            time.sleep(0.05)
        seen = signs_below(os.getpid(), tmp_path / "log")
        assert work.pid in seen.processes
        assert os.getpid() not in seen.processes
        below = signs_below(work.pid, tmp_path / "log")
        assert len(below.processes) == 1
        assert below.processes < seen.processes
        assert seen.seconds >= 0.3
        assert below.seconds < 0.2
        assert seen.said == len("done\n")
    finally:
        os.killpg(work.pid, 9)
        work.wait()


def test_of_one_that_has_ended(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert signs_below(gone.pid, tmp_path) is None
