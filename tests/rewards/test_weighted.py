"""Several rewards as one."""

import asyncio
import json
import math
import threading
import time

import numpy as np
import pytest

from kedge.data.records import Prompt
from kedge.errors import ConfigError, RewardError
from kedge.parallel import ALONE
from kedge.rewards.function import FunctionReward
from kedge.rewards.scores import judge
from kedge.rewards.weighted import WeightedReward
from kedge.sampling.completion import Completion

PROMPTS = [Prompt("ask one"), Prompt("ask two")]
ANSWERS = [Completion([5], [7, 8], [0.0, 0.0], "four", "eos"), Completion([5], [9], [0.0], "five", "eos")]


def score(*parts):
    reward = WeightedReward(
        [(weight, FunctionReward(lambda prompts, completions, v=value: v, name)) for weight, name, value in parts]
    )
    return reward(PROMPTS, ANSWERS)


def score_functions(*functions):
    parts = [(1.0, FunctionReward(function, str(i))) for i, function in enumerate(functions)]
    return WeightedReward(parts)(PROMPTS, ANSWERS)


def test_weights_and_components():
    scores = score((2.0, "good", [1, -1]), (-0.5, "long", [4, 8]))
    assert scores.total == [0.0, -6.0]
    assert scores.components == {"good": [1.0, -1.0], "long": [4.0, 8.0]}  # unweighted
    assert scores.per_token == [None, None]


def test_none_adds_nothing():
    scores = score((2.0, "a", [None, 3]), (1.0, "b", [5, None]))
    assert scores.total == [5.0, 6.0]
    assert math.isnan(scores.components["a"][0])
    assert math.isnan(scores.components["b"][1])


def test_per_token_parts_add_up():
    scores = score((2.0, "a", [[1, 2], 3]), (10.0, "b", [[1, 1], [4]]), (1.0, "c", [7, None]))
    assert scores.per_token == [[12.0, 14.0], [40.0]]
    assert scores.total == [7.0, 6.0]
    assert scores.sums() == [33.0, 46.0]
    assert scores.components["a"] == [3.0, 3.0]


def test_a_function_that_changes_what_it_got_changes_nothing_for_the_others():
    chat, box = [{"role": "user", "content": "hi"}], {"tags": ["a"]}
    prompts = [Prompt(chat, {"box": box, "numbers": np.ones(2)})] * 2  # two answers to one prompt
    seen = []

    def rude(prompts, completions, completion_ids, box, numbers):
        seen.append(json.dumps([prompts, completions, completion_ids, box, [x.tolist() for x in numbers]]))
        for prompt, ids, inner, row in zip(prompts, completion_ids, box, numbers, strict=True):
            prompt[0]["content"] = prompt[0]["content"] + "!"
            prompt.append({"role": "user", "content": "more"})
            ids.clear()
            inner["tags"].append("b")
            row += 1
            assert [len(prompt), len(inner["tags"]), row[0]] == [2, 2, 2.0]  # of this sample alone
        return [1.0, 1.0]

    reward = WeightedReward([(1.0, FunctionReward(rude, name)) for name in "ab"])
    reward(prompts, ANSWERS)
    assert seen[0] == seen[1]
    assert (chat, box) == ([{"role": "user", "content": "hi"}], {"tags": ["a"]})
    assert [answer.ids for answer in ANSWERS] == [[7, 8], [9]]


def test_equal_names_are_told_apart():
    scores = score((1.0, "f", [1, 1]), (1.0, "f", [2, 2]), (1.0, "f", [3, 3]))
    assert scores.components == {"f": [1.0, 1.0], "f_2": [2.0, 2.0], "f_3": [3.0, 3.0]}
    assert scores.total == [6.0, 6.0]


def test_weight_zero_is_still_logged():
    scores = score((1.0, "a", [1, 2]), (0.0, "watched", [9, 9]))
    assert scores.total == [1.0, 2.0]
    assert scores.components["watched"] == [9.0, 9.0]


def test_a_sample_that_nothing_judges():
    with pytest.raises(RewardError, match="no reward component gave a score") as error:
        score((1.0, "a", [1, None]), (1.0, "b", [2, None]))
    assert "ask two" in str(error.value)
    assert "five" in str(error.value)


def test_a_component_may_abstain_from_all_of_them():
    reward = WeightedReward(
        [
            (1.0, FunctionReward(lambda prompts, completions: [None, None], "maths")),
            (2.0, FunctionReward(lambda prompts, completions: [1, 2], "politeness")),
        ]
    )
    scores = judge(reward, PROMPTS, ANSWERS, ALONE)
    assert scores.total == [2.0, 4.0]
    assert all(map(math.isnan, scores.components["maths"]))


def test_coroutine_functions_wait_together():
    met = []

    def meeting(name):
        async def judge(completions):
            met.append(name)
            for _ in range(1000):  # until the other has come too; alone it would never
                if len(met) == 2:
                    return [len(met)] * len(completions)
                await asyncio.sleep(0.01)
            return None

        return judge

    scores = score_functions(meeting("a"), lambda completions: [10.0, 20.0], meeting("b"))
    assert scores.total == [14.0, 24.0]
    assert scores.components == {"0": [2.0, 2.0], "1": [10.0, 20.0], "2": [2.0, 2.0]}


def test_empty():
    with pytest.raises(ConfigError, match="an empty list"):
        WeightedReward([])


def test_what_waits_waits_while_others_compute():
    """The service answers only once the function beside it has been called."""
    computed = threading.Event()

    async def service(prompts, completions):
        for _ in range(500):
            if computed.is_set():
                return [1.0, 2.0]
            await asyncio.sleep(0.01)
        return None

    def function(prompts, completions):
        computed.set()
        return [10.0, 20.0]

    assert score_functions(service, function).total == [11.0, 22.0]


def test_an_error_of_what_computes_ends_what_waits():
    began, ended = threading.Event(), []

    async def service(prompts, completions):
        began.set()
        try:
            await asyncio.sleep(30)
        finally:
            ended.append(True)

    def function(prompts, completions):
        assert began.wait(5)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        score_functions(service, function)
    for _ in range(100):
        if ended:
            break
        time.sleep(0.02)
    assert ended == [True]
