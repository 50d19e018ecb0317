"""Ctrl-C and SIGTERM while a run trains: asked once, it ends its step and keeps all of it; asked twice, it ends now."""

import signal
import threading
from types import FrameType
from typing import Any

import torch

from kedge.parallel import Processes
from kedge.runs.progress import say


class Terminated(SystemExit):
    """SIGTERM asked twice: the process ends, wherever it is."""


class Interrupts:
    """While entered, takes note of the first SIGINT or SIGTERM instead of dying of it.

    Python delivers signals to the main thread alone; entered in another one, it changes nothing.
    """

    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self._signum = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        self._give_back()

    def asked(self) -> signal.Signals | None:
        """The signal that came to any of the processes. All of them must ask, at the same point of a step."""
        signum = torch.tensor(self._signum)
        self.processes.max_(signum)
        return signal.Signals(int(signum)) if signum else None

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self._signum:
            self._give_back()
            raise KeyboardInterrupt if signum == signal.SIGINT else Terminated(128 + signum)
        self._signum = signum
        say(f"{signal.Signals(signum).name}: the step ends first, and all is kept; once more ends it now")

    def _give_back(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
