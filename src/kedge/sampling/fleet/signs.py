"""Whether a program that is slow to begin is at work: what it and all that it has started have done so far."""

import os
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
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
        None: this system does not tell (it has no ``/proc`` as Linux has it).
    """
    if not (PROC / str(root) / "stat").is_file():
        return None
    stats = {int(each.name): stat for each in PROC.iterdir() if each.name.isdigit() and (stat := _stat(each))}
    below: set[int] = set()
    parents = {root}
    while parents:
        parents = {pid for pid, (_, parent, _) in stats.items() if parent in parents}
        below |= parents
    return Signs(
        processes=frozenset(below),
        stopped=frozenset(pid for pid in below if stats[pid][0] == "T"),
        seconds=sum(stats[pid][2] for pid in below),
        read=sum(map(_read, below)),
        said=log.stat().st_size,
    )


def _stat(process: Path) -> tuple[str, int, float] | None:
    """A process's state, its parent, and the processor time that it and those it has waited for have had."""
    try:
        words = (process / "stat").read_text(errors="replace").rpartition(")")[2].split()  # its name may have blanks
    except OSError:  # it has ended
        return None
    return words[0], int(words[1]), sum(map(int, words[11:15])) / os.sysconf("SC_CLK_TCK")


def _read(pid: int) -> int:
    try:
        lines = (PROC / str(pid) / "io").read_text().splitlines()
    except OSError:  # it has ended, or is not for us to know
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("read_bytes:")), 0)
