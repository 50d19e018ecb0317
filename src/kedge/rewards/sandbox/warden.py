"""``warden.py SECONDS MEMORY LIFELINE APART``: starts tester and answerer, and sees to it that nothing outlives the
tester. Exits with 3 if that did not end in time.

Run as a script, by :func:`kedge.rewards.sandbox.run.run`; imports the standard library and its neighbours.
"""

import gc
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from types import ModuleType

OUT_OF_TIME = 3
GRACE = 5.0
"""Seconds beyond the tests' own, for a tester that does not end by itself."""


def main() -> None:
    """Fork both, wait for the tester, kill the rest."""
    from kedge.rewards.sandbox import answerer, tester, walls

    seconds, memory, lifeline = float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    sys.set_int_max_str_digits(0)
    gc.freeze()
    ours, theirs = socket.socketpair()
    over, held = os.pipe()
    testing = os.fork()
    if testing == 0:
        theirs.close()
        os.close(over)
        _as_child(lambda: tester.test(ours))
    ours.close()
    os.close(held)
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    os.dup2(0, 1)
    walls.adopt_orphans()
    apart = sys.argv[4] == "1" and walls.separate()
    user = 2**30 + os.getpid()  # one for each answer, so that its processes are counted alone
    answering = os.fork()
    if answering == 0:
        _as_child(lambda: answerer.answer(theirs, apart, user, seconds, memory))
    theirs.close()
    ended, _, _ = select.select([over, lifeline], [], [], seconds + GRACE)
    _end([testing, answering])
    sys.exit(0 if ended else OUT_OF_TIME)


def _as_child(act: Callable[[], None]) -> None:
    try:
        act()
    finally:
        os._exit(0)


def _end(processes: list[int]) -> None:
    """Kill both, and whatever has become this process's child since."""
    deadline = time.monotonic() + 2
    while processes and time.monotonic() < deadline:
        for process in processes:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(process, signal.SIGKILL)
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process, signal.SIGKILL)
        for process in processes:
            with suppress(ChildProcessError):
                os.waitpid(process, 0)
        processes = _children()


def _children() -> list[int]:
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            return [int(number) for number in file.read().split()]
    except OSError:  # no Linux
        return []


if __name__ == "__main__":
    here = os.path.dirname(os.path.abspath(__file__))
    # The packages without what their __init__ imports.
    for depth, name in ((1, "kedge.rewards"), (2, "kedge")):
        package = ModuleType(name)
        package.__path__ = [os.path.abspath(os.path.join(here, *[os.pardir] * depth))]
        sys.modules[name] = package
    main()
