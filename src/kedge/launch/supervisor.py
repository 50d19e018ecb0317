"""One process of a job, started, read and watched on its own machine: in the launcher itself, or in an actor."""

import os
import platform
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import psutil

from kedge.errors import ConfigError

DRAINED = 2.0
"""Seconds for which the output of a process that has ended is read on: another one that it started may hold it open."""


@dataclass(frozen=True)
class Place:
    """Where a process of the job runs."""

    host: str
    address: str
    """Under which other machines reach it."""
    cores: int
    gpus: tuple[str, ...] = ()
    """That this process was given, as ``CUDA_VISIBLE_DEVICES`` names them; nothing where nobody deals them out."""


@dataclass(frozen=True)
class Look:
    """What there is to see of a process since the last look."""

    lines: Sequence[str] = ()
    pid: int = 0
    status: int | None = None
    """Of its end, as subprocess has it: minus the number of a signal; None while it runs."""
    ended: float = 0.0
    """When that was, in seconds since 1970."""
    stopped: float = 0.0
    """Seconds for which it has been stopped (SIGSTOP)."""
    lost: str = ""
    """Why nothing more will be heard of it."""


class Supervisor:
    """Starts one process and watches it."""

    def __init__(self, address: str = "127.0.0.1", gpus: Sequence[str] = ()) -> None:
        self._place = Place(platform.node(), address, len(_cores()), tuple(gpus))
        self._lines: deque[str] = deque()
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self._stopped_since: float | None = None
        self._ended = 0.0

    def place(self) -> Place:
        """Where it runs."""
        return self._place

    def free_port(self) -> int:
        """One that nobody listens at here."""
        with socket.socket() as listener:
            listener.bind(("", 0))
            return int(listener.getsockname()[1])

    def start(self, words: Sequence[str], environment: Mapping[str, str], folder: str) -> None:
        """Start ``kedge WORDS``, which dies with this process. The thread that calls this must live as long.

        Raises:
            ConfigError: the folder is not on this machine.
        """
        whole = os.environ | {"PYTHONUNBUFFERED": "1"} | dict(environment)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "kedge.launch.bound", str(os.getpid()), *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=whole,
                start_new_session=True,  # a terminal's Ctrl-C comes once, from the launcher
            )
        except (FileNotFoundError, NotADirectoryError):
            raise ConfigError(
                f"{folder}: is not on {self._place.host}; recipe, data and runs must be where all nodes see them"
            ) from None
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def look(self) -> Look:
        """What it has said since the last look, and how it is."""
        if self._process is None:
            return Look()
        status = self._process.poll()
        if status is not None and self._reads_on():
            status = None  # not before its last words
        lines = [self._lines.popleft() for _ in range(len(self._lines))]
        return Look(lines, self._process.pid, status, self._ended, self._stopped())

    def signal(self, number: int) -> None:
        """Give it a signal, if it is there."""
        if self._process is not None:
            self._process.send_signal(number)

    def end(self) -> None:
        """Kill it, with all that it has started."""
        if self._process is None:
            return
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)  # its session's, also after its own end
        self._process.wait()

    def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.append(line.decode("utf-8", "replace").rstrip("\r\n"))

    def _reads_on(self) -> bool:
        assert self._reader is not None
        self._ended = self._ended or time.time()
        return self._reader.is_alive() and time.time() < self._ended + DRAINED

    def _stopped(self) -> float:
        assert self._process is not None
        try:
            stopped = psutil.Process(self._process.pid).status() == psutil.STATUS_STOPPED
        except psutil.NoSuchProcess:
            stopped = False
        if not stopped:
            self._stopped_since = None
        elif self._stopped_since is None:
            self._stopped_since = time.monotonic()
        return 0.0 if self._stopped_since is None else time.monotonic() - self._stopped_since


def _cores() -> set[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
