"""What people say of answers: kept, deleted, and read by training."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from listeners import Slow, listening, service_of

from kedge.data.files import read_rows
from kedge.data.records import demonstrations, preferences
from kedge.errors import ConfigError, DataError
from kedge.serving.people import store as people_store
from kedge.serving.people.importing import read_feedback
from kedge.serving.people.store import (
    Feedback,
    GivenAnswer,
    KeyReusedError,
    NoSuchAnswerError,
    NotComparableError,
    NotKeptError,
    Store,
)
from kedge.serving.people.tables import answers, feedback, metadata, open_database
from kedge.serving.people.training_data import FORMS

CHAT = [{"role": "user", "content": "the cat"}]


def answer(name, *, person=None, prompt="the cat", text="sat"):
    return GivenAnswer(name, "tiny", 1, "first", person, prompt, [1, 2], text, [3, 4], [-0.5, -0.25], {}, "eos")


@pytest.fixture
def store(database):
    store = Store(open_database(database))
    yield store
    store.close()


def test_the_tables_are_those_that_migrations_make(database):
    with open_database(database).connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    open_database(database)  # once more: nothing to do


def test_servers_that_begin_together_make_the_tables_once(database):
    with ThreadPoolExecutor(4) as threads:
        engines = [*threads.map(open_database, [database] * 4)]
    with engines[0].connect() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM alembic_version")) == 1


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
    assert numbers[0] == numbers[1] == 1
    assert sorted({*numbers}) == numbers[1:]  # some databases leave numbers out
    together = [store.take(Feedback("a:0", score=0.5, key="m")) for _ in range(8)]
    assert len({future.result(10) for future in together}) == 1
    assert store.counts() == (1, 5)


def test_a_key_that_came_with_something_else_is_refused(store):
    """And the first one stays: whoever sent the second would think that it is kept."""
    store.keep(answer("a:0"))
    store.take(Feedback("a:0", thumb=1, annotator="ann", key="k")).result(10)
    for other in ({"thumb": 0, "annotator": "ann"}, {"thumb": 1, "annotator": "bob"}, {"correction": "no"}):
        with pytest.raises(KeyReusedError, match="'k' came with other feedback"):
            store.take(Feedback("a:0", key="k", **other)).result(10)
    assert [(row["thumb"], row["annotator"]) for row in store.rows()] == [(1, "ann")]


@pytest.mark.parametrize("text", ["half \ud83d", "none \0"])
def test_what_no_database_takes_ends_nothing(store, text):
    """Whoever gets past the server's checks hears of it, and the next one is kept."""
    if "\0" in text and store.engine.dialect.name == "sqlite":
        pytest.skip("SQLite takes it")
    store.keep(answer("a:0", text=text))
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


def test_two_servers_share_a_database(store, database):
    """What is sent to both with the same key is kept once, and neither hears that the database is busy."""
    other = Store(open_database(database))
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
    if store.engine.dialect.name != "sqlite":
        return
    assert all(b"a secret of hers" not in path.read_bytes() for path in tmp_path.iterdir())


def test_what_is_written_for_somebody_who_is_forgotten_meanwhile_is_not_kept(tiny_lm, tmp_path):
    store = Store(open_database(tmp_path / "meanwhile.db"))
    asked = {"model": "tiny", "prompt": "the", "max_tokens": 10, "logit_bias": {"1": -100}, "stream": True}
    with listening(service_of(tiny_lm("llama"), Slow, store=store), admin_keys=["admin"]) as url:
        with httpx.stream("POST", f"{url}/v1/completions", json=asked | {"user": "eve"}, timeout=30) as begun:
            lines = begun.iter_lines()
            next(lines)
            gone = httpx.delete(f"{url}/admin/people/eve", headers={"Authorization": "Bearer admin"})
            assert gone.json()["deleted"] == 0
            assert [*lines][-2] == "data: [DONE]"
        httpx.post(f"{url}/v1/completions", json=asked | {"user": "bob"}, timeout=30)
        httpx.post(f"{url}/v1/completions", json=asked | {"user": "eve"}, timeout=30)  # asked later: she is back
        assert store.forget("nobody").result(10) == 0  # all before it has been written
        with store._reading() as connection:
            assert sorted(connection.scalars(sa.select(answers.c.person))) == ["bob", "eve"]


def test_an_answer_that_is_deleted_while_somebody_speaks_of_it(store, monkeypatch):
    """By another server, which a database of several writers lets in between."""
    store.keep(answer("a:0", person="eve"))
    store.take(Feedback("a:0", thumb=1)).result(10)
    real = people_store.insert

    def late(table):
        if table is feedback:
            with store.engine.begin() as other:
                other.execute(sa.delete(answers))
        return real(table)

    if store.engine.dialect.name == "sqlite":
        pytest.skip("SQLite lets nobody in between")
    monkeypatch.setattr(people_store, "insert", late)
    with pytest.raises(NoSuchAnswerError):
        store.take(Feedback("a:0", thumb=1)).result(10)
    monkeypatch.undo()
    store.keep(answer("b:0"))
    assert store.take(Feedback("b:0", thumb=1)).result(10)


def test_while_the_disk_is_full(tmp_path):
    """Feedback is refused, and answers wait; afterwards both are kept."""
    store = Store(open_database(tmp_path / "feedback.db"))
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
from kedge.serving.people import store as people_store
from kedge.serving.people.importing import read_feedback
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


def test_what_was_acknowledged_survives_kill_9(database):
    acknowledged = []
    for run in range(3):
        command = [sys.executable, "-c", KILLED, database, f"r{run}"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        acknowledged += [process.stdout.readline().strip() for _ in range(20 + 7 * run)]
        process.kill()
        acknowledged += [
            line.strip() for line in process.stdout.read().splitlines(keepends=True) if line.endswith("\n")
        ]
        process.wait()
    store = Store(open_database(database))
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


def test_who_changes_their_mind_said_it_once(store):
    """Of a named annotator's thumbs on an answer the last one counts, as on the board; nobody's all count."""
    for name, text in (("a:0", "sat"), ("a:1", "ran"), ("a:2", "slept")):
        store.keep(answer(name, text=text))
    for name, thumb, annotator in (
        ("a:0", 1, "ann"), ("a:1", 0, "ann"), ("a:2", 1, "bob"), ("a:0", 0, "ann"), ("a:2", 0, None), ("a:1", 1, None),
    ):  # fmt: skip
        store.take(Feedback(name, thumb=thumb, annotator=annotator)).result(10)
    pairs = [(pair["chosen"], pair["rejected"], pair["feedback"]) for pair in FORMS["preferences"](store.rows())]
    # Without the last thumb on "a:0" it would be better than "a:1" and "a:2".
    assert pairs == [
        ("slept", "ran", [3, 2]), ("slept", "sat", [3, 4]), ("ran", "sat", [6, 4]), ("ran", "slept", [6, 5]),
    ]  # fmt: skip


# From a file ------------------------------------------------------------------------------------------------------


def written(path, *rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_everything_goes_into_another_database_once(said, store, tmp_path):
    file = written(tmp_path / "all.jsonl", *FORMS["everything"](said))
    assert store.add(read_feedback(file)).result(10) == 0  # it is from here
    other = Store(open_database(tmp_path / "other.db"))
    assert other.add(read_feedback(file)).result(10) == len(said)
    assert other.add(read_feedback(file)).result(10) == 0
    assert [*FORMS["preferences"](other.rows())] == [*FORMS["preferences"](said)]
    assert other.counts() == (5, 6)
    other.take(Feedback("a:0", thumb=1)).result(10)
    assert other.add(read_feedback(file)).result(10) == 0
    other.close()


def test_rows_of_other_tools(store, tmp_path):
    assistant = lambda text: {"role": "assistant", "content": text}  # noqa: E731
    rows = [
        {"prompt": "once", "chosen": "upon", "rejected": "a", "annotator": "ann"},
        {"prompt": CHAT, "chosen": [assistant("sat")], "rejected": [*CHAT, assistant("ran")]},
        {"chosen": [*CHAT, assistant("sat")], "rejected": [*CHAT, assistant("slept")]},
        {"prompt": "once", "completion": "more", "score": 2, "comment": "good"},
        {"prompt": "once", "completion": "less", "label": False},
        {"prompt": "once", "completion": "less", "label": False},  # somebody else
    ]
    file = written(tmp_path / "theirs.jsonl", *rows)
    assert store.add(read_feedback(file)).result(10) == 6
    renamed = written(tmp_path / "renamed.jsonl", *rows)
    assert store.add(read_feedback(renamed)).result(10) == 0
    said = store.rows()
    assert [(row["answer_text"], row["worse_text"], row["score"], row["thumb"]) for row in said] == [
        ("upon", "a", None, None), ("sat", "ran", None, None), ("sat", "slept", None, None), ("more", None, 2.0, None),
        ("less", None, None, 0), ("less", None, None, 0),
    ]  # fmt: skip
    assert (said[0]["annotator"], said[3]["comment"], said[2]["answer_prompt"]) == ("ann", "good", CHAT)
    more = {"prompt": "once", "chosen": "upon", "rejected": "a", "annotator": "bob"}
    assert store.add(read_feedback(written(tmp_path / "more.jsonl", *rows, more))).result(10) == 1


GOOD = {"prompt": "once", "chosen": "upon", "rejected": "a"}


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"prompt": "once"}, "it is none that is known: everything"),
        ({"prompt": "once", "chosen": "upon", "rejected": 3}, "rejected: a text, not 3"),
        ({"chosen": "upon", "rejected": "a"}, "prompt: missing"),
        ({"prompt": "x", "completion": "y", "score": "good"}, "score: a number, not 'good'"),
        ({"prompt": "x", "completion": "y", "label": 0.5}, "label: 1 or 0, not 0.5"),
        ({"prompt": "x", "completion": "y\0", "label": 1}, "completion: has characters"),
        ({"prompt": CHAT, "chosen": CHAT, "rejected": CHAT}, "the assistant's is what is judged"),
        ({"prompt": "x", "completion": "y", "label": 1, "annotator": "a" * 257}, "annotator: at most 256"),
        ({"answer_id": "a:0"}, "answer_created: missing"),
        ("[1]", "line 2"),
        ("{", "line 2: not JSON"),
    ],
)
def test_a_row_that_is_bad_is_named_and_none_is_kept(bad, said, tmp_path):
    file = written(tmp_path / "bad.jsonl", GOOD, bad, GOOD)
    with pytest.raises(DataError) as error:
        read_feedback(file)
    assert "line 2" in str(error.value)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"thumb": 2, "worse": None}, "thumb: 1 or 0, not 2"),
        ({"answer": "b:0"}, "they name other answers"),
        ({"worse_prompt": "another"}, "worse: an answer to another prompt"),
        ({"worse": None, "worse_id": None}, "it says nothing"),
        ({"answer_version": "1"}, "answer_version: a whole number, not '1'"),
        ({"answer_prompt": [{"role": "user"}], "worse_prompt": [{"role": "user"}]}, "answer_prompt.content: a text"),
    ],
)
def test_everything_is_checked(said, changed, store, tmp_path):
    store.keep(answer("a:0"))
    store.keep(answer("a:1"))
    store.take(Feedback("a:0", worse="a:1")).result(10)
    [row] = FORMS["everything"](store.rows())
    assert len(read_feedback(written(tmp_path / "good.jsonl", row))) == 1
    with pytest.raises(DataError) as error:
        read_feedback(written(tmp_path / "bad.jsonl", row | changed))
    assert said in str(error.value)


def test_another_answer_of_the_same_name_changes_nothing(store, tmp_path):
    store.keep(answer("a:0", text="sat"))
    store.take(Feedback("a:0", thumb=1)).result(10)
    [row] = FORMS["everything"](store.rows())
    rows = [row | {"answer_id": "z:0", "answer": "z:0"}, row | {"answer_text": "ran"}]
    with pytest.raises(DataError, match="answer 'a:0' is there already, with another text"):
        store.add(read_feedback(written(tmp_path / "x.jsonl", *rows))).result(10)
    assert store.counts() == (1, 1)


# Over HTTP --------------------------------------------------------------------------------------------------------


def test_the_command(store, database, tmp_path, capsys, monkeypatch):
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

    assert run(database, "-o", tmp_path / "pairs.jsonl") == 0
    assert json.loads((tmp_path / "pairs.jsonl").read_text())["chosen"] == "lay"
    assert "1 rows in" in capsys.readouterr().out
    written(tmp_path / "more.jsonl", GOOD)
    for new in (1, 0):
        assert run(database, "--import", tmp_path / "more.jsonl") == 0
        assert f"{new} new rows of 1 in" in capsys.readouterr().out
    for words, said in (
        ((database,), "--output FILE writes what is kept"),
        ((database, "-o", tmp_path / "x.jsonl", "--import", tmp_path / "more.jsonl"), "one of them"),
        ((database, "-o", tmp_path / "pairs.jsonl"), "there is something already"),
        ((tmp_path / "none.db", "-o", tmp_path / "x.jsonl"), "there is no such file"),
        ((database, "-o", tmp_path / "x.jsonl", "--as", "poems"), "'poems' is none of preferences"),
    ):
        assert run(*words) == 2
        assert said in " ".join(capsys.readouterr().err.split())
