"""Where a sampler's weights stand for servers to read: a folder that is its process's, and goes with it."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from kedge.storage.locking import LOCK_FILES, is_left, take
from kedge.storage.writing import remove_folder, storage

BASE = "base"
"""What stands beside the versions, where those are adapters: the weights that they are for."""


def own_folder(folder: Path) -> Callable[[], None]:
    """Make it. What processes of this machine have left beside it that were killed, is deleted.

    Returns:
        What deletes it.

    Raises:
        StorageError: it cannot be written.
    """
    with storage(folder):
        folder.mkdir(parents=True, exist_ok=True)
    release = take(folder)
    for other in folder.parent.iterdir():
        if is_left(other) and _has_weights_alone(other):
            with suppress(OSError):  # another user's, or just deleted by somebody else
                remove_folder(other)

    def give_back() -> None:
        release()
        if folder.exists():
            remove_folder(folder)

    return give_back


def _has_weights_alone(folder: Path) -> bool:
    """Not so a run, where a user keeps both in one place."""
    names = {path.name for path in folder.iterdir()} - {*LOCK_FILES}
    return all(name.lstrip(".").startswith(("version-", BASE)) for name in names)
