"""Writing that a crash cannot spoil, one process a folder, checkpoints found and checked."""

from typing import TYPE_CHECKING

from kedge.lazy import lazily

if TYPE_CHECKING:
    from kedge.storage.checkpoints import last_whole
    from kedge.storage.locking import is_taken
    from kedge.storage.writing import strict_json, whole_folder, write_text

__all__ = ["is_taken", "last_whole", "strict_json", "whole_folder", "write_text"]

_HOMES = {
    "is_taken": "kedge.storage.locking",
    "last_whole": "kedge.storage.checkpoints",
    "strict_json": "kedge.storage.writing",
    "whole_folder": "kedge.storage.writing",
    "write_text": "kedge.storage.writing",
}

__getattr__, __dir__ = lazily(__name__, _HOMES)
