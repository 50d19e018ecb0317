"""Who is silent is named, who is slow is not."""

import threading
import time
from datetime import timedelta

import pytest
import torch.distributed as dist

from kedge.launch import heartbeat, meeting
from kedge.launch.heartbeat import Companion, Heartbeat

COMPANIONS = [Companion(0, "here", 11), Companion(1, "there", 22), Companion(2, "there", 33)]


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(heartbeat, "BEAT", 0.05)
    monkeypatch.setattr(heartbeat, "TICK", 0.02)


@pytest.fixture
def beating():
    """``beating(store, rank)`` gives signs and notes who is lost; all stop in the end."""
    made = []

    def make(store, rank, patience=0.6):
        lost = []
        for each in COMPANIONS:
            if not store.check([f"beat/{each.rank}"]):
                store.set(f"beat/{each.rank}", "0")
        made.append(Heartbeat(store, rank, COMPANIONS, met_at="here:1", patience=patience, lost=lost.append))
        return lost

    yield make
    for each in made:
        each.stop()


def heard(lost, within=5.0):
    until = time.monotonic() + within
    while not lost and time.monotonic() < until:
        time.sleep(0.02)
    return lost


def test_the_silent_one_is_named(beating):
    store = dist.HashStore()
    first, second = beating(store, 0), beating(store, 1)  # the third never comes
    for lost in (first, second):
        [message] = heard(lost)
        assert "process 2 (pid 33 on there): no sign of life for 0.6 s" in message
        assert "process 1" not in message


def test_those_that_beat_are_borne_for_ever(beating):
    store = dist.HashStore()
    everybody = [beating(store, rank) for rank in range(3)]
    time.sleep(1.5)  # more than twice the patience: whoever works for long still beats
    assert everybody == [[], [], []]


def test_who_has_left_is_not_lost(beating):
    store = dist.HashStore()
    first = beating(store, 0)
    for rank in (1, 2):
        Heartbeat(store, rank, COMPANIONS, met_at="", lost=print).stop()
    time.sleep(1.5)
    assert first == []


class Hanging:
    """A store whose machine has stopped: nothing comes back."""

    def __init__(self, how):
        self.store, self.how, self.hangs = dist.HashStore(), how, False
        self.set, self.check, self.free = self.store.set, self.store.check, threading.Event()

    def get(self, key):
        if self.hangs and self.how == "hangs":
            self.free.wait()
        if self.hangs:
            raise dist.DistNetworkError("Connection reset by peer")
        return self.store.get(key)


@pytest.mark.parametrize("how", ["hangs", "breaks"])
def test_a_store_that_is_gone_is_told_of(beating, how):
    store = Hanging(how)
    lost = beating(store, 1)
    store.hangs = True
    [message] = heard(lost)
    store.free.set()
    assert "nobody at here:1 has answered for 0.6 s" in message
    assert "process 0 (pid 11 on here) or its launcher" in message


def test_time_in_which_all_were_stopped_does_not_count(beating, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(heartbeat, "time", type("Clock", (), {"monotonic": staticmethod(lambda: clock[0])}))
    store = dist.HashStore()
    lost = beating(store, 0, patience=30.0)
    time.sleep(0.2)
    clock[0] += 10_000  # Ctrl-Z, and back hours later
    time.sleep(0.3)
    assert lost == []


def test_who_does_not_come_is_named(monkeypatch):
    monkeypatch.setattr(meeting, "COMING", timedelta(seconds=0.3))
    store = dist.HashStore()
    store.set("who/2", "5 there")
    with pytest.raises(meeting.LostError, match=r"process 1, 3 of 4 did not come to here:1"):
        meeting._companions(store, 0, 4, "here:1")


def test_all_that_came_are_known_by_rank():
    store = dist.HashStore()
    store.set("who/1", "77 a host")
    first, second = meeting._companions(store, 0, 2, "here:1")
    assert first.rank == 0
    assert second == Companion(1, "a host", 77)


@pytest.mark.parametrize("said", ["soon", "-1", "nan"])
def test_a_patience_that_is_no_time(monkeypatch, said):
    monkeypatch.setenv("KEDGE_PATIENCE", said)
    with pytest.raises(meeting.ConfigError, match="KEDGE_PATIENCE"):
        meeting._patience()
