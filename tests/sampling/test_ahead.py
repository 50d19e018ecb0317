"""What runs ahead: which steps are begun when, whose error is whose, and that the threads end."""

import threading
import time

import pytest

from kedge.errors import DataError
from kedge.sampling.ahead import Ahead


class Writing:
    """Answers of a step that are the step's number; and who was asked for what."""

    def __init__(self):
        self.begun, self.threads = [], []
        self.held = threading.Event()
        self.held.set()
        self.wrong = None

    def __call__(self, step):
        self.begun.append(step)
        self.threads.append(threading.current_thread())
        self.held.wait(10)
        if step == self.wrong:
            raise DataError(f"step {step} cannot be written")
        return [step]


@pytest.fixture
def writing():
    return Writing()


def test_with_none_ahead_who_asks_writes(writing):
    ahead = Ahead(writing, steps=0, last=9)
    assert [ahead.take(step) for step in range(3)] == [[0], [1], [2]]
    assert writing.begun == [0, 1, 2]
    assert {*writing.threads} == {threading.main_thread()}


def test_so_many_are_begun_and_each_once(writing):
    ahead = Ahead(writing, steps=2, last=5)
    begun = []
    for step in range(5):
        assert ahead.take(step) == [step]
        ahead.settle()
        begun.append(sorted(writing.begun))
    assert begun == [[0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3, 4], [0, 1, 2, 3, 4], [0, 1, 2, 3, 4]]
    assert threading.main_thread() not in writing.threads
    assert writing.threads[0].name == "answers-of-step-1"
    ahead.close()
    assert not any(thread.is_alive() for thread in writing.threads)


def test_the_next_are_written_while_nobody_waits(writing):
    ahead = Ahead(writing, steps=1, last=9)
    ahead.take(0)
    writing.held.clear()
    until = time.monotonic() + 5
    while writing.begun != [0, 1] and time.monotonic() < until:
        time.sleep(0.01)
    assert writing.begun == [0, 1]
    threading.Timer(0.2, writing.held.set).start()
    assert ahead.take(1) == [1]  # waited for
    ahead.close()


def test_an_error_is_its_steps(writing):
    ahead = Ahead(writing, steps=2, last=9)
    writing.wrong = 2
    assert ahead.take(0) == [0]
    assert ahead.take(1) == [1]
    with pytest.raises(DataError, match="step 2 cannot be written"):
        ahead.take(2)
    writing.wrong = None
    assert ahead.take(2) == [2]  # it may be asked for again
    ahead.close()


def test_a_run_that_goes_on_elsewhere_begins_there(writing):
    ahead = Ahead(writing, steps=1, last=9)
    ahead.take(0)
    assert ahead.take(6) == [6]
    ahead.settle()
    assert sorted(writing.begun) == [0, 1, 6, 7]
    ahead.close()
