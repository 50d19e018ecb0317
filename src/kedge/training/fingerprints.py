"""What a run began with, in a few letters each: a resumed run must be given the same models, data and rewards."""

from collections.abc import Iterable, Iterator

from kedge.rewards.scores import Reward
from kedge.runs.fingerprints import of_rows, of_weights

__all__ = ["of_rewards", "of_rows", "of_weights"]


def of_rewards(rewards: Iterable[tuple[str, Reward]]) -> Iterator[tuple[str, str]]:
    """``(what, fingerprint)`` of every part of each ``(role, reward)``."""
    for role, whole in rewards:
        parts = whole.weighted()
        for number, (weight, part) in enumerate(parts, start=1):
            which = f"{role} {part.name!r}" if len(parts) == 1 else f"{role} {number} {part.name!r}"
            settings = f", {part.settings}" if part.settings else ""
            yield which, f"weight {weight:g}{part.terms.said()}, {part.fingerprint()}{settings}"
