"""The checkpoints of a run, as anybody may read them: which there are, and which of them are whole."""

import hashlib
import json
from pathlib import Path

CHECKSUMS_FILE = "checksums.json"


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints there are, oldest first."""
    return sorted((path for path in folder.glob("step-*") if path.is_dir()), key=step_of)


def step_of(checkpoint: Path) -> int:
    """How many steps are behind it."""
    return int(checkpoint.name.partition("-")[2])


def last_whole(run: Path, part: str) -> Path | None:
    """The last checkpoint of a run that is as it was written and has the folder ``part`` in it."""
    there = (path for path in reversed(checkpoints(run / "checkpoints")) if (path / part).is_dir())
    return next((path for path in there if damage_in(path) is None), None)


def damage_in(checkpoint: Path) -> str | None:
    """What is not as it was written, where something is not."""
    if not (checkpoint / CHECKSUMS_FILE).is_file():
        return f"{checkpoint / CHECKSUMS_FILE}: missing"
    try:
        sums: dict[str, str] = json.loads((checkpoint / CHECKSUMS_FILE).read_text(encoding="utf-8"))
    except ValueError:  # no JSON, or no text at all
        return f"{checkpoint / CHECKSUMS_FILE}: damaged"
    for name, sum_then in sums.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{path}: missing"
        if checksum(path) != sum_then:
            return f"{path}: damaged (its checksum is not that of what was written)"
    return None


def checksum(path: Path) -> str:
    """Of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
