"""A service as a reward, against real ones on loopback that are slow, fail, hang and answer nonsense."""

import math
import socket
import sys
import time

import pytest
from servers import serving

from kedge.data.records import Prompt
from kedge.errors import ConfigError, RewardError
from kedge.parallel import ALONE
from kedge.rewards.build import build_reward, refuse_missing_columns, spec_of
from kedge.rewards.library import HTTP
from kedge.rewards.scores import judge
from kedge.sampling.completion import Completion

pytest.importorskip("httpx")

ANSWERS = [Completion([5], [7, 8], [0.0, 0.0], text, "eos") for text in ("a", "bb", "ccc", "dddd", "eeeee")]
PROMPTS = [Prompt("ask", {"answer": str(k), "secret": "s"}, f"row {k}") for k in range(5)]


def by_length(payload, nth):
    return {"scores": [len(text) for text in payload["completions"]]}


def score(served, n=5, **settings):
    reward = build_reward({"kind": "http", "url": served.url, "backoff": 0.01, **settings})
    return judge(reward, PROMPTS[:n], ANSWERS[:n], ALONE)


def test_batches_in_the_answers_order():
    with serving(by_length) as served:
        scores = score(served, batch_size=2, columns=["answer", "completion_ids"])
    assert scores.total == [1, 2, 3, 4, 5]
    assert scores.failures == {}
    assert sorted(served.asked, key=lambda asked: asked["completions"]) == [
        {"prompts": ["ask"] * 2, "completions": ["a", "bb"], "answer": ["0", "1"], "completion_ids": [[7, 8]] * 2},
        {"prompts": ["ask"] * 2, "completions": ["ccc", "dddd"], "answer": ["2", "3"], "completion_ids": [[7, 8]] * 2},
        {"prompts": ["ask"], "completions": ["eeeee"], "answer": ["4"], "completion_ids": [[7, 8]]},
    ]


def test_what_it_may_say():
    with serving(lambda payload, nth: [1, None, [0.5, 0.25], 0, -2.5]) as served:
        scores = build_reward({"kind": "http", "url": served.url}, partial=True)(PROMPTS, ANSWERS)
    assert scores.components["http"][0] == 1
    assert math.isnan(scores.components["http"][1])
    assert scores.per_token[2] == [0.5, 0.25]
    assert scores.components["http"][2:] == [0.75, 0, -2.5]


def test_a_chat_goes_as_messages():
    chat = Prompt([{"role": "user", "content": "hi"}], {})
    with serving(by_length) as served:
        build_reward({"kind": "http", "url": served.url})([chat], ANSWERS[:1])
    assert served.asked == [
        {"prompts": [[{"role": "user", "content": "hi"}]], "completions": [[{"role": "assistant", "content": "a"}]]}
    ]


def test_it_tries_again_and_waits_longer_each_time():
    def third(payload, nth):
        return (503, {}, b"busy") if nth < 2 else by_length(payload, nth)

    with serving(third) as served:
        assert score(served, backoff=0.2).total == [1, 2, 3, 4, 5]
    first, second = served.times[1] - served.times[0], served.times[2] - served.times[1]
    assert 0.1 <= first < 0.5
    assert 0.2 <= second < 0.8


def test_it_waits_as_long_as_it_is_asked_to():
    def busy(payload, nth):
        return (429, {"retry-after": "1"}, b"") if nth == 0 else by_length(payload, nth)

    with serving(busy) as served:
        assert score(served).total == [1, 2, 3, 4, 5]
    assert served.times[1] - served.times[0] >= 1


@pytest.mark.parametrize(
    ("reply", "said", "requests"),
    [
        ((500, {}, b"oh no"), r"the service said 500: 'oh no', tried 3 times; set default= .*\n.*row 0", 3),
        ((404, {}, b"nobody here"), "the service said 404: 'nobody here'; set default=", 1),
        ((200, {}, b"<html>"), "said what is no JSON: 200: '<html>'", 1),
        ({"scores": [1, 2]}, "gave no scores: .*returned 2 scores for 5 completions", 1),
        ({"values": [1]}, "gave no scores: .*returned None", 1),
        ([1, 2, 3, 4, "good"], "gave no scores: .*gave 'good', which is not a finite number", 1),
        ((200, {}, b"[1, 2, 3, 4, NaN]"), "gave no scores: .*gave nan, which is not a finite number", 1),
    ],
)
def test_what_is_no_score_stops_the_run_or_is_counted(reply, said, requests):
    with serving(lambda payload, nth: reply) as served:
        with pytest.raises(RewardError, match=f"(?s)reward 'http': .*{said}"):
            score(served, retries=2)
        assert len(served.asked) == requests
        scores = score(served, retries=2, default=-1.0)
    assert scores.total == [-1] * 5
    assert scores.failure_counts() == {"http": {"timeouts": 0, "errors": 5, "deaths": 0}}


def test_one_that_hangs(capsys):
    with serving(lambda payload, nth: None if "ccc" in payload["completions"] else by_length(payload, nth)) as served:
        began = time.monotonic()
        scores = score(served, timeout=0.3, retries=1, default=0.0, batch_size=1)
        assert time.monotonic() - began < 3
        assert scores.total == [1, 2, 0, 4, 5]
        assert scores.failure_counts()["http"] == {"timeouts": 1, "errors": 0, "deaths": 0}
        with pytest.raises(RewardError, match=r"took more than timeout=0\.3 seconds, tried 2 times"):
            score(served, timeout=0.3, retries=1)
    assert (
        "1 of 5 samples got the default score of 'http'; the first: reward 'http': the service"
        in capsys.readouterr().err
    )


def test_one_that_breaks_off():
    def broken(payload, nth):
        return (200, {"content-length": "999999"}, b"[1") if nth == 0 else by_length(payload, nth)

    with serving(broken) as served:
        assert score(served).total == [1, 2, 3, 4, 5]
        assert len(served.asked) == 2


def test_nobody_there():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    reward = build_reward({"kind": "http", "url": f"http://127.0.0.1:{port}", "retries": 1, "backoff": 0.01})
    with pytest.raises(RewardError, match=r"cannot be reached: ConnectError: .*tried 2 times"):
        reward(PROMPTS, ANSWERS)


def test_so_many_at_once_and_no_more():
    def slow(payload, nth):
        time.sleep(0.1)
        return by_length(payload, nth)

    with serving(slow) as served:
        assert score(served, batch_size=1, concurrency=2).total == [1, 2, 3, 4, 5]
        assert served.most_at_once == 2


def test_two_services_wait_together():
    def slow(payload, nth):
        time.sleep(0.4)
        return by_length(payload, nth)

    with serving(slow) as one, serving(slow) as other:
        began = time.monotonic()
        both = build_reward([{"kind": "http", "url": one.url}, {"kind": "http", "url": other.url, "weight": 2.0}])
        assert both(PROMPTS, ANSWERS).total == [3, 6, 9, 12, 15]
        assert time.monotonic() - began < 0.75


def test_secrets_come_from_the_environment(monkeypatch):
    headers = {"Authorization": "Bearer ${KEDGE_TEST_TOKEN}", "X-Kind": "plain"}
    with serving(by_length) as served:
        with pytest.raises(
            ConfigError, match="the environment's variable KEDGE_TEST_TOKEN, which headers names, is not"
        ):
            refuse_missing_columns({"kind": "http", "url": served.url, "headers": headers}, [])
        monkeypatch.setenv("KEDGE_TEST_TOKEN", "12345")
        score(served, headers=headers)
    assert (served.headers[0]["authorization"], served.headers[0]["x-kind"]) == ("Bearer 12345", "plain")
    assert "12345" not in str(spec_of({"kind": "http", "url": served.url, "headers": headers}).resolved())


def test_what_is_wrong_before_anything_is_loaded(monkeypatch):
    with pytest.raises(ConfigError, match="url: 'localhost:8000' is no address of a service"):
        spec_of({"kind": "http", "url": "localhost:8000"})
    with pytest.raises(
        RewardError, match="reward 'http' wants column 'gold', which columns= names; there are: prompt, a"
    ):
        refuse_missing_columns({"kind": "http", "url": "http://h", "columns": ["gold"]}, ["a"])
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(ConfigError, match=r"http: .*pip install 'kedge\[services\]'"):
        refuse_missing_columns({"kind": "http", "url": "http://h"}, [])


def test_a_resumed_run_may_ask_in_another_way_but_nothing_else():
    spec = HTTP(url="http://h/score")
    assert spec.fingerprint() == HTTP(url="http://h/score", timeout=3, headers={"a": "b"}, batch_size=1).fingerprint()
    assert spec.fingerprint() != HTTP(url="http://h/other").fingerprint()
    assert spec.fingerprint() != HTTP(url="http://h/score", default=0).fingerprint()


def test_from_python():
    with serving(by_length) as served:
        score = HTTP(url=served.url, columns=["answer"])
        assert score(["a", "bb"], prompts=["p", "q"], answer=["x", "y"]) == [1, 2]
        with pytest.raises(RewardError, match="wants column 'answer'"):
            score(["a"])
    assert served.asked == [{"prompts": ["p", "q"], "completions": ["a", "bb"], "answer": ["x", "y"]}]
