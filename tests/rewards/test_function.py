"""Python functions as rewards: TRL's signature, and an error with the sample for whatever is not a score."""

import asyncio
import math
import sys
from functools import partial

import numpy as np
import pytest
import torch

from kedge.data.records import Prompt
from kedge.errors import ConfigError, RewardError
from kedge.rewards.build import build_reward
from kedge.rewards.foreign import TrainerState, import_function, is_function_path
from kedge.rewards.function import FunctionReward, refuse_wanting
from kedge.runs.interrupts import Terminated
from kedge.sampling.completion import Completion


def done(text, ids=(7, 8)):
    return Completion([5], list(ids), [0.0] * len(ids), text, "eos")


PROMPTS = [Prompt("ask one", {"answer": "4", "level": 1}, "f.jsonl: row 1"), Prompt("ask two", {"answer": "5"})]
ANSWERS = [done("four"), done("five!", (7, 8, 9))]


def score(function, prompts=PROMPTS, answers=ANSWERS):
    return FunctionReward(function)(prompts, answers)


def returning(value):
    return lambda prompts, completions, **columns: value


def test_the_call_is_trls():
    seen = {}

    def judge(prompts, completions, **columns):
        seen.update(columns, prompts=prompts, completions=completions)
        return [len(completion) for completion in completions]

    scores = score(judge)
    assert seen == {
        "prompts": ["ask one", "ask two"],
        "completions": ["four", "five!"],
        "completion_ids": [[7, 8], [7, 8, 9]],
        "answer": ["4", "5"],
        "level": [1, None],
        "trainer_state": TrainerState(0, 0, 0.0, 0),
    }
    assert scores.total == [4.0, 5.0]
    assert scores.per_token == [None, None]
    assert scores.components == {"judge": [4.0, 5.0]}
    assert scores.sums() == [4.0, 5.0]


def test_chat_arrives_as_messages():
    chat = [{"role": "user", "content": "hi"}]

    def judge(prompts, completions, **_):
        assert prompts == [chat]
        return [len(completion[0]["content"]) for completion in completions]

    assert score(judge, [Prompt(chat)], ANSWERS[:1]).total == [4.0]
    seen = []
    score(lambda prompts, completions: seen.extend(completions) or [0], [Prompt(chat)], ANSWERS[:1])
    assert seen == [[{"role": "assistant", "content": "four"}]]


def test_only_the_columns_that_are_asked_for():
    def plain(prompts, completions):
        return [1, 2]

    def named(completions, prompts, answer, *, completion_ids):
        return [int(a) + len(ids) for a, ids in zip(answer, completion_ids, strict=True)]

    assert score(plain).total == [1.0, 2.0]
    assert score(named).total == [6.0, 8.0]


@pytest.mark.parametrize("column", ["prompts", "completions"])
def test_a_column_named_like_an_argument(column):
    """The function judges the answers, and not what the data says under their name."""
    seen = []
    score(
        lambda prompts, completions: seen.append((prompts, completions)) or [1],
        [Prompt("a", {column: "x"})],
        ANSWERS[:1],
    )
    assert seen == [(["a"], ["four"])]


def test_names():
    class Judge:
        def __call__(self, prompts, completions):
            return [1, 2]

    assert FunctionReward(Judge()).name == "Judge"
    assert FunctionReward(Judge(), "polite").name == "polite"
    assert score(Judge()).components == {"Judge": [1.0, 2.0]}
    assert score(partial(lambda prompts, completions, by: [by, by], by=3)).total == [3.0, 3.0]


@pytest.mark.parametrize(
    "result",
    [
        [1, 2.5],
        (1, 2.5),
        np.array([1.0, 2.5]),
        np.array([1.0, 2.5], dtype=np.float32),
        [np.float64(1), np.float32(2.5)],
        torch.tensor([1.0, 2.5]),
        [torch.tensor(1), torch.tensor(2.5, dtype=torch.bfloat16)],
        [True, 2.5],
    ],
    ids=str,
)
def test_lists_arrays_and_tensors(result):
    scores = score(returning(result))
    assert scores.total == [1.0, 2.5]
    assert all(type(x) is float for x in scores.total)


def test_none_for_some():
    scores = score(returning([None, 2]))
    assert math.isnan(scores.components["<lambda>"][0])
    assert scores.components["<lambda>"][1] == 2.0


@pytest.mark.parametrize(
    "item", [[0.5, -1.0, 2.25], (0.5, -1, 2.25), np.array([0.5, -1, 2.25]), torch.tensor([0.5, -1, 2.25])], ids=str
)
def test_per_token(item):
    scores = score(returning([3, item]))
    assert scores.total == [3.0, 0.0]  # the second is paid token by token
    assert scores.per_token == [None, [0.5, -1.0, 2.25]]
    assert scores.components == {"<lambda>": [3.0, 1.75]}
    assert scores.sums() == [3.0, 1.75]


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (None, "returned None; it must return a list of 2 scores"),
        ([1], "returned 1 scores for 2 completions"),
        ([], "returned 0 scores for 2"),
        ([1, 2, 3], "returned 3 scores for 2"),
        ("12", "returned str"),
        (1.5, "returned float"),
        (torch.tensor(1.5), "returned float"),
        ({"a": 1, "b": 2}, "returned dict"),
    ],
)
def test_wrong_results(result, message):
    with pytest.raises(RewardError, match=f"reward function '<lambda>' {message}"):
        score(returning(result))


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (math.nan, "gave nan"),
        (math.inf, "gave inf"),
        (-math.inf, "gave -inf"),
        ("3", "gave '3'"),
        (np.nan, "gave nan"),
        (torch.tensor(torch.nan), "gave nan"),
        ([1.0, 2.0], "gave 2 per-token scores for 3 tokens"),
        ([], "gave 0 per-token scores for 3 tokens"),
        ([1.0, math.nan, 2.0], "gave nan"),
        ([1.0, None, 2.0], "gave None"),
        ([[1.0]] * 3, r"gave \[1.0\]"),
    ],
)
def test_wrong_items_show_the_sample(item, message):
    with pytest.raises(RewardError, match=message) as error:
        score(returning([1, item]), [PROMPTS[0], Prompt("ask two", {}, "f.jsonl: row 2")])
    assert "f.jsonl: row 2" in str(error.value)
    assert "ask two" in str(error.value)
    assert "five!" in str(error.value)
    assert "ask one" not in str(error.value)


def test_a_crash_inside_the_function_propagates():
    def judge(prompts, completions):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        score(judge)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a:b", True), ("a.b_1:C.d", True), ("org/name", False), ("C:\\x", False), ("a:", False), ("./a:b", False)],
)
def test_is_function_path(text, expected):
    assert is_function_path(text) is expected


def test_import_from_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "kedge_judges_one.py").write_text(
        "def judge(prompts, completions):\n    return [1]\nclass Box:\n    inner = judge\nnumber = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")  # puts sys.path back afterwards
    monkeypatch.chdir(tmp_path)
    assert import_function("kedge_judges_one:judge")([], []) == [1]
    assert import_function("kedge_judges_one:Box.inner")([], []) == [1]
    with pytest.raises(ConfigError, match="kedge_judges_one has no 'jugde'"):
        import_function("kedge_judges_one:jugde")
    with pytest.raises(ConfigError, match="'number' is not a function"):
        import_function("kedge_judges_one:number")
    with pytest.raises(ConfigError, match=r"No module named 'kedge_no_such'; modules are looked for in .*"):
        import_function("kedge_no_such:judge")


def test_a_crash_inside_the_module_propagates(tmp_path, monkeypatch):
    (tmp_path / "kedge_judges_two.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ZeroDivisionError):
        import_function("kedge_judges_two:judge")


def test_the_state_of_the_training_goes_to_whom_asks_for_it():
    state = TrainerState(global_step=3, max_steps=12)
    columns = [Prompt("ask one", {"trainer_state": "a column of that name"}), Prompt("ask two")]

    def warming(completions, trainer_state):
        return [len(text) * trainer_state.global_step / trainer_state.max_steps for text in completions]

    assert FunctionReward(warming)(columns, ANSWERS, state).total == [1.0, 1.25]
    assert FunctionReward(lambda prompts, **rest: [rest["trainer_state"].global_step] * 2)(
        columns, ANSWERS, state
    ).total == [3.0, 3.0]


class Judge:
    async def __call__(self, completions):
        await asyncio.sleep(0)
        return [len(text) for text in completions]


async def notebook(function):
    """A loop that runs already, as in a notebook."""
    return score(function)


def wrapped(completions):
    """No coroutine function, and gives a coroutine."""
    return Judge()(completions)


@pytest.mark.parametrize("function", [Judge(), Judge().__call__, partial(Judge().__call__), wrapped])
def test_coroutines_are_awaited(function):
    assert score(function).total == [4.0, 5.0]
    assert asyncio.run(notebook(function)).total == [4.0, 5.0]


def test_one_loop_for_all_calls():
    loops = []

    async def judge(completions):
        loops.append(asyncio.get_running_loop())
        return [1.0, 2.0]

    score(judge), score(judge)
    assert loops[0] is loops[1]
    assert loops[0].is_running()


def test_a_crash_inside_a_coroutine_propagates():
    async def judge(completions):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        score(judge)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda prompts, answer: [], r"'<lambda>' wants column 'answer'; there are: prompt, level"),
        (lambda answer, **rest: [], "wants column 'answer'"),
        (lambda prompts, *, answer: [], "wants column 'answer'"),
        (lambda prompts, /, completions: [], r"takes 'prompts' by position alone; .* take out the /"),
    ],
)
def test_a_column_that_is_not_there(function, said):
    with pytest.raises(RewardError, match=said):
        refuse_wanting(function, None, ["level"])


def test_columns_that_need_not_be_there():
    for function in (
        lambda prompts, completions, completion_ids, trainer_state, level: [],
        lambda *args, **rest: [],
        lambda completions, answer=None: [],
        partial(lambda completions, answer: [], answer=3),
        Judge(),
    ):
        refuse_wanting(function, None, ["level"])


def leaves(completions):
    sys.exit("no API key")


async def leaves_later(completions):
    await asyncio.sleep(0)
    sys.exit("no API key")


@pytest.mark.parametrize("function", [leaves, leaves_later, lambda completions: leaves_later(completions)])
def test_a_function_that_asks_for_the_end_has_made_an_error(function):
    for reward in (FunctionReward(function, "f"), build_reward({"function": function, "name": "f"})):
        with pytest.raises(RewardError, match=r"reward function 'f' called sys.exit\('no API key'\); return a score"):
            reward(PROMPTS, ANSWERS)
    assert score(Judge()).total == [4.0, 5.0]  # and the loop goes on


def test_sigterm_in_a_function_is_no_error_of_its():
    def judge(completions):
        raise Terminated(143)

    with pytest.raises(Terminated):
        score(judge)


def test_a_module_that_ends_the_program(tmp_path, monkeypatch):
    (tmp_path / "kedge_judges_that_leave.py").write_text("import sys\nsys.exit(3)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        ConfigError, match=r"kedge_judges_that_leave calls sys.exit\(3\) when it is imported; .*__main__"
    ):
        import_function("kedge_judges_that_leave:judge")
