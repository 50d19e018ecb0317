"""What goes in: rows from where they are, prompts, demonstrations and preferences, and their token ids."""

from typing import TYPE_CHECKING

from kedge.lazy import lazily

if TYPE_CHECKING:
    from kedge.data.files import read_rows
    from kedge.data.records import Demonstration, Preference, Prompt, demonstrations, preferences, read_prompts

__all__ = ["Demonstration", "Preference", "Prompt", "demonstrations", "preferences", "read_prompts", "read_rows"]

_HOMES = {
    "Demonstration": "kedge.data.records",
    "Preference": "kedge.data.records",
    "Prompt": "kedge.data.records",
    "demonstrations": "kedge.data.records",
    "preferences": "kedge.data.records",
    "read_prompts": "kedge.data.records",
    "read_rows": "kedge.data.files",
}

__getattr__, __dir__ = lazily(__name__, _HOMES)
