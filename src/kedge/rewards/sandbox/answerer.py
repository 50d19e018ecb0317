"""The process that has the answer's code in it, and does what the tester asks of it."""

import os
import socket
import sys
from contextlib import suppress
from types import ModuleType
from typing import Any

from kedge.rewards.sandbox import walls
from kedge.rewards.sandbox.hook import hook_up
from kedge.rewards.sandbox.wire import ACTS, Channel, Gone


def answer(connection: socket.socket, apart: bool, user: int, seconds: float, memory: int) -> None:
    """Be walled in, say how, and serve until the tester has gone."""
    _alone(connection.fileno())
    channel = Channel(connection)
    walled = apart and walls.furnish(walls.folders_of_python())
    bound = walls.give_up_rights(
        user, to_nobody=walled or _readable_by_all()
    )  # who cannot read it cannot import anything
    walls.limit(seconds, memory)
    if not (walled and bound):
        hook_up(os.getcwd())
    program = ModuleType("answer")
    sys.modules["answer"] = program
    sys.setrecursionlimit(3000)
    channel.serving = lambda what, operands: _done(program, what, operands)
    with suppress(Gone):
        channel.tell(walled and bound)
        channel.serve()


def _done(program: ModuleType, what: str, operands: list[Any]) -> Any:
    if what == "run":
        exec(compile(operands[0], "answer.py", "exec"), program.__dict__)
        return True
    if what == "has":
        return operands[0] in program.__dict__
    if what == "global":
        return program.__dict__[operands[0]]
    return ACTS[what](*operands)


def _alone(kept: int) -> None:
    """No open file but the connection; what is read is empty, and what is printed is gone."""
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(nothing, number)
    os.closerange(3, kept)
    os.closerange(kept + 1, 4096)


def _readable_by_all() -> bool:
    """Whether another user may read the standard library."""
    path = os.path.dirname(os.__file__)
    while path != "/":
        if not os.stat(path).st_mode & 0o001:
            return False
        path = os.path.dirname(path)
    return True
