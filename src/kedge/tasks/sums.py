"""Word problems of school arithmetic, made by a generator."""

import random
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from kedge.rewards.library.mathematics import Math
from kedge.tasks.task import Row, Split, Task

PEOPLE = ("Tom", "Mia", "Ben", "Lea", "Sam", "Zoe", "Max", "Eva")
HELD = 1000
"""Problems that are held out."""
THINGS = ("apples", "books", "coins", "cards", "shells", "stamps", "pens", "cakes")
TOLD = (
    ("{p} has {a} {t} and gets {b} more.", "a + b"),
    ("{p} has {a} {t}. {q} has {b} {t}. They put them together.", "a + b"),
    ("{p} has {a} {t} and loses {b}.", "a - b"),
    ("{p} had {a} {t}, of which {q} took {b}.", "a - b"),
    ("{p} has {a} {t}, gets {b} more and loses {c}.", "a + b - c"),
    ("{p} has {a} {t}, gives {b} to {q} and finds {c}.", "a - b + c"),
    ("{p} has {a} {t}. {q} brings {b}, and then {c} more.", "a + b + c"),
    ("{p} has {a} {t}. {b} break, and {c} are lost.", "a - b - c"),
)
"""Kinds of problems that a teacher has written out: a text, and what is to be calculated."""
UNTOLD = (
    ("Of {a} {t}, {p} eats {b}.", "a - b"),
    ("{p} buys {a} {t}, and {q} buys {b} for the same bag.", "a + b"),
    ("{b} of the {a} {t} on the table fall down.", "a - b"),
    ("There are {a} {t} here and {b} there.", "a + b"),
    ("{p} sells {b} of {a} {t} and buys {c}.", "a - b + c"),
    ("From a box of {a} {t}, {p} takes {b} and {q} takes {c}.", "a - b - c"),
    ("{p} picks {a} {t}, {q} picks {b}, and {c} are bad.", "a + b - c"),
    ("{a} {t} come on Monday, {b} on Tuesday, {c} on Friday.", "a + b + c"),
)
"""Kinds of which only results are known."""


class Sums(Task):
    """School arithmetic in words, a step a line, to be answered with a number after ####, as GSM8K has it.

    A teacher has written out problems of some kinds; of these and of others many results are known, by which PPO
    learns. No problem that is held out has the wording and the numbers of one that is trained on.

    Args:
        shown: problems that are written out.
        posed: problems of which the result is known.
        seed: of all that is drawn.
    """

    name = "sums"
    reward = Math(column="result", marked=True)
    new: ClassVar[Mapping[str, Any]] = {"vocabulary": 512, "positions": 128}
    sft: ClassVar[Mapping[str, Any]] = {"epochs": 8.0, "batch_size": 16, "learning_rate": 2e-3, "warmup_steps": 50}
    ppo: ClassVar[Mapping[str, Any]] = {
        "steps": 100, "batch_size": 128, "mini_batch_size": 64, "num_ppo_epochs": 2, "response_length": 32,
        "learning_rate": 3e-4, "kl_coef": 0.0, "eval_every": 20,
    }  # fmt: skip

    def __init__(self, *, shown: int = 1500, posed: int = 4000, seed: int = 0) -> None:
        self.shown, self.posed, self.seed = shown, posed, seed

    def rows(self, split: Split) -> Iterable[Row]:
        rng, met, shown = random.Random(self.seed), set(), 0
        for number in range(self.posed + HELD):
            while (made := _problem(rng))["known"] in met:
                pass
            met.add(made.pop("known"))
            if (number < self.posed) == (split == "train"):
                shown += made["is_told"]
                yield {**made, "is_told": made["is_told"] and shown <= self.shown}

    def prompt(self, row: Row) -> str:
        return f"{row['text']} How many are there?\n"

    def demonstration(self, row: Row) -> str | None:
        return f"{row['steps']}\n#### {row['result']}" if row["is_told"] else None


def _problem(rng: random.Random) -> dict[str, Any]:
    """Text, result, and the steps to it, none of them below 0; ``known``: what makes it the same problem."""
    shape, what = rng.choice((*TOLD, *UNTOLD))
    numbers = {name: rng.randint(2, 12) for name in "abc"}
    first, *rest = what.split()
    steps, value = [], numbers[first]
    for sign, name in zip(rest[::2], rest[1::2], strict=True):
        then = value + numbers[name] * (1 if sign == "+" else -1)
        if then < 0:
            return _problem(rng)
        steps.append(f"{value} {sign} {numbers[name]} = {then}")
        value = then
    p, q = rng.sample(PEOPLE, 2)
    text = shape.format(p=p, q=q, t=rng.choice(THINGS), **numbers)
    used = tuple(numbers[name] for name in what.split()[::2])
    is_told = (shape, what) in TOLD
    return {"text": text, "steps": "\n".join(steps), "result": value, "is_told": is_told, "known": (shape, used)}
