"""From what people say of a server's answers to its next version: feedback, reward model, PPO, gate, canary."""

from typing import TYPE_CHECKING

from kedge.lazy import lazily

if TYPE_CHECKING:
    from kedge.serving.loop.loop import Loop

__all__ = ["Loop"]

__getattr__, __dir__ = lazily(__name__, {"Loop": "kedge.serving.loop.loop"})
