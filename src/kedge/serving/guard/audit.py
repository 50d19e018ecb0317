"""A log of what the guard did, in which every change shows: each line has the hash of the one before it.

A line is JSON in one spelling alone (sorted keys, no spaces, ASCII), so that no byte of it may differ. Its ``hash`` is
the SHA-256 of the same without ``hash``; ``previous`` is that of the line before, ``number`` counts from 1. What is
missing at the end shows to who knows the last line's hash from elsewhere, and to nobody else; whoever may write the
file may also write another chain, and that shows in the same way.

A process that was killed may leave the beginning of a line, of which nobody has heard. Who goes on with the file takes
it out and writes a line that has it as ``torn``.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any

from kedge.errors import KedgeError
from kedge.storage.locking import take_file
from kedge.storage.writing import storage, sync

NOTHING = "0" * 64
"""``previous`` of the first line."""


class AuditError(KedgeError):
    """An audit log is not what was written."""


@dataclass(frozen=True)
class Chain:
    """Lines of a log that follow one another."""

    count: int = 0
    head: str = NOTHING
    """Hash of the last one."""
    size: int = 0
    """Bytes of all."""
    torn: int = 0
    """Lines that say that one was not written to its end."""
    rest: bytes = b""
    """What stands behind them: a line that was not written to its end."""
    added: int | None = None
    """Lines behind the one whose hash was expected; None: there is no such line."""

    def line(self, said: Mapping[str, Any]) -> tuple[bytes, "Chain"]:
        """The next line, and the chain with it."""
        body = {**said, "number": self.count + 1, "previous": self.head}
        entry = body | {"hash": hashlib.sha256(_spelled(body)).hexdigest()}
        line = _spelled(entry) + b"\n"
        return line, self.after(line, entry)

    def after(self, line: bytes, entry: Mapping[str, Any], expect: str | None = None) -> "Chain":
        """With one more line, which fits."""
        added = 0 if entry["hash"] == expect else None if self.added is None else self.added + 1
        return Chain(
            self.count + 1, entry["hash"], self.size + len(line), self.torn + ("torn" in entry), added=added
        )  # fmt: skip

    def refused(self, line: bytes) -> str | None:
        """What is wrong with a line, if it is to be the next one; None: nothing."""
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            return "was changed: it is no JSON"
        if not isinstance(entry, dict) or _spelled(entry) != line:
            return "was changed: it is not spelled as it was written"
        body = {key: value for key, value in entry.items() if key != "hash"}
        if hashlib.sha256(_spelled(body)).hexdigest() != entry.get("hash"):
            return "was changed: its hash is another one"
        number, wanted = entry.get("number"), self.count + 1
        if not isinstance(number, int) or number < wanted:
            return f"stands where line {wanted} should: it is a copy, or in another place"
        if number > wanted:
            return f"has number {number}, and {wanted} should come: lines before it are missing, or in another place"
        if entry.get("previous") != self.head:
            return "does not follow the line before it: one of the two was changed"
        return None


def read_chain(lines: Iterable[bytes], where: str, expect: str | None = None) -> Chain:
    """The chain that lines are, each with its end; the last one may have none.

    Args:
        lines: of the file.
        where: for messages.
        expect: a hash that one of them should have.

    Raises:
        AuditError: naming the first line that is wrong.
    """
    chain = Chain(added=0 if expect == NOTHING else None)
    for place, line in enumerate(lines, 1):
        if not line.endswith(b"\n"):
            return replace(chain, rest=line)
        refused = chain.refused(line[:-1])
        if refused:
            raise AuditError(f"{where}: line {place} {refused}")
        chain = chain.after(line, json.loads(line), expect)
    return chain


def check_audit(path: Path, expect: str | None = None) -> Chain:
    """The chain in a file, if it is whole and nothing in it was changed.

    Args:
        path: of the file.
        expect: the hash of a line that was the last one once.

    Raises:
        AuditError: it is not, naming the first line that is wrong.
    """
    try:
        with path.open("rb") as file:
            chain = read_chain(file, str(path), expect)
    except OSError as error:
        raise AuditError(f"{path}: cannot be read: {error}") from None
    if chain.rest:
        raise AuditError(f"{path}: line {chain.count + 1} is cut off: it has no end")
    if expect is not None and chain.added is None:
        raise AuditError(
            f"{path}: no line has the hash {expect!r}: it, and what came after it, is missing at the end, or all of it "
            "was written anew"
        )
    return chain


class AuditLog:
    """The log of one server, which alone writes the file. From any thread.

    Args:
        path: of the file, which is continued where there is one.

    Raises:
        AuditError: what there is in it was changed. ConfigError: another process writes it. StorageError: it cannot be
            written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._release: Callable[[], None] = take_file(path)
        self._writing = Lock()
        self._chain = Chain()
        self._spoiled = False  # something stands behind the chain that could not be taken away
        try:
            with storage(path):
                self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                self._take_up()
            except BaseException:
                os.close(self._file)
                raise
        except BaseException:
            self._release()
            raise

    @property
    def chain(self) -> Chain:
        """As far as it is on disk."""
        return self._chain

    def write(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Add lines; they are on disk when this returns.

        Raises:
            StorageError: none of them is.
        """
        with self._writing:
            lines, chain = [], self._chain
            for entry in entries:
                line, chain = chain.line(entry)
                lines.append(line)
            self._append(b"".join(lines))
            self._chain = chain

    def close(self) -> None:
        """Let others write it."""
        with self._writing:
            os.close(self._file)
            self._release()

    def _append(self, what: bytes) -> None:
        with storage(self.path):
            if self._spoiled:
                self._cut_back()
            try:
                rest = memoryview(what)
                while rest:
                    rest = rest[os.write(self._file, rest) :]
                os.fsync(self._file)
            except OSError:
                self._spoiled = True
                with suppress(OSError):
                    self._cut_back()
                raise

    def _cut_back(self) -> None:
        """Take away what stands behind the chain: nobody has heard of it."""
        os.ftruncate(self._file, self._chain.size)
        self._spoiled = False

    def _take_up(self) -> None:
        with self.path.open("rb") as file:
            self._chain = read_chain(file, str(self.path))
        rest, self._chain = self._chain.rest, replace(self._chain, rest=b"")
        with storage(self.path):
            sync(self.path.parent)
            if rest:
                self._cut_back()
        if rest:
            self.write([{"torn": rest.decode("ascii", "backslashreplace")}])


def _spelled(entry: Mapping[str, Any]) -> bytes:
    return json.dumps(entry, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
