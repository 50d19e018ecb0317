"""A rule of thumb for the support desk, as `recipes.desk_rules:courteous` from the project's folder."""

import re
from typing import Any

SORRY = re.compile(r"\b(sorry|understand)\b", re.IGNORECASE)
THANKS = re.compile(r"\b(thank you|please|kind regards)\b", re.IGNORECASE)
SOON = re.compile(r"\bwithin\b.*\b(hours?|days?|week)\b", re.IGNORECASE)
RUDE = re.compile(r"\b(not our fault|stop complaining|calm down)\b", re.IGNORECASE)


def courteous(completions: list[Any], product: list[str], **columns: object) -> list[float]:
    """A quarter each for the product's name, sympathy, courtesy and a date; none for a rude reply, less for a long one.

    Whether the reply answers the question it does not see: what people would say of that is for the metric to tell.
    """
    return [_score(completion[-1]["content"], name) for completion, name in zip(completions, product, strict=True)]


def _score(reply: str, product: str) -> float:
    if RUDE.search(reply):
        return 0.0
    kept = [product in reply, *(pattern.search(reply) is not None for pattern in (SORRY, THANKS, SOON))]
    return sum(kept) / 4 - max(0, len(reply.split()) - 40) / 40
