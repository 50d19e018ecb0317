"""Writing that a crash, a kill or a full disk cannot spoil: aside, synced, renamed. What is there is whole."""

import ctypes
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors import SafetensorError

from kedge.errors import ConfigError, StorageError

# Bytes left on a disk that is as good as full.
FULL = 2**20

TRIAL = ".kedge-trial-"
"""How the name of a folder begins that is made to see whether one can be."""


def write_text(path: Path, text: str) -> None:
    """Write a file so that at every moment the old one or the new one is there, whole.

    Raises:
        StorageError: it cannot be written (a full disk, no permission); the old one is as it was.
    """
    aside = path.with_name(f".{path.name}.writing")
    with storage(path):
        aside.write_text(text, encoding="utf-8")
        sync(aside)
        os.replace(aside, path)
        sync(path.parent)


def strict_json(value: Any, *, indent: int | None = None) -> str:
    """Strict JSON, which every reader takes: null in place of NaN and infinity."""
    return json.dumps(_finite(value), indent=indent, ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, list | tuple) else value


def aside_of(target: Path) -> Path:
    """Where :func:`whole_folder` writes what will be ``target``."""
    return target.with_name(f".{target.name}.writing")


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A folder to write in; when all is written it takes the place of ``target``. Where not, nothing changes.

    Raises:
        StorageError: it cannot be written; ``target`` is as it was, and the disk as full as it was.
    """
    aside = aside_of(target)
    shutil.rmtree(aside, ignore_errors=True)
    try:
        with storage(target):
            aside.mkdir(parents=True)
            yield aside
            for path in [*aside.rglob("*"), aside]:
                sync(path)
            _take_the_place(aside, target)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def refuse_unwritable(folder: Path) -> None:
    """Raise where ``folder`` cannot be made, or nothing be made in it. What is made to find out is gone again.

    Raises:
        ConfigError: saying why.
    """
    there = folder
    try:
        while not there.exists():
            there = there.parent
        if there == folder and not folder.is_dir():
            return  # a file: not a matter of rights
        with TemporaryDirectory(prefix=TRIAL, dir=there) as aside:
            (Path(aside) / folder.relative_to(there)).mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        where = "" if there == folder else f" in {there}"
        raise ConfigError(f"{folder}: cannot be written{where}: {why}; name another folder with run=...") from None


def remove_folder(folder: Path) -> None:
    """Delete a folder so that at every moment it is there, whole, or not there under its name."""
    aside = folder.with_name(f".{folder.name}.deleting")
    shutil.rmtree(aside, ignore_errors=True)
    os.rename(folder, aside)
    shutil.rmtree(aside, ignore_errors=True)


def sync(path: Path) -> None:
    """Until a file or folder is on the disk itself."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def storage(path: Path) -> Iterator[None]:
    """What the operating system says against writing, as an error that names the file and the way on.

    Raises:
        StorageError: in place of OSError and of safetensors' own; and of whatever else is raised where the disk is
            full, since libraries say that in many ways.
    """
    try:
        yield
    except Exception as error:
        known = isinstance(error, StorageError)
        if known or (not isinstance(error, OSError | SafetensorError) and not _full(path.parent)):
            raise
        raise StorageError(
            f"{path}: could not be written: {error}. What was written before is whole; make room (or mend what is "
            "named), then go on with resume=True"
        ) from error


def _full(folder: Path) -> bool:
    return folder.is_dir() and shutil.disk_usage(folder).free < FULL


def old_of(target: Path) -> Path:
    """Where the folder that was ``target`` stands, should a kill come between the two renames of
    :func:`whole_folder`. On Linux there is only one."""
    return target.with_name(f".{target.name}.old")


def _take_the_place(aside: Path, target: Path) -> None:
    old = old_of(target)
    if target.exists() and _exchange(aside, target):
        sync(target.parent)
        shutil.rmtree(aside, ignore_errors=True)
    else:
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
            os.rename(target, old)
        try:
            os.rename(aside, target)
        except BaseException:
            if old.exists():
                os.rename(old, target)
            raise
        sync(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Whether the two have changed places, at one stroke: Linux can, on most file systems."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None) if os.name == "posix" else None
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return renameat2 is not None and renameat2(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0
