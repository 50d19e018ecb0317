"""Functions of one line: what is asked, what is right, and what their tests let through."""

import pytest

from kedge.data.records import read_prompts
from kedge.evaluation.evaluate import judge_answers
from kedge.sampling.completion import Completion
from kedge.tasks.functions import Functions


def scores(task, rows, answers):
    prompts = read_prompts([{"prompt": task.prompt(row), **row} for row in rows])
    said = [Completion([], [], [], text, "eos") for text in answers]
    return judge_answers(prompts, said, task.judges()).scores["score"]


def test_rows():
    task = Functions()
    train, held = (list(task.rows(split)) for split in ("train", "eval"))
    assert (len(train), len(held)) == (2000, 639)
    assert not {row["says"] for row in train} & {row["says"] for row in held}
    assert len(task.demonstrations()) == 40
    assert len({row["says"] for row in [*train, *held]}) == 2639


def test_what_a_docstring_says():
    task = Functions()
    says = "The sum of the squares of the odd numbers in xs."
    [row] = [row for split in ("train", "eval") for row in task.rows(split) if row["says"] == says]
    assert task.prompt(row) == f'def f(xs):\n    """{says}"""\n'
    assert row["code"] == "    return sum(x * x for x in xs if x % 2 == 1)\n"


def test_every_demonstration_passes_its_tests():
    """Run here, not in the sandbox, which takes a tenth of a second each."""
    for row in Functions().rows("eval"):
        space = {}
        exec(f"def f(xs):\n{row['code']}", space)
        for test in row["tests"]:
            exec(test, space)


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("    return sum(x * x for x in xs if x > 3)\n", 1.0),
        ("    total = 0\n    for x in xs:\n        total += x ** 2 if x >= 4 else 0\n    return total\n", 1.0),
        ("    return sum(x * x for x in xs if x > 4)\n", 0.0),
        ("    return 25\n", 0.0),
        ("", 0.0),
        ("    return sum(x * x for x in xs if x > 3\n", 0.0),
        ("    while True: pass\n", 0.0),
        ("    class Same(int):\n        __eq__ = lambda a, b: True\n    return Same(1)\n", 0.0),
        ("    import os; os._exit(0)\n", 0.0),
        ("    返回 1\n", 0.0),
    ],
)
def test_what_answers_are_worth(answer, score):
    row = {
        "says": "The sum of the squares of the numbers above 3 in xs.",
        "tests": ["assert f([1, 2, 5]) == 25", "assert f([4, 3]) == 16", "assert f([]) == 0"],
    }
    assert scores(Functions(), [row], [answer]) == [score]
