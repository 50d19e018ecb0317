"""Code by its tests: the data's own solutions, and code that tries to pass, or to do harm, in other ways."""

import gzip
import json
import os
import socket
import subprocess
import sys
import time
import venv
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from hostile import COUNTERFEIT, FORGERIES, FORK_BOMB, HARM, LOOKING, NEARLY, PROCESSES, THREADS, UNUSUAL, WRITING

from kedge.errors import ConfigError, RewardError
from kedge.rewards.build import build_reward, refuse_missing_columns
from kedge.rewards.library import Code, code_in
from kedge.rewards.library.base import Sample
from kedge.rewards.sandbox.run import Job, run

pytestmark = pytest.mark.skipif(os.name != "posix", reason="answers are run under Linux and macOS only")

TESTS = ["assert add(1, 2) == 3", "assert add(2, 2) == 4", "assert add(-1, 1) == 0"]
JOB = Job("", TESTS, seconds=1.5, memory=256 * 2**20)
RIGHT = "def add(a, b):\n    return a + b\n"
WALLS = [True, pytest.param(False, id="hook")]


def verdict(code: str, **changes):
    return run(replace(JOB, code=code, **changes))


def passes(code: str, **changes) -> bool:
    found = verdict(code, **changes)
    return found.passed == found.total


def test_where_the_code_stands():
    assert code_in("x = 1") == "x = 1"
    assert code_in("So:\n```python\nx = 1\n```\nand\n```\nx = 2\n```") == "x = 1\n"
    assert code_in("```\nx = 1\n```\n```\nx = 2\n```\nprints 2") == "x = 2\n"
    assert code_in("```py\nx = 1") == "x = 1"  # cut off
    assert code_in("```python\nx = 1\n```\nIt prints\n```text\n1\n```") == "x = 1\n"


def test_all_of_them_or_a_share():
    half = "```python\ndef add(a, b):\n    return abs(a) + b\n```"
    answers = [RIGHT, half, "", "def add(a, b:", "I do not know."]
    columns = {"test_list": [TESTS] * 5}
    assert Code()(answers, **columns) == [1, 0, 0, 0, 0]
    assert Code(measure="share")(answers, **columns) == [1, pytest.approx(2 / 3), 0, 0, 0]
    said = Code(measure="share").one(Sample(half, columns={"test_list": TESTS}))
    assert said.remark == "2 of 3: assert add(-1, 1) == 0: AssertionError"
    assert Code()([RIGHT], test_list=[None]) == [None]


def test_tests_in_a_text():
    text = "def check(f):\n    for i in range(3):\n        assert f(i, i) == 2 * i\n    assert helper(1) == 1\n"
    prefix = "def helper(x):\n    return x\n\ndef add(a, b):\n    '''Adds.'''\n"
    columns = {"test": [text], "entry_point": ["add"]}
    spec = Code(column="test", entry_point="entry_point", prefix="prompt", measure="share")
    assert spec(["    return a + b\n"], prompts=[prefix], **columns) == [1]
    assert spec(["    return 2\n"], prompts=[prefix], **columns) == [0.5]  # helper, and of three sums one
    assert spec(["    return a + b\n\ndef helper(x):\n    return 5\n"], prompts=[prefix], **columns) == [
        1
    ]  # the data's
    assert spec([f"```python\n{RIGHT}```"], prompts=[prefix], **columns) == [1]
    with pytest.raises(RewardError, match="prefix=prompt wants a prompt that is a text"):
        spec([""], prompts=[[{"role": "user", "content": "add"}]], **columns)


@pytest.mark.parametrize(("code", "tests"), UNUSUAL.values(), ids=UNUSUAL)
def test_what_tests_may_do_with_an_answer(code, tests):
    found = verdict(code, tests=tests)
    assert (found.passed, found.said) == (found.total, "")


@pytest.mark.parametrize("code", FORGERIES.values(), ids=FORGERIES)
def test_no_verdict_is_forged(code):
    assert verdict(code).passed == 0


def test_a_set_of_the_answers_own_is_not_the_tests():
    tests = ["assert set(f([1])) == set([2])", "assert sorted(f([1])) == sorted([2])", "assert math.isclose(f(1), 2)"]
    assert verdict(COUNTERFEIT, tests=tests, share=True).passed == 0
    tests = ["assert abs(f(1) - 2) < 1e-6", "assert f(1) < 3", "assert 2 in [f(1)]", "assert f(1) == 2"]
    assert verdict(NEARLY, tests=tests, share=True).passed == 0


def test_a_function_that_is_given_away_is_all_that_the_code_can_call():
    code = "def f(g):\n  try: return g.__globals__\n  except Exception: return 'refused'"
    assert passes(code, tests=["assert f(lambda: 1) == 'refused'"])


@pytest.mark.parametrize("apart", WALLS)
@pytest.mark.parametrize("code", HARM.values(), ids=HARM)
def test_what_takes_too_much_is_stopped(code, apart):
    began = time.monotonic()
    tests = ["assert list(add(1, 2)) == 3"] if "itertools" in code else TESTS
    assert verdict(code, apart=apart, seconds=0.5, tests=tests).passed == 0
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("apart", WALLS)
def test_a_fork_bomb_leaves_nothing(apart):
    before = {process.pid for process in psutil.process_iter()}
    began = time.monotonic()
    assert verdict(FORK_BOMB, apart=apart, seconds=1, tests=["assert add(1, 2) > 1000"]).passed == 0
    assert time.monotonic() - began < 5
    left = [process for process in psutil.process_iter() if process.pid not in before and process.ppid() == 1]
    assert not [process for process in left if "warden" in str(process.cmdline())]


@pytest.mark.skipif(sys.platform != "linux", reason="macOS counts a user's processes all together")
def test_how_many_processes_there_may_be():
    assert passes(PROCESSES, tests=["assert born() <= 8"])
    assert passes(THREADS, tests=["assert born() <= 8"])


@pytest.mark.parametrize("apart", WALLS)
def test_nothing_outside_is_written(apart, tmp_path, monkeypatch):
    monkeypatch.setenv("KEDGE_SECRET", "secret")
    tmp_path.chmod(0o777)
    (tmp_path / "kept").write_text("kept")
    (tmp_path / "kept").chmod(0o666)
    code = f"there = {str(tmp_path)!r}\n{WRITING}"
    tests = ["assert outside() == [True] * 6", "assert inside() == 'x'", "assert 'KEDGE_SECRET' not in environment()"]
    found = verdict(code, apart=apart, tests=tests)
    assert (found.passed, found.said) == (3, "")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept").read_text() == "kept"
    assert verdict(code, apart=apart, tests=["large()"]).passed == 0


@pytest.mark.parametrize("apart", WALLS)
def test_nothing_is_sent(apart):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code = (
            f"import socket, urllib.request\ndef send(): socket.create_connection(('127.0.0.1', {port}), timeout=1)\n"
            f"def ask(): urllib.request.urlopen('http://127.0.0.1:{port}', timeout=1)\n"
        )
        assert verdict(code, apart=apart, tests=["send()", "ask()"], share=True).passed == 0
        server.settimeout(0.05)
        with pytest.raises(TimeoutError):
            server.accept()


@pytest.mark.parametrize("apart", WALLS)
def test_neither_the_run_nor_its_files_can_be_got_at(apart):
    code = f"run, here = {os.getpid()}, {str(Path(__file__))!r}\n{LOOKING}"
    tests = ["assert kill()", *(["assert memory()", "assert environment()", "assert read()"] if apart else [])]
    found = verdict(code, apart=apart, tests=tests)
    if apart and not found.walled:
        pytest.skip("no namespaces")
    assert (found.passed, found.said) == (len(tests), "")


def test_tests_that_cannot_be_read_are_an_error():
    with pytest.raises(RewardError, match=r"sample 0: the tests cannot be read: .*syntax"):
        Code()([RIGHT], test_list=[["assert add(1, 2) =="]])
    with pytest.raises(RewardError, match="reward 'code' wants column 'tests', which column= names"):
        refuse_missing_columns({"kind": "code", "column": "tests"}, ["test_list"])


def test_where_there_are_no_namespaces(monkeypatch, capsys):
    from kedge.rewards.library import code

    monkeypatch.setattr(code, "_has_namespaces", lambda: False)
    code._warn_once.cache_clear()
    with pytest.raises(ConfigError, match="the kernel gives no namespaces here"):
        build_reward({"kind": "code", "require_namespaces": True})
    build_reward({"kind": "code"})
    assert "audit hook" in capsys.readouterr().err


def test_packages_below_tmp(tmp_path):
    """Where answers have a folder of their own in its place."""
    venv.create(tmp_path / "env", symlinks=True)
    [site] = (tmp_path / "env/lib").glob("python*/site-packages")
    (site / "others.pth").write_text("\n".join(path for path in sys.path if os.path.isdir(path)))
    (site / "mine.py").write_text("one = 1\n")
    asks = (
        "from kedge.rewards.sandbox.run import Job, run\n"
        "print(run(Job('from mine import one', ['assert one == 1'], seconds=5, memory=2**28, packages=True)))"
    )
    said = subprocess.run([tmp_path / "env/bin/python", "-c", asks], capture_output=True, text=True)
    assert "passed=1, total=1" in said.stdout, said


def test_what_can_be_imported():
    code = "import numpy as np\ndef add(a, b): return np.int64(a) + np.float64(b)"
    assert not passes(code)
    assert passes(code, packages=True, memory=2**30, seconds=10)


def _mbpp(shared, every: int):
    rows = [json.loads(line) for line in (shared / "data/mbpp/mbpp.jsonl").read_text().splitlines()][::every]
    return Code(setup="test_setup_code"), rows, [row["code"] for row in rows], None


def _humaneval(shared, every: int):
    with gzip.open(shared / "data/humaneval/HumanEval.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file][::every]
    spec = Code(column="test", entry_point="entry_point", prefix="prompt")
    return spec, rows, [row["canonical_solution"] for row in rows], [row.pop("prompt") for row in rows]


@pytest.mark.shared
@pytest.mark.parametrize("every", [97, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("data", [_mbpp, _humaneval])
def test_every_reference_passes_and_nothing_else(shared, data, every):
    spec, rows, answers, prompts = data(shared, every)
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    assert spec(answers, prompts=prompts, **columns) == [1.0] * len(rows)
    assert spec([""] * len(rows), prompts=prompts, **columns) == [0.0] * len(rows)
