"""A policy in use: a conversation, and one in the terminal."""

from typing import TYPE_CHECKING

from kedge.lazy import lazily

if TYPE_CHECKING:
    from kedge.serving.chat import Chat, trained_sampling
    from kedge.serving.terminal import converse

__all__ = ["Chat", "converse", "trained_sampling"]

_HOMES = {"Chat": "kedge.serving.chat", "converse": "kedge.serving.terminal", "trained_sampling": "kedge.serving.chat"}

__getattr__, __dir__ = lazily(__name__, _HOMES)
