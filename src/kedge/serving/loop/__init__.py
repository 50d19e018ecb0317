"""From what people say of a server's answers to its next version: feedback, reward model, PPO, gate, canary."""

from kedge.serving.loop.loop import Loop

__all__ = ["Loop"]
