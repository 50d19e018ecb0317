"""A language model as a judge, played by services on loopback with literal replies."""

import json
import math
import sqlite3
import time

import pytest
from servers import serving

from kedge.data.records import Prompt
from kedge.errors import ConfigError, RewardError
from kedge.parallel import ALONE
from kedge.rewards.build import build_reward, refuse_missing_columns, spec_of
from kedge.rewards.library import Judge
from kedge.rewards.library.judging import pairs_of, score_in, winner_in
from kedge.rewards.scores import judge
from kedge.sampling.completion import Completion

pytest.importorskip("httpx")

QUESTION = Prompt("What is the capital of France?", {"gold": "Paris"}, "row 0")


def answers(*texts):
    return [Completion([5], [7], [0.0], text, "eos") for text in texts]


def said(text, tokens=30):
    return {"choices": [{"message": {"role": "assistant", "content": text}}], "usage": {"total_tokens": tokens}}


def asked_about(payload):
    """The text between the tags of the answer, or of both."""
    first = payload["messages"][0]["content"]
    inside = lambda tag: first.partition(f"<{tag}>\n")[2].partition(f"\n</{tag}>")[0]  # noqa: E731
    return inside("answer") or (inside("answer_a"), inside("answer_b"))


@pytest.fixture
def ask(tmp_path):
    def asking(served, *texts, prompts=None, partial=False, **settings):
        spec = {"kind": "judge", "base_url": f"{served.url}/v1", "model": "m", "backoff": 0.01, **settings}
        reward = build_reward({"cache": str(tmp_path / "judge.sqlite")} | spec, partial=partial)
        given = [QUESTION] * len(texts) if prompts is None else prompts
        return judge(reward, given, answers(*texts), ALONE)

    return asking


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("It is right.\nScore: 10", 1),
        ("Score: 1", 0),
        ("**Score:** 5.5/10", 0.5),
        ('{"score": 4}', 1 / 3),
        ("7", 2 / 3),
        ("**7/10**", 2 / 3),
        ("Score: 9 would be too much.\nScore: 4", 1 / 3),
        ("Score (1-10): 4", 1 / 3),
        ("a score of 4.", 1 / 3),
        ("Score: 0", None),
        ("Score: 11", None),
        ("Score: 7/100", None),
        ("Score: 7-8", None),
        ("Score: N", None),
        ("I give it a seven", None),
        ("There are 7 of them", None),
        ("", None),
    ],
)
def test_scores_that_replies_name(reply, score):
    found = score_in(reply, 1, 10)
    assert found == (score if score is None else pytest.approx(score))


@pytest.mark.parametrize(
    ("reply", "worth"),
    [
        ("Both are fine.\nWinner: A", 1),
        ("Winner: B", 0),
        ("**Winner:** tie", 0.5),
        ("The winner is B.", 0),
        ('{"winner": "A"}', 1),
        ("Winner: answer A", 1),
        ("B", 0),
        ("Winner: A? No.\nWinner: B", 0),
        ("Winner: a better text", None),
        ("Winner: A or B", None),
        ("A good question.", None),
        ("", None),
    ],
)
def test_winners_that_replies_name(reply, worth):
    assert winner_in(reply) == worth


def test_a_score_for_each_answer(ask):
    replies = {"Paris": "Right. Score: 10", "Lyon": "Wrong. Score: 1", "A city": "Vague. Score: 4"}
    with serving(lambda payload, nth: said(replies[asked_about(payload)])) as served:
        scores = ask(served, "Paris", "Lyon", "A city", "Lyon", rubric="Is it {gold}?")
    assert scores.total == [1, 0, pytest.approx(1 / 3), 0]
    assert scores.components["judge_tokens"] == [30, 30, 30, 0]  # the same question is asked once
    assert scores.components["judge_retries"] == [0, 0, 0, 0]
    assert all(0 < seconds < 5 for seconds in scores.components["judge_seconds"][:3])
    assert scores.remarks["judge"][0] == "Right. Score: 10"
    assert len(served.asked) == 3
    asked = served.asked[0]
    assert (asked["model"], asked["temperature"]) == ("m", 0)
    assert [message["role"] for message in asked["messages"]] == ["user"]
    assert asked["messages"][0]["content"].startswith(
        "Is it Paris?\n\n<prompt>\nWhat is the capital of France?\n</prompt>"
    )
    assert "end with a line `Score: N`, N from 1 (worst) to 10 (best)." in asked["messages"][0]["content"]


def test_what_was_asked_before_costs_nothing(ask, tmp_path):
    with serving(lambda payload, nth: said("Score: 10")) as served:
        assert ask(served, "Paris", "Lyon").total == [1, 1]
    with serving(lambda payload, nth: said("Score: 1")) as other:  # another place, the same judge
        scores = ask(other, "Paris", "Lyon", "Rome")
        assert scores.total == [1, 1, 0]
        assert scores.components["judge_tokens"] == [0, 0, 30]
        assert len(other.asked) == 1
        assert ask(other, "Paris", model="another").total == [0]
        assert ask(other, "Paris", request={"temperature": 1}).total == [0]
        assert ask(other, "Paris", cache="none").total == [0]
        assert len(other.asked) == 4
    with sqlite3.connect(tmp_path / "judge.sqlite") as file:
        assert file.execute("SELECT count(*) FROM replies").fetchone() == (5,)


def test_a_broken_run_keeps_what_it_has(ask):
    def dies(payload, nth):
        return (400, {}, b"no") if nth == 2 else said("Score: 10")

    with serving(dies) as served:
        with pytest.raises(RewardError, match="reward 'judge': the service said 400: 'no'"):
            ask(served, "a", "b", "c", concurrency=1)
        scores = ask(served, "a", "b", "c")
    assert scores.components["judge_tokens"] == [0, 0, 30]


def test_a_reply_that_cannot_be_read_is_asked_for_again(ask):
    def shy(payload, nth):
        return said("I would rather not say.") if nth == 0 else said("Score: 4", tokens=50)

    with serving(shy) as served:
        scores = ask(served, "Paris")
    assert scores.total == [pytest.approx(1 / 3)]
    assert scores.components["judge_tokens"] == [80]
    assert scores.components["judge_retries"] == [1]
    assert served.asked[1]["messages"][1:] == [
        {"role": "assistant", "content": "I would rather not say."},
        {
            "role": "user",
            "content": "That cannot be read. Reply with one line and nothing else, such as `Score: 10`.",
        },
    ]
    with serving(shy) as served:
        assert ask(served, "Paris").components["judge_tokens"] == [0]  # kept under the first question
        assert served.asked == []


@pytest.mark.parametrize(
    "reply", [said("No."), said(None), said("Score: 99"), {"choices": []}, {"error": "x"}, [], "Score: 10"]
)
def test_one_that_never_says_is_an_error_or_counted_and_no_0(ask, reply, capsys):
    with serving(lambda payload, nth: reply if "Lyon" in str(payload) else said("Score: 10")) as served:
        with pytest.raises(RewardError, match=r"(?s)the service gave no judgement, tried 3 times; .*row 0.*'Lyon'"):
            ask(served, "Paris", "Lyon", retries=2)
        scores = ask(served, "Paris", "Lyon", retries=2, default=-0.5)
    assert scores.total == [1, -0.5]
    assert scores.failure_counts() == {"judge": {"timeouts": 0, "errors": 1, "deaths": 0}}
    assert math.isnan(scores.components["judge_tokens"][1])
    assert "1 of 2 samples got the default score of 'judge'" in capsys.readouterr().err


def test_busy_slow_and_hanging_ones(ask):
    def busy(payload, nth):
        return (429, {"retry-after": "0.3"}, b"") if nth == 0 else said("Score: 10")

    with serving(busy) as served:
        scores = ask(served, "Paris")
        assert served.times[1] - served.times[0] >= 0.3
    assert scores.components["judge_retries"] == [1]
    assert scores.components["judge_seconds"][0] >= 0.3

    with serving(lambda payload, nth: None) as served:
        scores = ask(served, "Lyon", timeout=0.2, retries=1, default=0.25)
    assert scores.total == [0.25]
    assert scores.failure_counts()["judge"] == {"timeouts": 1, "errors": 0, "deaths": 0}

    def slow(payload, nth):
        time.sleep(0.1)
        return said("Score: 10")

    with serving(slow) as served:
        began = time.monotonic()
        assert ask(served, *"abcdefgh", concurrency=4).total == [1] * 8
        assert time.monotonic() - began < 0.7  # 0.8 one after the other
        assert served.most_at_once == 4


def better(payload, nth):
    """The longer one wins; of those that start with x the one that is shown first."""
    first, second = asked_about(payload)
    if first.startswith("x") and second.startswith("x"):
        return said("Winner: A")
    return said("Winner: A" if len(first) > len(second) else "Winner: B")


def test_pairs_in_both_orders(ask):
    with serving(better) as served:
        scores = ask(served, "a", "bb", "ccc", measure="pairwise")
        assert scores.total == [0, 0.5, 1]
        assert len(served.asked) == 6
        assert scores.components["judge_tokens"] == [60, 60, 60]  # half of four questions
        assert scores.remarks["judge"] == ["won 0 of 2", "won 1 of 2", "won 2 of 2"]
    with serving(better) as served:  # who prefers the first has no preference
        assert ask(served, "x1", "x22", measure="pairwise").total == [0.5, 0.5]
        assert ask(served, "same", "same", measure="pairwise").total == [0.5, 0.5]
        assert len(served.asked) == 2


def test_pairs_are_of_one_prompt(ask):
    other = Prompt("Another", {}, "row 1")
    with serving(better) as served:
        prompts = [QUESTION, QUESTION, other]
        scores = ask(served, "a", "bb", "ccc", prompts=prompts, partial=True, measure="pairwise")
    assert scores.components["judge"][:2] == [0, 1]
    assert math.isnan(scores.components["judge"][2])
    assert len(served.asked) == 2


def test_so_many_opponents():
    prompts = [Prompt("p", {})] * 4 + [Prompt("q", {})] * 2
    assert pairs_of(prompts, None) == [(0, 1), (1, 2), (2, 3), (3, 0), (0, 2), (1, 3), (4, 5)]
    assert pairs_of(prompts, 1) == [(0, 1), (1, 2), (2, 3), (3, 0), (4, 5)]


def test_a_pair_that_cannot_be_judged(ask):
    def silent(payload, nth):
        return said("Hm.") if "bb" in asked_about(payload) and "a" in asked_about(payload) else better(payload, nth)

    with serving(silent) as served:
        scores = ask(served, "a", "bb", "ccc", measure="pairwise", retries=1, default=0.1)
    assert scores.total == [0.1, 0.1, 1]
    assert scores.failure_counts()["judge"]["errors"] == 2


def test_the_key_and_what_is_wrong_before_anything_is_loaded(ask, monkeypatch):
    spec = {"kind": "judge", "base_url": "http://h/v1", "model": "m"}
    monkeypatch.delenv("KEDGE_TEST_KEY", raising=False)
    with pytest.raises(ConfigError, match="variable KEDGE_TEST_KEY, which api_key_env names, is not set"):
        refuse_missing_columns({**spec, "api_key_env": "KEDGE_TEST_KEY"}, [])
    with pytest.raises(
        RewardError, match="reward 'judge' wants column 'gold', which rubric= names; there are: prompt, g"
    ):
        refuse_missing_columns({**spec, "rubric": "Is it {gold}?"}, ["g"])
    with pytest.raises(ConfigError, match="base_url: 'h' is no address"):
        spec_of({**spec, "base_url": "h"})
    with pytest.raises(ConfigError, match="highest: 1 must be above lowest=1"):
        spec_of({**spec, "highest": 1})
    with pytest.raises(ConfigError, match="lowest: not used with measure='pairwise'"):
        spec_of({**spec, "measure": "pairwise", "lowest": 0})
    with pytest.raises(ConfigError, match="rubric: with measure=pairwise there are two answers"):
        spec_of({**spec, "measure": "pairwise", "rubric": "{answer}"})
    monkeypatch.setenv("KEDGE_TEST_KEY", "sk-12345")
    with serving(lambda payload, nth: said("Score: 10")) as served:
        ask(served, "Paris", api_key_env="KEDGE_TEST_KEY")
    assert served.headers[0]["authorization"] == "Bearer sk-12345"


def test_what_a_recipe_keeps_and_a_resumed_run_needs():
    spec = spec_of({"kind": "judge", "base_url": "http://h/v1", "model": "m", "request": {"max_tokens": 9}})
    assert spec_of(json.loads(json.dumps(spec.said()))) == spec
    again = {"kind": "judge", "model": "m", "request": {"max_tokens": 9}}
    assert spec.fingerprint() == spec_of({**again, "base_url": "http://elsewhere/v1", "cache": "none"}).fingerprint()
    assert spec.fingerprint() != spec_of({**again, "base_url": "http://h/v1", "rubric": "Other."}).fingerprint()


def test_a_rubric_of_one_s_own_with_the_answer_in_it(ask):
    with serving(lambda payload, nth: said("Score: 5")) as served:
        scores = ask(served, "Paris {gold}", rubric="Of {prompt} they said {answer}. {unknown", lowest=0, highest=5)
    assert scores.total == [1]
    text = served.asked[0]["messages"][0]["content"]
    assert text.startswith("Of What is the capital of France? they said Paris {gold}. {unknown\n\nWhat stands")


def test_from_python():
    with serving(lambda payload, nth: said("Score: 7" if "Paris" in asked_about(payload) else "Score: 1")) as served:
        found = Judge(base_url=served.url, model="m", cache=None)(["Paris", "Lyon"], prompts=["Capital?"] * 2)
        assert found == [pytest.approx(2 / 3), 0]
        assert Judge(base_url=served.url, model="m", cache=None, measure="pairwise")(["alone"]) == [None]
