"""Runs a command and all that it starts for as long as somebody holds a pipe open: ``keeper.py FD command ...``.

A program of its own, which imports nothing of kedge: a server has children, and none of them may outlive the job,
however that ends.
"""

import ctypes
import os
import select
import signal
import subprocess
import sys

PATIENCE = 5.0
"""Seconds between asking it to end and ending it."""
PR_SET_PDEATHSIG = 1


def main() -> int:
    """Gives the command's exit status; that of one that was ended here is of no interest."""
    held, command = int(sys.argv[1]), sys.argv[2:]
    os.set_inheritable(held, False)
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        ended_too = lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # noqa: E731
    else:
        ended_too = None
    child = subprocess.Popen(command, start_new_session=True, preexec_fn=ended_too)
    try:
        while child.poll() is None:
            readable, _, _ = select.select([held], [], [], 0.2)
            if readable and not os.read(held, 1):  # nobody holds it any more
                _signal(child, signal.SIGTERM)
                child.wait(PATIENCE)
                break
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        pass
    finally:
        _signal(child, signal.SIGKILL)  # its children too, where it has left any
    return child.wait()


def _signal(child: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    try:
        os.killpg(child.pid, number)
    except (ProcessLookupError, PermissionError):
        return


if __name__ == "__main__":
    sys.exit(main())
