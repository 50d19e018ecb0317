"""Word problems of school arithmetic, made by a generator."""

import random
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from kedge.rewards.library.mathematics import Math
from kedge.tasks.task import Row, Split, Task

PEOPLE = ("Tom", "Mia", "Ben", "Lea", "Sam", "Zoe", "Max", "Eva")
THINGS = ("apples", "books", "coins", "cards", "shells", "stamps", "pens", "cakes")
SHAPES = (
    ("{p} has {a} {t} and gets {b} more.", "a + b"),
    ("{p} has {a} {t}. {q} has {b} {t}. They put them together.", "a + b"),
    ("{p} has {a} {t} and loses {b}.", "a - b"),
    ("{p} had {a} {t}, of which {q} took {b}.", "a - b"),
    ("{p} has {a} {t}, gets {b} more and loses {c}.", "a + b - c"),
    ("{p} has {a} {t}, gives {b} to {q} and finds {c}.", "a - b + c"),
    ("{p} has {a} {t}. {q} brings {b}, and then {c} more.", "a + b + c"),
)
"""A text, and what is to be calculated."""


class Sums(Task):
    """School arithmetic in words, a step a line, to be answered with a number after ####, as GSM8K has it.

    A teacher has written out few problems; of many more only the result is known, by which PPO learns. No problem that
    is held out has a shape and numbers of one that is trained on.

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

    def __init__(self, *, shown: int = 1500, posed: int = 12_000, seed: int = 0) -> None:
        self.shown, self.posed, self.seed = shown, posed, seed

    def rows(self, split: Split) -> Iterable[Row]:
        rng, met = random.Random(self.seed), set()
        for number in range(self.posed + 1000):
            while (made := _problem(rng))["known"] in met:
                pass
            met.add(made["known"])
            if (number < self.posed) == (split == "train"):
                shown = made["steps"] if number < self.shown or split == "eval" else None
                yield {"text": made["text"], "result": made["result"], "steps": shown}

    def prompt(self, row: Row) -> str:
        return f"{row['text']} How many are there?\n"

    def demonstration(self, row: Row) -> str | None:
        return None if row["steps"] is None else f"{row['steps']}\n#### {row['result']}"


def _problem(rng: random.Random) -> dict[str, Any]:
    """Text, result, and the steps to it, none of them below 0; ``known``: what makes it the same problem."""
    shape, what = rng.choice(SHAPES)
    numbers = {name: rng.randint(2, 20) for name in "abc"}
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
    return {"text": text, "steps": "\n".join(steps), "result": value, "known": (shape, used)}
