"""How good answers were, counted by version and day."""

import time

import httpx
import pytest
from listeners import listening, service_of

from kedge.serving.people.quality import quality
from kedge.serving.people.store import Feedback, GivenAnswer, Store
from kedge.serving.people.tables import open_database

ADMIN = {"Authorization": "Bearer admin"}
NOON = 20_000 * 86_400 + 43_200
"""Of 2024-10-04."""


def answer(name, *, created=NOON, version=1, source="a", tokens=2):
    return GivenAnswer(
        name,
        "tiny",
        version,
        source,
        None,
        "the cat",
        [1],
        "sat",
        [3] * tokens,
        [-0.5] * tokens,
        {},
        "eos",
        created=created,
    )


@pytest.fixture
def store(database):
    store = Store(open_database(database))
    yield store
    store.close()


def take(store, *several):
    for given in several:
        store.take(given).result(10)


def test_by_version_and_day(store):
    for name, how in {
        "a:0": {"tokens": 2},
        "a:1": {"tokens": 5},
        "b:0": {"version": 2, "source": "b", "tokens": 10},
        "c:0": {"created": NOON + 43_199.9, "tokens": 1},  # the last moment of the day
        "d:0": {"created": NOON + 43_200.0, "tokens": 7},  # the first of the next
        "e:0": {"created": NOON - 86_400},  # before the first that is asked for
    }.items():
        store.keep(answer(name, **how))
    take(
        store,
        Feedback("a:0", thumb=1, score=0.5, created=NOON + 10 * 86_400),  # said later, of an answer of that day
        Feedback("a:1", thumb=0, correction="lay", comment="no"),
        Feedback("c:0", score=1.0),
        Feedback("a:0", worse="b:0"),
        Feedback("a:1", worse="b:0"),
        Feedback("b:0", worse="a:0"),
        Feedback("e:0", thumb=1),
    )
    counts = dict.fromkeys(("up", "down", "scored", "corrected", "commented", "won", "lost"), 0)
    assert quality(store.engine, since=20_000) == [
        {"day": "2024-10-04", "version": 1, "source": "a", "answers": 3, "tokens": pytest.approx(8 / 3), "up": 1,
         "down": 1, "scored": 2, "score": 0.75, "corrected": 1, "commented": 1, "won": 2, "lost": 1},
        counts | {"day": "2024-10-04", "version": 2, "source": "b", "answers": 1, "tokens": 10, "score": None, "won": 1,
                  "lost": 2},
        counts | {"day": "2024-10-05", "version": 1, "source": "a", "answers": 1, "tokens": 7, "score": None},
    ]  # fmt: skip


def test_the_last_thumb_of_a_person_counts(store):
    store.keep(answer("a:0"))
    store.keep(answer("a:1"))
    take(
        store,
        Feedback("a:0", thumb=1, annotator="ann"),
        Feedback("a:0", thumb=0, annotator="ann", comment="on second thoughts"),
        Feedback("a:0", comment="no thumb", annotator="ann"),
        Feedback("a:1", thumb=1, annotator="ann"),  # of another answer
        Feedback("a:0", thumb=1, annotator="bob"),
        Feedback("a:0", thumb=1),
        Feedback("a:0", thumb=0),
    )
    [row] = quality(store.engine, since=0)
    assert (row["up"], row["down"], row["commented"]) == (3, 2, 2)


def test_over_http(tiny_lm, store):
    store.keep(answer("a:0", created=time.time() - 40 * 86_400))
    store.keep(answer("b:0", created=time.time()))
    take(store, Feedback("b:0", thumb=1))
    with listening(service_of(tiny_lm("llama"), store=store), admin_keys=["admin"]) as url:
        told = httpx.get(f"{url}/admin/quality", headers=ADMIN).json()
        assert [(row["answers"], row["up"]) for row in told["data"]] == [(1, 1)]
        assert len(httpx.get(f"{url}/admin/quality?days=60", headers=ADMIN).json()["data"]) == 2
        assert httpx.get(f"{url}/admin/quality?days=0", headers=ADMIN).status_code == 400
        assert httpx.get(f"{url}/admin/quality").status_code == 401
        with store.engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE feedback RENAME TO elsewhere")
        answered = httpx.get(f"{url}/admin/quality", headers=ADMIN)
        assert (answered.status_code, answered.json()["error"]["code"]) == (503, "not_read")


def test_without_a_database(tiny_lm):
    with listening(service_of(tiny_lm("llama")), admin_keys=["admin"]) as url:
        answered = httpx.get(f"{url}/admin/quality", headers=ADMIN)
    assert (answered.status_code, answered.json()["error"]["code"]) == (404, "no_feedback")
