"""The built-in world: a support desk to learn from, offline and in minutes.

`write_support_desk` writes demonstrations, preferences and prompts; `gold` scores replies as people would.
"""

from kedge.tasks.support_desk.gold import (
    JUDGE_TEMPERATURE,
    WEIGHTS,
    gold,
    gold_parts,
    gold_score,
    preference_probability,
)
from kedge.tasks.support_desk.phrases import INTENTS, PRODUCTS
from kedge.tasks.support_desk.world import DeskFiles, Ticket, draw_reply, draw_ticket, write_support_desk

__all__ = [
    "INTENTS",
    "JUDGE_TEMPERATURE",
    "PRODUCTS",
    "WEIGHTS",
    "DeskFiles",
    "Ticket",
    "draw_reply",
    "draw_ticket",
    "gold",
    "gold_parts",
    "gold_score",
    "preference_probability",
    "write_support_desk",
]
