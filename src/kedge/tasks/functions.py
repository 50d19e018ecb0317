"""Small Python functions, made by a generator with their tests."""

import itertools
import operator
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from kedge.rewards.library.code import Code
from kedge.tasks.task import Row, Split, Task

KS = range(2, 10)
TESTS = 4
"""Of each function on lists of any numbers; those about its own numbers are added."""


@dataclass(frozen=True)
class Part:
    """Of a function: as it is said, as it is written, and what it does."""

    words: str
    code: str
    does: Callable[[Any], Any]
    edges: tuple[int, ...] = ()
    """Numbers that a function which is nearly right chooses wrongly."""


def chosen() -> list[Part]:
    """Which numbers of a list."""
    return [
        Part("the numbers", "", lambda x: True),
        Part("the even numbers", " if x % 2 == 0", lambda x: x % 2 == 0, (-1, 0, 1, 2)),
        Part("the odd numbers", " if x % 2 == 1", lambda x: x % 2 == 1, (-1, 0, 1, 2)),
        Part("the positive numbers", " if x > 0", lambda x: x > 0, (-1, 0, 1)),
        Part("the negative numbers", " if x < 0", lambda x: x < 0, (-1, 0, 1)),
        *(Part(f"the numbers above {k}", f" if x > {k}", partial(operator.lt, k), (k - 1, k, k + 1)) for k in KS),
        *(Part(f"the numbers below {k}", f" if x < {k}", partial(operator.gt, k), (k - 1, k, k + 1)) for k in KS),
        *(
            Part(f"the multiples of {k}", f" if x % {k} == 0", partial(_divides, k), (-k, k - 1, k, k + 1, 2 * k))
            for k in KS
        ),
    ]


def changed() -> list[Part]:
    """What becomes of each."""
    return [
        Part("", "x", lambda x: x),
        Part("the squares of ", "x * x", lambda x: x * x),
        Part("the doubles of ", "2 * x", lambda x: 2 * x),
        Part("the opposites of ", "-x", lambda x: -x),
        Part("the absolute values of ", "abs(x)", abs),
        *(Part(f"{k} more than ", f"x + {k}", partial(operator.add, k)) for k in KS),
    ]


def gathered() -> list[Part]:
    """What is made of them all."""
    return [
        Part("The sum of ", "sum({})", sum),
        Part("The largest of ", "max([{}], default=0)", lambda xs: max(xs, default=0)),
        Part("The smallest of ", "min([{}], default=0)", lambda xs: min(xs, default=0)),
        Part("How many different ones there are of ", "len(set({}))", lambda xs: len(set(xs))),
        Part("A list of ", "[{}]", list),
        Part("A sorted list of ", "sorted({})", sorted),
        Part("A list, from the last to the first, of ", "[{}][::-1]", lambda xs: xs[::-1]),
    ]


class Functions(Task):
    """Python functions of one line, written for what a docstring says; the reward is whether their tests pass.

    Few have been written out; for many there are only the tests, by which PPO learns. What a held-out docstring says
    is said by none that is trained on, though its parts are.

    Args:
        shown: docstrings with their function.
        posed: docstrings that are trained on.
        seed: of all that is drawn.
    """

    name = "functions"
    reward = Code(column="tests", prefix="prompt", seconds=2.0)
    new: ClassVar[Mapping[str, Any]] = {"vocabulary": 512, "positions": 128}
    sft: ClassVar[Mapping[str, Any]] = {"epochs": 40.0, "batch_size": 8, "learning_rate": 2e-3, "warmup_steps": 50}
    ppo: ClassVar[Mapping[str, Any]] = {
        "steps": 40, "batch_size": 64, "mini_batch_size": 32, "num_ppo_epochs": 2, "response_length": 40,
        "learning_rate": 2e-4, "kl_coef": 0.0, "critic": "separate", "critic_learning_rate": 1e-3, "eval_every": 20,
    }  # fmt: skip

    def __init__(self, *, shown: int = 40, posed: int = 2000, seed: int = 0) -> None:
        self.shown, self.posed, self.seed = shown, posed, seed

    def rows(self, split: Split) -> Iterable[Row]:
        rng = random.Random(self.seed)
        every = [*itertools.product(gathered(), changed(), chosen())]
        rng.shuffle(every)
        for number, (gather, change, choose) in enumerate(every):
            if (number < self.posed) == (split == "train"):
                values = f"{change.code} for x in xs{choose.code}"
                yield {
                    "says": f"{gather.words}{change.words}{choose.words} in xs.",
                    "code": f"    return {gather.code.format(values)}\n",
                    "tests": _tests(rng, gather, change, choose),
                    "shown": split == "train" and number < self.shown,
                }

    def prompt(self, row: Row) -> str:
        return f'def f(xs):\n    """{row["says"]}"""\n'

    def is_demonstrated(self, row: Row) -> bool:
        return bool(row["shown"])

    def demonstration(self, row: Row) -> str:
        return str(row["code"])


def _tests(rng: random.Random, gather: Part, change: Part, choose: Part) -> list[str]:
    lists = [_numbers(rng, -12, 20) for _ in range(TESTS)]
    lists += [[], *([edge] for edge in choose.edges), _numbers(rng, -20, -1), _numbers(rng, 1, 20)]
    # Twice the same number, and one with its opposite, tell sets from lists and squares from doubles.
    first, second, *rest = _numbers(rng, -12, 20)
    crowd = [first, first, second, -second, *rest, *choose.edges]
    rng.shuffle(crowd)
    lists.append(crowd)
    return [f"assert f({xs}) == {gather.does([*map(change.does, filter(choose.does, xs))])!r}" for xs in lists]


def _numbers(rng: random.Random, lowest: int, highest: int) -> list[int]:
    return [rng.randint(lowest, highest) for _ in range(rng.randint(5, 9))]


def _divides(k: int, x: int) -> bool:
    return x % k == 0
