"""``python -m kedge.launch.bound PARENT WORDS...``: become ``python -m kedge WORDS...``, and end when PARENT does.

The kernel does that, and so whatever way the parent ends (Linux; elsewhere the process outlives it). Signals are as a
terminal gives them: Ray blocks SIGINT in all that it starts.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def become(parent: int, words: list[str]) -> None:
    """Replace this process; returns only where the parent is gone already."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == parent:  # else it ended before the kernel was told
        os.execv(sys.executable, [sys.executable, "-m", "kedge", *words])


if __name__ == "__main__":
    become(int(sys.argv[1]), sys.argv[2:])
    sys.exit(1)
