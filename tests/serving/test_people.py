"""What people say of answers: kept, deleted, and read by training."""

import json
import subprocess
import sys
import threading

import httpx
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from listeners import listening, service_of

from kedge.data.files import read_rows
from kedge.data.records import demonstrations, preferences
from kedge.errors import ConfigError
from kedge.serving.people.store import Feedback, GivenAnswer, NoSuchAnswerError, NotComparableError, NotKeptError, Store
from kedge.serving.people.tables import metadata, open_database
from kedge.serving.people.training_data import FORMS

CHAT = [{"role": "user", "content": "the cat"}]


def answer(name, *, person=None, prompt="the cat", text="sat"):
    return GivenAnswer(name, "tiny", 1, "first", person, prompt, [1, 2], text, [3, 4], [-0.5, -0.25], {}, "eos")


@pytest.fixture
def store(tmp_path):
    store = Store(open_database(tmp_path / "feedback.db"))
    yield store
    store.close()


def test_the_tables_are_those_that_migrations_make(tmp_path):
    with open_database(tmp_path / "feedback.db").connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    open_database(tmp_path / "feedback.db")  # once more: nothing to do


@pytest.mark.parametrize("where", ["nosuch://x", "sqlite:////no/such/folder/x.db", "postgresql+nodriver://x/y"])
def test_what_is_no_database(where):
    with pytest.raises(ConfigError, match="--feedback: "):
        open_database(where)


def test_a_file_that_is_no_database(tmp_path):
    (tmp_path / "x.db").write_text("not a database, but long enough to be looked at " * 100)
    with pytest.raises(ConfigError, match="file is not a database"):
        open_database(tmp_path / "x.db")


def test_feedback_finds_the_answer_that_was_given_just_before(store):
    store.keep(answer("a:0", text="sat"))
    store.keep(answer("a:1", text="ran"))
    assert store.take(Feedback("a:0", thumb=1, comment="good", annotator="ann")).result(10) == 1
    assert store.take(Feedback("a:1", worse="a:0")).result(10) == 2
    first, second = store.rows()
    assert (first["answer_text"], first["thumb"], first["comment"], first["annotator"]) == ("sat", 1, "good", "ann")
    assert (first["answer_ids"], first["answer_logprobs"], first["answer_version"]) == ([3, 4], [-0.5, -0.25], 1)
    assert (second["answer_text"], second["worse_text"], second["thumb"]) == ("ran", "sat", None)


def test_what_cannot_be_kept_is_said_and_harms_no_other(store):
    store.keep(answer("a:0"))
    store.keep(answer("b:0", prompt="a dog"))
    asked = [
        store.take(Feedback(name, thumb=thumb, worse=worse))
        for name, thumb, worse in (
            ("a:0", 1, None),
            ("x", 1, None),
            ("a:0", None, "y"),
            ("a:0", None, "b:0"),
            ("b:0", 0, None),
        )
    ]
    assert asked[0].result(10)
    assert asked[4].result(10)
    for future, error in zip(asked[1:4], (NoSuchAnswerError, NoSuchAnswerError, NotComparableError), strict=True):
        with pytest.raises(error):
            future.result(10)
    assert store.counts() == (2, 2)


def test_what_is_sent_again_is_kept_once(store):
    store.keep(answer("a:0"))
    numbers = [store.take(Feedback("a:0", thumb=1, key=key)).result(10) for key in ("k", "k", "l", None, None)]
    assert numbers == [1, 1, 2, 3, 4]
    together = [store.take(Feedback("a:0", score=0.5, key="m")) for _ in range(8)]
    assert {future.result(10) for future in together} == {5}


def test_what_no_database_takes_ends_nothing(store):
    """Whoever gets past the server's checks hears of it, and the next one is kept."""
    store.keep(answer("a:0", text="half \ud83d"))
    with pytest.raises(NotKeptError, match="it cannot be written"):
        store.take(Feedback("a:0", thumb=1)).result(10)
    assert store.lost == 1
    store.keep(answer("b:0"))
    assert store.take(Feedback("b:0", thumb=1)).result(10)


def test_a_closed_store_says_so(tmp_path):
    store = Store(open_database(tmp_path / "closed.db"))
    store.close()
    with pytest.raises(NotKeptError, match="going down"):
        store.take(Feedback("a:0", thumb=1)).result(10)


def test_who_no_longer_waits_harms_nobody(store):
    store.keep(answer("a:0"))
    with store.engine.connect() as connection, connection.begin():  # the database is busy
        futures = [store.take(Feedback("a:0", thumb=1, key=str(i))) for i in range(4)]
        for future in futures[1:3]:
            future.cancel()
    assert futures[3].result(10)
    assert store.take(Feedback("a:0", thumb=1)).result(10)


def test_two_servers_share_a_database(store, tmp_path):
    """What is sent to both with the same key is kept once, and neither hears that the database is busy."""
    other = Store(open_database(tmp_path / "feedback.db"))
    store.keep(answer("a:0"))
    store.take(Feedback("a:0", thumb=1)).result(10)
    asked = [(one.take(Feedback("a:0", score=float(i), key=f"k{i}")), i) for i in range(60) for one in (store, other)]
    numbers = [(future.result(30), i) for future, i in asked]
    assert len(set(numbers)) == 60
    other.close()
    assert store.counts() == (1, 61)


def test_a_person_is_forgotten(store, tmp_path):
    store.keep(answer("a:0", person="eve", text="a secret of hers"))
    store.keep(answer("a:1", person="bob", prompt="the cat"))
    for given in (Feedback("a:0", thumb=1), Feedback("a:1", worse="a:0"), Feedback("a:1", thumb=0, annotator="eve")):
        store.take(given).result(10)
    kept = store.take(Feedback("a:1", thumb=1)).result(10)
    assert store.forget("eve").result(10) == 4
    assert [row["number"] for row in store.rows()] == [kept]
    assert store.forget("eve").result(10) == 0
    with store._reading() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    assert all(b"a secret of hers" not in path.read_bytes() for path in tmp_path.iterdir())


def test_while_the_disk_is_full(store):
    """Feedback is refused, and answers wait; afterwards both are kept."""
    store.keep(answer("a:0"))
    store.take(Feedback("a:0", thumb=1)).result(10)
    with store.engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()

    def full(connection, record):
        connection.execute(f"PRAGMA max_page_count={pages}").close()

    sa.event.listen(store.engine, "connect", full)
    store.engine.dispose()
    store.keep(answer("b:0", text="x" * 100_000))
    with pytest.raises(NotKeptError, match=r"cannot be written: .*full"):
        store.take(Feedback("a:0", thumb=0)).result(10)
    sa.event.remove(store.engine, "connect", full)
    store.engine.dispose()
    assert store.take(Feedback("b:0", thumb=0)).result(10)
    assert store.counts() == (2, 2)
    assert store.lost == 0


KILLED = """
import os, sys, threading
from kedge.serving.people.store import Feedback, GivenAnswer, Store
from kedge.serving.people.tables import open_database
store = Store(open_database(sys.argv[1]))
def writer(name):
    i = 0
    while True:
        store.keep(GivenAnswer(f"{name}-{i}", "tiny", 1, "first", None, "p", [1], "t", [2], [-1.0], {}, "eos"))
        store.take(Feedback(f"{name}-{i}", thumb=1)).result()
        os.write(1, f"{name}-{i}\\n".encode())
        i += 1
for n in range(4):
    threading.Thread(target=writer, args=(f"{sys.argv[2]}w{n}",), daemon=True).start()
threading.Event().wait()
"""


def test_what_was_acknowledged_survives_kill_9(tmp_path):
    acknowledged = []
    for run in range(3):
        command = [sys.executable, "-c", KILLED, str(tmp_path / "feedback.db"), f"r{run}"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        acknowledged += [process.stdout.readline().strip() for _ in range(20 + 7 * run)]
        process.kill()
        acknowledged += [
            line.strip() for line in process.stdout.read().splitlines(keepends=True) if line.endswith("\n")
        ]
        process.wait()
    store = Store(open_database(tmp_path / "feedback.db"))
    kept = [row["answer_id"] for row in store.rows()]
    store.close()
    assert len(kept) == len(set(kept))
    assert set(acknowledged) <= set(kept)
    assert len(acknowledged) >= 20 + 27 + 34


# Training ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def said(store):
    for name, prompt, text in (
        ("a:0", CHAT, "sat"),
        ("a:1", CHAT, "ran"),
        ("b:0", CHAT, "slept"),
        ("c:0", "once", "upon"),
        ("d:0", CHAT, "sat"),
    ):
        store.keep(answer(name, prompt=prompt, text=text))
    for given in (
        Feedback("a:0", worse="a:1"),
        Feedback("c:0", correction="upon a time", comment="longer"),
        Feedback("a:0", thumb=1),
        Feedback("b:0", thumb=0),
        Feedback("d:0", thumb=0),
        Feedback("c:0", score=0.25),
    ):
        store.take(given).result(10)
    return store.rows()


def test_training_reads_it(said, tmp_path):
    reply = lambda text: [{"role": "assistant", "content": text}]  # noqa: E731
    pairs = [*FORMS["preferences"](said)]
    assert pairs == [
        {"prompt": CHAT, "chosen": reply("sat"), "rejected": reply("ran"), "feedback": [1]},
        {"prompt": "once", "chosen": "upon a time", "rejected": "upon", "feedback": [2]},
        {"prompt": CHAT, "chosen": reply("sat"), "rejected": reply("slept"), "feedback": [3, 4]},
    ]
    for name, rows in (("pairs", pairs), ("shown", FORMS["demonstrations"](said))):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert len(preferences(read_rows(tmp_path / "pairs.jsonl"))) == 3
    [shown] = demonstrations(read_rows(tmp_path / "shown.jsonl"))
    assert (shown.prompt, shown.completion) == ("once", "upon a time")
    assert [*FORMS["ratings"](said)] == [{"prompt": "once", "completion": "upon", "score": 0.25, "feedback": [6]}]
    assert len([*FORMS["everything"](said)]) == 6
    [first, *_] = FORMS["argilla"](said)
    assert first["fields"] == {"prompt": "the cat", "response1": "sat", "response2": "ran"}
    [first, *_] = FORMS["label-studio"](said)
    assert first["data"] == {"prompt": "the cat", "answer1": "sat", "answer2": "ran"}


# Over HTTP --------------------------------------------------------------------------------------------------------


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


def test_the_command(store, tmp_path, capsys, monkeypatch):
    from kedge.cli.app import main

    store.keep(answer("a:0"))
    store.take(Feedback("a:0", correction="lay")).result(10)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["kedge", "feedback", *map(str, words)])
        try:
            main()
        except SystemExit as left:
            return left.code
        return 0

    assert run(tmp_path / "feedback.db", "-o", tmp_path / "pairs.jsonl") == 0
    assert json.loads((tmp_path / "pairs.jsonl").read_text())["chosen"] == "lay"
    assert "1 rows in" in capsys.readouterr().out
    for words, said in (
        ((tmp_path / "feedback.db", "-o", tmp_path / "pairs.jsonl"), "there is something already"),
        ((tmp_path / "none.db", "-o", tmp_path / "x.jsonl"), "there is no such file"),
        ((tmp_path / "feedback.db", "-o", tmp_path / "x.jsonl", "--as", "poems"), "'poems' is none of preferences"),
    ):
        assert run(*words) == 2
        assert said in " ".join(capsys.readouterr().err.split())
