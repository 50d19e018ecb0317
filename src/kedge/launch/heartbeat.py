"""No hang without a name: every process of a job gives a sign of life now and then, and who hears nothing says of whom.

A collective's own time-out cannot do that. The first process may rightly work alone for long, while a reward service is
asked or a checkpoint is written, and the others wait for it in a collective; a limit that lets it work lets one that
was stopped be waited for as long. So the signs come from a thread of their own, over the store by which the processes
have met: it goes on while the main thread computes or waits, and stands still where the process was stopped
(SIGSTOP), is thrashing, or its machine is gone. What this does not see is a process that is alive and will never come
to where the others wait; for that the collectives keep a time-out, of half an hour.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from kedge.errors import LostError

BEAT = 2.0
"""Seconds between two signs."""
TICK = 0.5
"""Seconds between two looks at who has been silent for how long."""
PATIENCE = 30.0
"""Seconds of silence after which a companion counts as lost. A machine that swaps, or a library that keeps
Python's lock to itself, may be silent for a while; ``KEDGE_PATIENCE`` sets another time, 0: for ever."""
_LEFT = b"left"


@dataclass(frozen=True)
class Companion:
    """A process of the job, as a message names it."""

    rank: int
    host: str
    pid: int

    def __str__(self) -> str:
        return f"process {self.rank} (pid {self.pid} on {self.host})"


class Heartbeat:
    """Gives this process's signs, and looks for those of the others, until :meth:`stop`."""

    def __init__(
        self,
        store: Any,
        rank: int,
        companions: Sequence[Companion],
        *,
        met_at: str,
        patience: float = PATIENCE,
        lost: "Callable[[str], object] | None" = None,
    ) -> None:
        """Begin.

        Args:
            store: a connection of its own: another thread's may wait in it for long.
            rank: this process's.
            companions: all of the job, this one too, by rank.
            met_at: where the store is, for the message.
            patience: seconds of silence that are borne.
            lost: what to do about one, by its message; the default says it and ends this process, whose main thread may
                be inside a collective that nothing else gets it out of.
        """
        self.store, self.rank, self.companions, self.met_at = store, rank, companions, met_at
        self.patience, self.lost = patience, _end if lost is None else lost
        self.others = [each.rank for each in companions if each.rank != rank]
        self._silent = dict.fromkeys(self.others, 0.0)
        self._unanswered = 0.0
        self._before: dict[int, bytes] = {}
        self._stopped = threading.Event()
        self._give(b"0")  # before anybody asks for it
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._beats, self._watches)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """This process leaves the job, which nobody shall take for a loss."""
        self._stopped.set()
        for thread in self._threads:
            thread.join(timeout=2 * BEAT)  # one that is inside the store as Python ends would take the process along
        with suppress(RuntimeError):  # the one that has the store has left already
            self._give(_LEFT)

    def _give(self, sign: bytes) -> None:
        self.store.set(f"beat/{self.rank}", sign)

    def _beats(self) -> None:
        count = 0
        while not self._stopped.wait(BEAT):
            count += 1
            try:
                self._give(str(count).encode())
                for rank in self.others:
                    self._heard(rank, self.store.get(f"beat/{rank}"))
            except RuntimeError:  # torch's errors of a store: nobody was heard, which is counted
                continue
            self._unanswered = 0.0

    def _heard(self, rank: int, sign: bytes) -> None:
        if sign != self._before.get(rank) or sign == _LEFT:
            self._silent[rank] = 0.0
        self._before[rank] = sign

    def _watches(self) -> None:
        """A thread of its own: the other one hangs where the store does."""
        then = time.monotonic()
        while not self._stopped.wait(TICK):
            now = time.monotonic()
            awake = min(now - then, 2 * TICK)  # all may have been stopped together (Ctrl-Z), and heard nothing
            then = now
            self._unanswered += awake
            for rank in self._silent:
                self._silent[rank] += awake
            if self._unanswered > self.patience:
                self.lost(
                    f"nobody at {self.met_at} has answered for {self.patience:g} s, where the processes of this job "
                    f"have met: {self.companions[0]} or its launcher was stopped or has died, or the network is gone"
                )
                return
            missed = [rank for rank, silent in self._silent.items() if silent > self.patience]
            if missed:
                who = ", ".join(str(self.companions[rank]) for rank in missed)
                self.lost(
                    f"{who}: no sign of life for {self.patience:g} s; stopped, or its machine hangs or cannot be "
                    "reached"
                )
                return


def _end(message: str) -> None:
    print(f"error: {message}", file=sys.stderr, flush=True)
    os._exit(LostError.exit_status)
