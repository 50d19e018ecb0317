"""Feedback over HTTP: from an answer to what somebody says of it."""

import json
import threading

import httpx
import pytest
from listeners import listening, service_of

from kedge.serving.people.store import (
    Store,
)
from kedge.serving.people.tables import open_database

CHAT = [{"role": "user", "content": "the cat"}]


@pytest.fixture
def served(tiny_lm, tmp_path):
    """``(url, store)`` of a server that keeps feedback."""
    store = Store(open_database(tmp_path / "served.db"))
    with listening(service_of(tiny_lm("llama"), store=store), admin_keys=["admin"]) as url:
        yield url, store


@pytest.mark.parametrize("stream", [False, True])
def test_from_an_answer_to_its_feedback(served, stream):
    url, store = served
    asked = {"model": "tiny", "messages": CHAT, "n": 2, "seed": 3, "max_tokens": 8, "user": "eve", "stream": stream}
    told = httpx.post(f"{url}/v1/chat/completions", json=asked)
    name = json.loads(told.text.partition("\n\n")[0].removeprefix("data: "))["id"] if stream else told.json()["id"]
    given = {"id": name, "index": 1, "better_than": {"id": name}, "thumb": "up", "annotator": "ann"}
    answer = httpx.post(f"{url}/v1/feedback", json=given, headers={"Idempotency-Key": "once"})
    assert answer.json() == {"object": "feedback", "number": 1}
    assert httpx.post(f"{url}/v1/feedback", json=given, headers={"Idempotency-Key": "once"}).json()["number"] == 1
    other = httpx.post(f"{url}/v1/feedback", json=given | {"thumb": "down"}, headers={"Idempotency-Key": "once"})
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_key_reused")
    [row] = store.rows()
    assert (row["answer"], row["worse"], row["thumb"]) == (f"{name}:1", f"{name}:0", 1)
    assert (row["answer_prompt"], row["answer_person"], row["answer_version"]) == (CHAT, "eve", 1)
    assert len(row["answer_ids"]) == len(row["answer_logprobs"])
    assert row["answer_sampling"]["max_new_tokens"] == 8
    headers = {"Authorization": "Bearer admin"}
    assert httpx.delete(f"{url}/admin/people/eve", headers=headers).json() == {"person": "eve", "deleted": 3}
    assert store.counts() == (0, 0)


@pytest.mark.parametrize(
    ("given", "status", "said"),
    [
        ({"id": "x", "thumb": "up"}, 404, "there is no answer 'x:0'"),
        ({"id": "x"}, 400, "at least"),
        ({"id": "x", "thumb": "sideways"}, 400, "'up' or 'down'"),
        ({"id": "x", "score": "1"}, 400, "valid number"),
        ({"id": "x", "better_than": {"id": "x"}}, 400, "that is the same answer"),
        ({"id": "x", "stars": 5}, 400, "stars: not supported here"),
        ({"thumb": "up"}, 400, "id: missing"),
        ({"id": "x", "comment": "half \ud83d"}, 400, "comment: has characters that cannot be written down"),
        ({"id": "x\0", "thumb": "up"}, 400, "id: has characters that cannot be written down"),
        ({"id": "x" * 65, "thumb": "up"}, 400, "at most 64"),
    ],
)
def test_feedback_that_is_none(served, given, status, said):
    answer = httpx.post(
        f"{served[0]}/v1/feedback", content=json.dumps(given), headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == status
    assert said in answer.json()["error"]["message"]


def test_not_a_number_is_no_score(served):
    answer = httpx.post(f"{served[0]}/v1/feedback", content=b'{"id": "x", "score": NaN}')
    assert answer.status_code == 400


def test_without_a_database_there_is_none(tiny_lm):
    with listening(service_of(tiny_lm("llama"))) as url:
        answer = httpx.post(f"{url}/v1/feedback", json={"id": "x", "thumb": "up"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "no_feedback")


def test_many_at_once(served):
    url, store = served
    errors = []

    def talk(i):
        try:
            asked = {"model": "tiny", "prompt": "the", "max_tokens": 2, "seed": i}
            name = httpx.post(f"{url}/v1/completions", json=asked).json()["id"]
            assert httpx.post(f"{url}/v1/feedback", json={"id": name, "thumb": "up"}).status_code == 200
        except Exception as error:  # noqa: BLE001  it is the test's
            errors.append(error)

    threads = [threading.Thread(target=talk, args=(i,)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert errors == []
    assert store.counts() == (16, 16)
