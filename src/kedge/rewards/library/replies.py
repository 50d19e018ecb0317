"""What a language model replied, kept on disk: a question that was asked before costs nothing."""

import hashlib
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from kedge.errors import ConfigError


class Reply(NamedTuple):
    """A reply, and what it took."""

    text: str
    tokens: float = 0.0
    """Of questions and replies, as the service counts them; 0 where it was kept."""
    seconds: float = 0.0
    """From the first try to the reply, waits included."""
    tries: float = 0
    """Beyond the first."""


class Kept:
    """Replies in one SQLite file, which several processes may share. Without a file nothing is kept."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with closing(self._open()) as file:
                file.execute("CREATE TABLE IF NOT EXISTS replies (question TEXT PRIMARY KEY, reply TEXT NOT NULL)")
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(f"judge: cache={str(path)!r} cannot be used: {error}; name another, or none") from None

    def get(self, question: str) -> Reply | None:
        """The reply to a question, by its :func:`key_of`."""
        if self.path is None:
            return None
        with closing(self._open()) as file:
            found = file.execute("SELECT reply FROM replies WHERE question = ?", [question]).fetchone()
        return None if found is None else Reply(found[0])

    def keep(self, question: str, reply: Reply) -> None:
        """For good, as soon as it is there: an interrupted run loses none."""
        if self.path is not None:
            with closing(self._open()) as file:
                file.execute("INSERT OR REPLACE INTO replies VALUES (?, ?)", [question, reply.text])

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(str(self.path), timeout=60, isolation_level=None)


def key_of(request: Any) -> str:
    """Of everything that was sent: model, messages and settings."""
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
