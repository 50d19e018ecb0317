"""The process that has the tests and the verdict. The answer's code is never run in it."""

import ast
import builtins
import json
import os
import resource
import signal
import socket
import sys
from contextlib import suppress
from importlib import import_module
from typing import Any

from kedge.rewards.sandbox.wire import Channel, Gone

OWN_MODULES = frozenset({
    "bisect", "cmath", "collections", "copy", "datetime", "decimal", "fractions", "functools", "heapq", "itertools",
    "math", "operator", "random", "re", "statistics", "string",
})  # fmt: skip
"""Those that tests may use as ``math.isclose`` without importing them: here, whatever the answer calls by that name."""
ROOM = 256 * 2**20
"""Bytes of memory that it may take beyond what the answer may."""


class OutOfTime(BaseException):
    """The whole sample took too long."""


class Enough(BaseException):
    """One test has failed, and all must pass."""


class Tally:
    """What came of the tests; their asserts report to it."""

    def __init__(self, share: bool) -> None:
        self.share, self.passed, self.failed, self.first = share, 0, 0, ""

    def holds(self) -> None:
        self.passed += 1

    def fails(self, what: str, error: BaseException) -> None:
        self.failed += 1
        self.first = self.first or f"{_short(what)}: {_short(f'{type(error).__name__}: {error}'.removesuffix(': '))}"
        if not self.share:
            raise Enough


class Counted(ast.NodeTransformer):
    """Each assert reports, and the next one is tried all the same."""

    def visit_Assert(self, node: ast.Assert) -> Any:
        say = ast.parse(
            f"try: pass\nexcept Exception as _error: _tally.fails({ast.unparse(node)!r}, _error)\nelse: _tally.holds()"
        ).body[0]
        assert isinstance(say, ast.Try)
        say.body = [node]
        return ast.copy_location(say, node)


def test(connection: socket.socket) -> None:
    """Read the job, test, and write the verdict."""
    job = json.load(sys.stdin.buffer)
    out = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what tests print is no verdict
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (job["memory"] + ROOM,) * 2)
    channel = Channel(connection)
    try:
        verdict = {"walled": channel.heard() is True} | _verdict(channel, job)
    except Gone:
        verdict = {"broken": "the process for an answer's code cannot be started"}
    with out:
        json.dump(verdict, out)


def _verdict(channel: Channel, job: dict[str, Any]) -> dict[str, Any]:
    try:
        setup, trees = ast.parse("\n".join(job["setup"])), [ast.parse(text) for text in job["tests"]]
        before = compile(job["prefix"] if job["entry"] else "", "prefix", "exec")
    except (SyntaxError, ValueError) as error:
        return {"broken": f"the tests cannot be read: {error}"}
    asserts = sum(max(1, sum(isinstance(node, ast.Assert) for node in ast.walk(tree))) for tree in trees)
    tally, stopped = Tally(job["share"]), ""
    signal.signal(signal.SIGALRM, _out_of_time)
    signal.setitimer(signal.ITIMER_REAL, job["seconds"])
    try:
        _run(channel, job, tally, before, setup, trees)
    except OutOfTime:
        stopped = f"took more than {job['seconds']:g} seconds"
    except Gone:
        stopped = "its process ended"
    except Enough:
        stopped = "failed"
    except Exception as error:  # noqa: BLE001  of the answer's code itself, or its names
        stopped = f"{type(error).__name__}: {error}"
    signal.setitimer(signal.ITIMER_REAL, 0)
    total = tally.passed + tally.failed
    total = max(asserts, total + 1) if stopped else total
    said = tally.first or (_short(stopped) if stopped else "")
    return {"passed": tally.passed, "total": max(1, total), "said": said}


def _run(channel: Channel, job: dict[str, Any], tally: Tally, before: Any, setup: ast.Module, trees: list[Any]) -> None:
    channel.ask("run", job["code"])
    space: dict[str, Any] = {"__name__": "tests", "_tally": tally}
    exec(before, space)
    space |= _from_answer(channel, [setup, *trees], job["entry"], space)
    exec(compile(setup, "setup", "exec"), space)
    for text, tree in zip(job["tests"], trees, strict=True):
        before_it = tally.passed + tally.failed
        try:
            exec(compile(ast.fix_missing_locations(Counted().visit(tree)), "tests", "exec"), space)
            if job["entry"] and "check" in space:
                if job["entry"] not in space:
                    raise NameError(f"name {job['entry']!r} is not defined")
                space["check"](space[job["entry"]])
        except Exception as error:  # noqa: BLE001  outside an assert
            tally.fails(text, error)
        else:
            if tally.passed + tally.failed == before_it:
                tally.holds()


def _from_answer(channel: Channel, trees: list[ast.Module], entry: str | None, space: dict[str, Any]) -> dict[str, Any]:
    """The names that the tests use and do not make themselves: the answer's, but for those of Python's own."""
    nodes = [node for tree in trees for node in ast.walk(tree)]
    used = {node.id for node in nodes if isinstance(node, ast.Name)}
    made = {node.id for node in nodes if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    made |= {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    made |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    made |= {(node.asname or node.name).partition(".")[0] for node in nodes if isinstance(node, ast.alias)}
    looked_into = {
        node.value.id for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    own = {name: import_module(name) for name in (looked_into & OWN_MODULES) - made}
    wanted = used - made - own.keys() - space.keys()
    theirs = {name for name in wanted if not hasattr(builtins, name)}
    # A task may be to write a function ``sum``; where tests name another one, ``set`` is Python's.
    theirs = {entry} if entry and not theirs else theirs | ({entry} if entry else set())
    theirs = theirs or {name for name in wanted if channel.ask("has", name) is True}
    return own | {name: channel.ask("global", name) for name in sorted(theirs) if channel.ask("has", name) is True}


def _out_of_time(*_: Any) -> None:
    raise OutOfTime


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 200 else line[:197] + "..."
