"""Functions of one line: what is asked, what is right, and what their tests let through."""

import ast
import copy

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


NEIGHBOURS = {ast.Gt: ast.GtE, ast.Lt: ast.LtE, ast.Eq: ast.NotEq}
ANY = [[], *([x] for x in range(-30, 31)), [1, 1], [2, -2], [0, 3], [0, -3], [7, 3, 5, 9], [*range(-40, 41)]]


def nearly(code):
    """Functions with one constant more or less by one, or one comparison that is another."""
    whole = ast.parse(f"def f(xs):\n{code}")
    for place, node in enumerate(ast.walk(whole)):
        if isinstance(node, ast.Constant):
            changes = [("value", node.value - 1), ("value", node.value + 1)]
        elif isinstance(node, ast.Compare):
            changes = [("ops", [NEIGHBOURS[type(node.ops[0])]()])]
        else:
            changes = []
        for key, value in changes:
            other = copy.deepcopy(whole)
            setattr([*ast.walk(other)][place], key, value)
            yield ast.unparse(ast.fix_missing_locations(other))


def function(code):
    space = {}
    exec(code, space)
    return space["f"]


def said(f, xs):
    try:
        return f(xs)
    except (ZeroDivisionError, ValueError) as error:
        return type(error)


def test_functions_that_are_nearly_right_fail():
    """But for those that do the same: the sum of what is above 0 is that of what is not below it."""
    survivors = 0
    every = [row for split in ("train", "eval") for row in Functions().rows(split)]
    for row in every[::5]:
        right = function(f"def f(xs):\n{row['code']}")
        tests = [(call.left.args[0], call.comparators[0]) for call in (ast.parse(t).body[0].test for t in row["tests"])]
        asked = [(ast.literal_eval(xs), ast.literal_eval(value)) for xs, value in tests]
        for code in nearly(row["code"]):
            f = function(code)
            if all(said(f, xs) == value for xs, value in asked):
                assert all(said(f, xs) == said(right, xs) for xs in ANY), (row["says"], code)
                survivors += 1
    assert survivors < 140


def test_sets_are_told_from_lists():
    for row in Functions().rows("eval"):
        lists = [ast.literal_eval(ast.parse(test).body[0].test.left.args[0]) for test in row["tests"]]
        assert len(lists[-1]) > len(set(lists[-1])), row["says"]


@pytest.mark.parametrize(
    "wrong",
    [
        "    return sum(-x for x in xs if x % 8 == 0)\n",
        "    return sum(-x for x in xs if x % 2 == 0)\n",
        "    return sum(-x for x in set(xs) if x % 4 == 0)\n",
        "    return sum(-abs(x) for x in xs if x % 4 == 0)\n",
        "    return -4\n",
    ],
)
def test_what_is_wrong_otherwise_fails(wrong):
    says = "The sum of the opposites of the multiples of 4 in xs."
    [row] = [row for split in ("train", "eval") for row in Functions().rows(split) if row["says"] == says]
    assert scores(Functions(), [row, row], [wrong, row["code"]]) == [0.0, 1.0]


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
