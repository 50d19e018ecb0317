"""One process at a time in a folder.

The lock is the operating system's (flock, by filelock), so a process that is killed leaves no obstacle behind: the two
files that stay mean nothing without it. Within one process it is taken as often as one likes.
"""

import json
import os
import platform
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from kedge.errors import ConfigError, StorageError
from kedge.storage.writing import storage

LOCK_FILE, HOLDER_FILE = ".lock", ".lock.json"
LOCK_FILES = (LOCK_FILE, HOLDER_FILE)

PATIENCE = 1.0
"""Seconds: another process that only looks whether the folder is free is gone by then."""


def take(folder: Path) -> Callable[[], None]:
    """Lock a folder that is there; returns what gives it back.

    Raises:
        ConfigError: another process has it; the message names that. StorageError: the folder cannot be written.
    """
    lock = _acquired(folder)
    holder = {"pid": os.getpid(), "host": platform.node(), "since": time.time()}
    try:
        with storage(folder / HOLDER_FILE):
            (folder / HOLDER_FILE).write_text(json.dumps(holder) + "\n", encoding="utf-8")
    except BaseException:
        lock.release()
        raise
    return lock.release


def take_file(path: Path) -> Callable[[], None]:
    """Lock a file that is written by one owner alone, in this process too; returns what gives it back. Its lock,
    ``.NAME.lock``, stands beside it.

    Raises:
        ConfigError: somebody else has it. StorageError: its folder cannot be written.
    """
    lock = FileLock(path.absolute().with_name(f".{path.name}.lock"), timeout=PATIENCE, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        raise ConfigError(f"{path}: another process is writing it; stop that one, or name another file") from None
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error}; name another file") from None
    return lock.release


def refuse_locked(folder: Path) -> None:
    """Raise where another process has the folder.

    Raises:
        ConfigError, StorageError: as :func:`take`.
    """
    if (folder / LOCK_FILE).exists():
        _acquired(folder).release()


def is_taken(folder: Path) -> bool:
    """Whether a process has the folder, this one or another; not where that cannot be told (no permission)."""
    if not (folder / LOCK_FILE).exists():
        return False
    lock = _lock(folder)
    if lock.is_locked:
        return True
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except OSError:
        return False
    lock.release()
    return False


def is_left(folder: Path) -> bool:
    """Whether a process of this machine had the folder and has ended without deleting it. Of another machine's that is
    never said: a lock may not reach from one to the other."""
    try:
        holder = json.loads((folder / HOLDER_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return holder.get("host") == platform.node() and not is_taken(folder)


def _lock(folder: Path) -> FileLock:
    # A singleton of the process: whoever takes a run up again in a notebook may still hold the object that was stopped.
    return FileLock(folder.absolute() / LOCK_FILE, timeout=PATIENCE, thread_local=False, is_singleton=True)


def _acquired(folder: Path) -> FileLock:
    lock = _lock(folder)
    try:
        lock.acquire()
    except Timeout:
        raise ConfigError(f"{folder}: {_holder(folder)}; wait for its end or stop it, or name another folder") from None
    except OSError as error:
        raise StorageError(f"{folder}: cannot be written: {error}; name another folder") from None
    return lock


def _holder(folder: Path) -> str:
    try:
        holder = json.loads((folder / HOLDER_FILE).read_text(encoding="utf-8"))
        since = datetime.fromtimestamp(holder["since"]).isoformat(" ", "seconds")
        return f"process {holder['pid']} on {holder['host']} has been working in it since {since}"
    except (OSError, ValueError, KeyError):  # it has the lock, and has not said yet who it is
        return "another process is working in it"
