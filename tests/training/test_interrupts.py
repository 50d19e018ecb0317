"""Signals: the step ends, everything is kept, and the run goes on later as if nothing had been."""

import os
import signal
import threading

import pytest

from kedge.errors import Stopped
from kedge.parallel import ALONE
from kedge.runs.interrupts import Interrupts

SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]


@pytest.mark.parametrize(("signum", "_"), SIGNALS)
def test_one_is_noted_and_the_handlers_come_back(signum, _):
    before = [signal.getsignal(number) for number, _ in SIGNALS]
    with Interrupts(ALONE) as interrupts:
        assert interrupts.asked() is None
        os.kill(os.getpid(), signum)
        assert interrupts.asked() == signum
    assert [signal.getsignal(number) for number, _ in SIGNALS] == before


def test_the_second_ends_at_once():
    with Interrupts(ALONE), pytest.raises(KeyboardInterrupt):  # noqa: PT012
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("it went on")


def test_in_another_thread_nothing_changes():
    before = signal.getsignal(signal.SIGINT)
    found = []

    def inside():
        with Interrupts(ALONE) as interrupts:
            found.extend([signal.getsignal(signal.SIGINT), interrupts.asked()])

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert found == [before, None]


def stopping_reward(at_call, signum):
    """Sends the signal in the midst of a step."""
    calls = []

    def reward(prompts, completions):
        calls.append(1)
        if len(calls) == at_call:
            os.kill(os.getpid(), signum)
        return [float(len(c)) for c in completions]

    return reward


@pytest.mark.parametrize(("signum", "status"), SIGNALS)
@pytest.mark.parametrize("checkpoint_every", [0, 2])
def test_the_step_ends_and_is_kept(make_ppo, tmp_path, lines, signum, status, checkpoint_every):
    settings = {"steps": 5, "checkpoint_every": checkpoint_every}
    whole = make_ppo(stopping_reward(0, signum), settings, run=tmp_path / "whole")
    whole.train()
    broken = make_ppo(stopping_reward(4, signum), settings, run=tmp_path / "run")  # one trial, then the third step
    with pytest.raises(Stopped, match=rf"stopped by {signum.name} after step 3; everything is kept in") as stopped:
        broken.train()
    assert stopped.value.exit_status == status
    assert not (tmp_path / "run/summary.json").exists()
    resumed = make_ppo(stopping_reward(0, signum), settings, run=tmp_path / "run", resume=True)
    assert resumed.step_done == 3
    resumed.train()
    for name in ("metrics.jsonl", "samples.jsonl"):
        assert lines(tmp_path / "run", name) == lines(tmp_path / "whole", name)


def test_before_the_first_step(make_ppo, tmp_path, lines):
    reward = stopping_reward(1, signal.SIGTERM)
    with pytest.raises(Stopped, match="after step 0"):
        make_ppo(reward, run=tmp_path / "run", eval_size=2).train()
    resumed = make_ppo(reward, run=tmp_path / "run", eval_size=2, resume=True)
    resumed.train()
    assert [row["step"] for row in lines(tmp_path / "run", "metrics.jsonl")] == [0, 1, 2]


def test_without_a_run_folder_ctrl_c_is_as_ever(make_ppo):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
    with pytest.raises(KeyboardInterrupt):
        make_ppo(stopping_reward(2, signal.SIGINT)).train()
    signal.signal(signal.SIGINT, before)
