"""A worker: a process that calls a reward function, a sample a call, and nothing else. ``pool.py`` starts it.

Run as a script, so that it imports what the function needs and nothing of kedge that needs torch.
"""

import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from functools import cache
from multiprocessing.connection import Connection
from typing import Any


def main() -> None:
    """``worker.py CONNECTION LIFELINE``, two open files by number: load the function, then answer until the end."""
    for number in map(int, sys.argv[1:]):
        os.set_inheritable(number, False)  # they are not for the processes that the function starts
    end_with(int(sys.argv[2]))
    with Connection(int(sys.argv[1])) as connection:
        sys.path[:], target = connection.recv()
        status, loaded = attempt(lambda: load(target))
        connection.send((status, None if status == "done" else loaded))
        while status == "done":
            try:
                arguments = connection.recv_bytes()
            except EOFError:  # the run has ended
                return
            connection.send_bytes(answer(loaded, arguments))


def load(target: str | bytes) -> Callable[..., Any]:
    """The function, from ``package.module:name`` or pickled."""
    from kedge.rewards.foreign import import_function  # found only now that sys.path is the run's

    function: Callable[..., Any] = import_function(target) if isinstance(target, str) else pickle.loads(target)
    return function


def answer(function: Callable[..., Any], arguments: bytes) -> bytes:
    """What the function gives for these keyword arguments, or how it raised; pickled, as they are."""
    from kedge.rewards.foreign import as_plain

    def whole() -> bytes:
        result = function(**pickle.loads(arguments))
        if hasattr(result, "__await__"):  # asyncio is imported for this only where it is needed
            result = loop().run_until_complete(result)
        packed = pickle.dumps(("done", as_plain(result)))
        pickle.loads(packed)  # what cannot be unpacked fails here, and not in the run
        return packed

    status, packed = attempt(whole)
    return packed if status == "done" else pickle.dumps((status, packed))


@cache
def loop() -> Any:
    """The one loop of this process: what a function keeps open from one call to the next works on no other."""
    import asyncio

    return asyncio.new_event_loop()


def attempt(act: Callable[[], Any]) -> tuple[str, Any]:
    """``("done", what it gives)`` or ``("raised", what it raised, and where)``."""
    try:
        return "done", act()
    except BaseException as error:  # noqa: BLE001  whatever it is, SystemExit too, it concerns this sample alone
        return "raised", described(error)


def described(error: BaseException) -> str:
    """``ValueError: why (judges.py, line 7)``, of the place that raised."""
    [*_, place] = traceback.extract_tb(error.__traceback__)
    return f"{type(error).__name__}: {error} ({place.filename}, line {place.lineno})"


def end_with(lifeline: int) -> None:
    """Be killed, with every process begun in here, when the run no longer holds the other end of this pipe."""
    if sys.platform == "linux":
        # By the kernel: a thread would wait for a function that holds the interpreter, as an endless re.match does.
        import fcntl

        fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
        return

    def watch() -> None:
        os.read(lifeline, 1)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    main()
