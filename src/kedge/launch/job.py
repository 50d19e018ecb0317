"""A job of several processes, from their start to their end: what they say, who failed, and whether it begins again."""

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

from kedge.errors import LostError, Stopped
from kedge.launch.crew import Crew
from kedge.launch.environment import environments
from kedge.launch.log import Log
from kedge.launch.supervisor import Look, Place

GRACE = 5.0
"""Seconds that the others have to end by themselves after the first one that failed: they may have the same to say."""
STOPPED = 10.0
"""Seconds after which a process that was stopped (SIGSTOP) counts as lost."""

AT_ONCE = 2
"""Signals that processes are given; at one more they are killed."""

ASKED = (128 + signal.SIGINT, 128 + signal.SIGTERM)
PAUSED = 3
MENDED_BY_THE_USER = 2


@dataclass(frozen=True)
class Failure:
    """A process that did not end well, or will not."""

    rank: int
    place: Place
    look: Look

    @property
    def lost(self) -> bool:
        """Whether it has not ended by itself."""
        return bool(self.look.lost) or self.look.status is None

    @property
    def status(self) -> int:
        """For the shell."""
        if self.lost or self.look.status is None:
            return LostError.exit_status
        return 128 - self.look.status if self.look.status < 0 else self.look.status

    @property
    def order(self) -> tuple[int, float]:
        """The cause comes first: those that others have lost end by an error of their own, or by an abort."""
        status = self.look.status
        if self.lost:
            return 0, 0.0
        if status == LostError.exit_status:
            return 4, self.look.ended
        if status in (1, -signal.SIGABRT):
            return 3, self.look.ended
        return (1 if (status or 0) < 0 else 2), self.look.ended

    def __str__(self) -> str:
        who = f"process {self.rank} (pid {self.look.pid} on {self.place.host})"
        if self.look.lost:
            return f"{who} is lost: {self.look.lost}"
        if self.look.status is None:
            return f"{who} has been stopped (SIGSTOP) for {self.look.stopped:.0f} s"
        if self.look.status < 0:
            name = signal.Signals(-self.look.status).name
            memory = "; the kernel does that where memory runs out (see dmesg)" if name == "SIGKILL" else ""
            return f"{who} was killed by {name}{memory}"
        return f"{who} ended with exit status {self.look.status}; what it said stands above, after [{self.rank}]"


class Asked:
    """Ctrl-C and SIGTERM while a job runs: taken note of, to be passed on."""

    def __init__(self) -> None:
        self.signals: list[int] = []
        self.passed_on = 0

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Instead of dying of them."""
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        for number in before:
            signal.signal(number, lambda signum, frame: self.signals.append(signum))
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def run_job(
    words: Sequence[str],
    crews: Callable[[int], Crew],
    log: Log,
    *,
    restarts: int,
) -> None:
    """Run ``kedge WORDS`` in all processes, once more with ``--resume`` after a loss.

    Args:
        words: of the command, such as ``["ppo", "recipe.toml", "ppo.steps=20", "--overwrite"]``.
        crews: makes the processes of an attempt, by its number; fewer of them where fewer can be had.
        log: hears all they say.
        restarts: how often the job may begin again.

    Raises:
        LostError: it ended badly; the message names who and why, the exit status is that of the cause. Stopped: it
            was asked to stop, or paused.
    """
    asked, places = Asked(), 0
    for attempt in range(restarts + 1):
        before, crew = places, crews(attempt)
        places = len(crew.places)
        if attempt and places < before:
            log.say(f"{places} of {before} processes are left")
        try:
            with asked.noting():
                failures = _attempt(words, crew, log, asked)
        finally:
            crew.close()
            log.write()
        if not failures:
            return
        cause = min(failures, key=lambda failure: failure.order)
        again = attempt < restarts and not asked.signals and cause.status not in (*ASKED, PAUSED, MENDED_BY_THE_USER)
        if not again:
            _tell(cause, failures, len(crew.places), log)
        log.say(f"{cause}; the job begins again, {attempt + 1} of {restarts}")
        if log.begun:  # else there is nothing yet to go on from, and perhaps something to overwrite
            words = [word for word in words if word not in ("--overwrite", "--resume")] + ["--resume"]


def _attempt(words: Sequence[str], crew: Crew, log: Log, asked: Asked) -> list[Failure]:
    """Those that failed, when all have ended, or will not end by themselves."""
    crew.start(words, environments(crew.places, crew.free_port(), os.environ), os.getcwd())
    last = [Look() for _ in crew.places]
    until: float | None = None
    while True:
        for number in asked.signals[asked.passed_on :]:
            crew.signal(number)
        asked.passed_on = len(asked.signals)
        looks = crew.look()
        for rank, look in enumerate(looks):
            for line in look.lines:
                log.say(line, rank)
            last[rank] = look
        log.write()
        failures = [
            Failure(*each) for each in zip(range(len(last)), crew.places, last, strict=True) if _failed(each[2])
        ]
        running = [look for look in last if look.status is None and not look.lost]
        if not running or (until is not None and time.monotonic() > until):
            return failures
        if len(asked.signals) > AT_ONCE:
            raise Stopped("the processes were killed; what the last checkpoint has is kept", 128 + asked.signals[-1])
        if failures and until is None:
            until = time.monotonic() + GRACE


def _failed(look: Look) -> bool:
    return bool(look.lost) or look.stopped > STOPPED or look.status not in (None, 0)


def _tell(cause: Failure, failures: Sequence[Failure], processes: int, log: Log) -> NoReturn:
    """End the command as the processes did.

    Raises:
        LostError, Stopped: one of them, always.
    """
    alike = len(failures) == processes and len({failure.status for failure in failures}) == 1
    if alike and cause.status in (*ASKED, PAUSED):
        raise Stopped("all processes have ended as they were asked to", cause.status)
    others = "" if processes == 1 else "; all have ended as it did" if alike else "; the others were ended"
    going_on = "; --resume goes on from the last checkpoint" if log.begun and cause.status != MENDED_BY_THE_USER else ""
    message = f"{cause}{others}{going_on}"
    log.say(f"error: {message}", shown=False)  # the command shows it
    log.write()
    raise LostError(message, cause.status)
