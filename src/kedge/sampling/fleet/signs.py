"""Whether a program that is slow to begin is at work: what it and all that it has started have done so far."""

from dataclasses import dataclass
from pathlib import Path

import psutil

WORKED, READ = 0.1, 2**20
"""Seconds of processors, and bytes from storage, that are more than a program needs to wait for another one."""


@dataclass(frozen=True)
class Signs:
    """Of life, as the kernel and its log tell them."""

    processes: frozenset[int]
    stopped: frozenset[int]
    """Those that somebody has stopped, such as with SIGSTOP: whatever the others do, they wait for these."""
    seconds: float
    """Of processors, by all of them."""
    read: int
    """Bytes from storage, as far as one may know: who reads weights over a slow network works little."""
    said: int
    """Bytes of its log."""


class Silence:
    """How long no sign of life has been seen."""

    def __init__(self) -> None:
        self._last: Signs | None = None
        self._since = 0.0

    def after(self, signs: Signs, now: float) -> float:
        """Seconds without one, with these.

        Args:
            signs: of now.
            now: by any clock, the same each time.
        """
        last = self._last
        if last is None or (not signs.stopped and _at_work(last, signs)):
            self._last, self._since = signs, now
        return now - self._since

    def seen(self, signs: Signs) -> str:
        """Why it is taken for silence, in words."""
        if signs.stopped:
            return f"stopped, as by SIGSTOP: process {', '.join(map(str, sorted(signs.stopped)))}"
        assert self._last is not None
        worked = signs.seconds - self._last.seconds
        return (
            f"{len(signs.processes)} processes, {worked:.2f} s of CPU time by all of them, nothing read, nothing said"
        )


def _at_work(before: Signs, now: Signs) -> bool:
    return (
        now.processes != before.processes
        or now.seconds - before.seconds >= WORKED
        or now.read - before.read >= READ
        or now.said != before.said
    )


def signs_below(root: int, log: Path) -> Signs | None:
    """Of all processes that one has started, and these in turn; without itself.

    Args:
        root: its id.
        log: what they write to.

    Returns:
        None: it has ended.
    """
    try:
        below = psutil.Process(root).children(recursive=True)
    except psutil.NoSuchProcess:
        return None
    found = {each.pid: seen for each in below if (seen := _seen(each)) is not None}
    return Signs(
        processes=frozenset(found),
        stopped=frozenset(pid for pid, (status, _, _) in found.items() if status == psutil.STATUS_STOPPED),
        seconds=sum(seconds for _, seconds, _ in found.values()),
        read=sum(read for _, _, read in found.values()),
        said=log.stat().st_size,
    )


def _seen(process: psutil.Process) -> tuple[str, float, int] | None:
    """A process's state, the processor time that it and those it has waited for have had, and what it has read."""
    try:
        with process.oneshot():
            return process.status(), sum(process.cpu_times()[:4]), _read(process)
    except psutil.Error:  # it has ended, or is not for us to know
        return None


def _read(process: psutil.Process) -> int:
    if not hasattr(process, "io_counters"):  # macOS does not tell
        return 0
    try:
        return int(process.io_counters().read_bytes)
    except psutil.AccessDenied:
        return 0
