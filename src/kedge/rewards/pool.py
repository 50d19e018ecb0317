"""Worker processes that call a function, each with a time limit on a call. One that hangs or dies is replaced.

Each worker has a connection of its own, so that one that is killed at whatever moment leaves nothing locked and nothing
half written for the others. It is the leader of a session: Ctrl-C in the terminal does not reach it, and what the
function starts ends with it. It ends with the run, however that ends.
"""

import math
import os
import pickle
import signal
import subprocess
import sys
import time
import weakref
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Literal

from kedge.errors import ConfigError

DEATHS_AT_START = 3
"""So many workers one after another that end before they have loaded the function: it cannot be loaded."""
OWN_MODULE = "put it into a module of its own, and give it as function='module:name'"
SCRIPT = Path(__file__).with_name("worker.py")


@dataclass(frozen=True)
class Reply:
    """What came of one call."""

    status: Literal["done", "raised", "hung", "died"]
    value: Any
    """What the function returned; else what happened, in words."""


class WorkerPool:
    """Calls one function in worker processes.

    Args:
        target: ``package.module:name``, or the function pickled.
        size: how many workers.
        time_limit: seconds a call may run, its wait for a worker not counted; None: any.
        who: what to call the function in an error.

    Raises:
        ConfigError: a worker cannot load the function.
    """

    def __init__(self, target: str | bytes, size: int, time_limit: float | None, *, who: str) -> None:
        if os.name != "posix":
            raise ConfigError("workers: they need a POSIX system (Linux, macOS); take it out")
        self.target = target
        self.size = size
        self.who = who
        self.time_limit = math.inf if time_limit is None else time_limit
        self._workers: list[_Worker] = []
        self._deaths_at_start = 0
        weakref.finalize(self, _end_all, self._workers)
        self._fill()
        while not all(worker.ready for worker in self._workers):
            self._receive()

    def run(self, calls: Sequence[Mapping[str, Any]]) -> Generator[tuple[int, Reply], None, None]:
        """Call the function with each of these keyword arguments: ``(index, reply)`` as they come.

        Whoever stops listening before the end closes the iterator: calls that still run are killed.
        """
        waiting = deque(enumerate(calls))
        self._remove_dead()
        try:
            while waiting or any(worker.call is not None for worker in self._workers):
                if waiting:
                    self._fill()
                for worker in self._workers:
                    if waiting and worker.ready and worker.call is None:
                        worker.begin(*waiting.popleft())
                yield from self._receive()
        finally:
            for worker in [worker for worker in self._workers if worker.call is not None]:
                self._end(worker)

    def _fill(self) -> None:
        while len(self._workers) < self.size:
            self._workers.append(_Worker(self.target))

    def _remove_dead(self) -> None:
        for worker in [worker for worker in self._workers if worker.process.poll() is not None]:
            self._end(worker)

    def _end(self, worker: "_Worker") -> int:
        self._workers.remove(worker)
        return worker.end()

    def _receive(self) -> list[tuple[int, Reply]]:
        """Wait until a worker answers, dies, or is out of time."""
        speakers = {worker.connection: worker for worker in self._workers if worker.busy}
        ends = [worker.began + self.time_limit for worker in speakers.values() if worker.ready]
        timeout = max(0.0, min(ends, default=math.inf) - time.monotonic())
        ready = wait(list(speakers), None if timeout == math.inf else timeout)
        heard = [worker for connection, worker in speakers.items() if connection in ready]
        silent = [worker for worker in speakers.values() if worker not in heard and worker.ready]
        replies = [(worker.call, self._reply(worker)) for worker in heard]
        for worker in silent:
            if time.monotonic() >= worker.began + self.time_limit:
                replies.append((worker.call, Reply("hung", f"took more than time_limit={self.time_limit:g} seconds")))
                self._end(worker)
        return [(call, reply) for call, reply in replies if call is not None and reply is not None]

    def _reply(self, worker: "_Worker") -> Reply | None:
        try:
            status, value = worker.connection.recv()
        except (EOFError, OSError):
            status, value = "died", _ending(self._end(worker))
        if worker.ready:
            worker.call = None
            return Reply(status, f"raised {value}" if status == "raised" else value)
        if status == "died" and self._deaths_at_start < DEATHS_AT_START - 1:  # killed, it may be, by something else
            self._deaths_at_start += 1
            self._fill()
            return None
        if status != "done":
            raise ConfigError(f"{self.who}: a worker cannot load it: {value}; {OWN_MODULE}")
        self._deaths_at_start = 0
        worker.ready = True
        return None


class _Worker:
    """One process, and the call that it is at."""

    def __init__(self, target: str | bytes) -> None:
        self.connection, theirs = Pipe()
        held, self.lifeline = os.pipe()
        command = [sys.executable, "-P", str(SCRIPT), str(theirs.fileno()), str(held)]
        self.process = subprocess.Popen(
            command,
            pass_fds=(theirs.fileno(), held),
            stdin=subprocess.DEVNULL,
            stdout=2,  # what a function prints is no part of what a command says, such as `kedge doctor --json`
            start_new_session=True,
        )
        theirs.close()
        os.close(held)
        self.connection.send((sys.path, target))
        self.ready = False
        """Whether it has loaded the function."""
        self.call: int | None = None
        self.began = 0.0

    @property
    def busy(self) -> bool:
        """Whether it has yet to say something."""
        return not self.ready or self.call is not None

    def begin(self, call: int, arguments: Mapping[str, Any]) -> None:
        """Send a call; how that ended is heard, even if the worker is no longer there."""
        packed = pickle.dumps(dict(arguments))
        self.call, self.began = call, time.monotonic()
        with suppress(OSError):
            self.connection.send_bytes(packed)

    def end(self) -> int:
        """Kill it and what it has started; gives its exit status."""
        with suppress(ProcessLookupError, PermissionError):  # dead already, and nothing left of it
            os.killpg(self.process.pid, signal.SIGKILL)
        code = self.process.wait()
        self.connection.close()
        os.close(self.lifeline)
        return code


def _end_all(workers: list[_Worker]) -> None:
    while workers:
        workers.pop().end()


def _ending(code: int) -> str:
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
    return f"ended its worker process ({how})"
