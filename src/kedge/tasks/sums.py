"""Word problems of school arithmetic, made by a generator."""

import random
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from kedge.rewards.library.mathematics import Math
from kedge.tasks.task import Row, Split, Task, held_out

PEOPLE = ("Tom", "Mia", "Ben", "Lea", "Sam", "Zoe", "Max", "Eva")
HELD = 1000
"""Problems that are held out."""
THINGS = ("apple", "book", "coin", "card", "shell", "stamp", "pen", "cake")
KINDS = (
    ("{p} has {a} {t} and gets {b} more.", "a + b"),
    ("{p} had {a} {t}, and {q} took {b} away.", "a - b"),
    ("{p} sees {a} {t} here and {b} there.", "a + b"),
    ("{p} takes {b} out of a box with {a} {t}.", "a - b"),
    ("{p} has {a} {t}, gets {b} more and loses {c}.", "a + b - c"),
    ("{p} has {a} {t}, gives {b} to {q} and finds {c}.", "a - b + c"),
    ("{p} has {a} {t}. {q} brings {b}, and then {c} more.", "a + b + c"),
    ("{p} has {a} {t}, breaks {b} and loses {c}.", "a - b - c"),
    ("{p} sells {b} and buys {c}, having had {a} {t} before.", "a - b + c"),
    ("From a box with {a} {t}, {p} takes {b} and {q} takes {c}.", "a - b - c"),
    ("{p} picks {a} {t}, {q} picks {b}, and they lose {c}.", "a + b - c"),
    ("{p} gets {a} {t} on Monday, {b} on Tuesday, {c} on Friday.", "a + b + c"),
)
"""Of problems: a text, and what is to be calculated. No verb goes by a number, and only ``{a}`` has a thing behind it:
any number reads rightly there."""


class Sums(Task):
    """School arithmetic in words, a step a line, to be answered with a number after ####, as GSM8K has it.

    A teacher has written out some problems; of many more only the result is known, by which PPO learns. What is held
    out are combinations: a fifth of all the twos and threes of numbers that a problem can have. No problem that is
    trained on has just these numbers, whatever its wording and their order; a single step of it, such as 2 + 5 = 7, may
    be seen within a longer one.

    Args:
        shown: problems that are written out.
        posed: problems of which the result is known.
        seed: of all that is drawn.
    """

    name = "sums"
    reward = Math(column="result", marked=True)
    new: ClassVar[Mapping[str, Any]] = {"vocabulary": 512, "positions": 128}
    sft: ClassVar[Mapping[str, Any]] = {"epochs": 16.0, "batch_size": 16, "learning_rate": 2e-3, "warmup_steps": 50}
    ppo: ClassVar[Mapping[str, Any]] = {
        "steps": 100, "batch_size": 512, "mini_batch_size": 128, "num_ppo_epochs": 1, "response_length": 32,
        "learning_rate": 1.5e-4, "lr_scheduler_type": "constant", "kl_coef": 0.0, "lam": 1.0,
        "critic": "separate", "critic_learning_rate": 1e-3, "eval_every": 25,
    }  # fmt: skip

    def __init__(self, *, shown: int = 400, posed: int = 4000, seed: int = 0) -> None:
        self.shown, self.posed, self.seed = shown, posed, seed

    def rows(self, split: Split) -> Iterable[Row]:
        rng = random.Random(f"{self.seed} {split}")
        for number in range(self.posed if split == "train" else HELD):
            yield {**_problem(rng, split), "shown": split == "train" and number < self.shown}

    def prompt(self, row: Row) -> str:
        return f"{row['text']} How many are there?\n"

    def is_demonstrated(self, row: Row) -> bool:
        return bool(row["shown"])

    def demonstration(self, row: Row) -> str:
        return f"{row['steps']}\n#### {row['result']}"


def _problem(rng: random.Random, split: Split) -> Row:
    """Text, result, and the steps to it."""
    shape, what = rng.choice(KINDS)
    while True:
        numbers = {name: rng.randint(1, 9) for name in what.split()[::2]}
        steps = _steps(what, numbers)
        if min(value for _, value in steps) >= 0 and held_out(str(sorted(numbers.values()))) == (split == "eval"):
            break
    p, q = rng.sample(PEOPLE, 2)
    thing = rng.choice(THINGS)
    text = shape.format(p=p, q=q, t=thing if numbers["a"] == 1 else f"{thing}s", **numbers)
    return {"text": text, "steps": "\n".join(step for step, _ in steps), "result": steps[-1][1]}


def _steps(what: str, numbers: Mapping[str, int]) -> list[tuple[str, int]]:
    """Of ``a + b - c``: each step as it is written, and what it comes to."""
    first, *rest = what.split()
    value, steps = numbers[first], []
    for sign, name in zip(rest[::2], rest[1::2], strict=True):
        then = value + numbers[name] * (1 if sign == "+" else -1)
        steps.append((f"{value} {sign} {numbers[name]} = {then}", then))
        value = then
    return steps
