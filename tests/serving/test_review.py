"""The review queue: what the guard held and what reward models do not agree about; and what becomes of it."""

import json
import re
import statistics
import time

import httpx
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from listeners import listening, service_of

from kedge.data.records import joined
from kedge.models.reward_loading import new_reward_model
from kedge.serving.guard.guard import Guard
from kedge.serving.guard.rules import Rules
from kedge.serving.http.panel import Panel
from kedge.serving.http.run import load_service
from kedge.serving.people.store import AlreadyReviewedError, Feedback, GivenAnswer, NoSuchAnswerError, Store
from kedge.serving.people.tables import MIGRATIONS, open_database
from kedge.serving.people.training_data import FORMS

ADMIN = {"Authorization": "Bearer admin"}
HELD = [{"rule": "r", "on": "answer", "did": "block", "reason": "words found", "matched": "0" * 64}]


@pytest.fixture
def store(database):
    store = Store(open_database(database))
    yield store
    store.close()


def answer(name, *, held=None, told=None, text="sat", created=1.0, person=None, prompt="the cat"):
    return GivenAnswer(
        name, "tiny", 1, "first", person, prompt, [1], text, [2], [-0.5], {}, "eos", held, told, created
    )  # fmt: skip


def until(true, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# The database -----------------------------------------------------------------------------------------------------


def waiting(store):
    store.take(Feedback("there is none")).exception(10)  # what was ordered before is written
    rows, count = store.awaiting_review(10)
    assert len(rows) == min(10, count)
    return [row["id"] for row in rows]


def test_what_was_held_comes_first_and_then_what_is_least_agreed_on(store):
    for name, held, created in (("old:0", HELD, 1.0), ("new:0", HELD, 2.0), ("a:0", None, 3.0), ("b:0", None, 4.0)):
        store.keep(answer(name, held=held, created=created))
    store.keep(answer("fine:0"))
    for name, disagreement in (("a:0", 0.25), ("b:0", 0.5), ("old:0", 9.0), ("nobody:0", 1.0)):
        store.measured(name, disagreement)
    assert waiting(store) == ["new:0", "old:0", "b:0", "a:0"]
    assert [row["id"] for row in store.awaiting_review(1)[0]] == ["new:0"]
    assert store.awaiting_review(1)[1] == 4
    assert store.review(Feedback("new:0", thumb=0)).result(10) == 1
    assert store.review(Feedback("b:0", thumb=1)).result(10) == 2
    assert waiting(store) == ["old:0", "a:0"]
    with pytest.raises(AlreadyReviewedError):
        store.review(Feedback("new:0", thumb=1)).result(10)
    with pytest.raises(NoSuchAnswerError):
        store.review(Feedback("nobody:0", thumb=1)).result(10)
    assert [(row["answer"], row["thumb"], row["review"]) for row in store.rows()] == [("new:0", 0, 1), ("b:0", 1, 1)]


def test_the_first_tables_become_the_present_ones(database):
    """With what is in them."""
    engine = sa.create_engine(database if "://" in database else f"sqlite:///{database}")
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.exec_driver_sql(
            "INSERT INTO answers VALUES ('a:0', 1.5, 'tiny', 1, 'first', 'eve', '\"the cat\"', '[1]', 'sat', '[2]', "
            "'[-0.5]', '{}', 'eos')"
        )
        connection.exec_driver_sql("INSERT INTO feedback (created, answer, thumb) VALUES (2.0, 'a:0', 1)")
    engine.dispose()
    store = Store(open_database(database))
    [row] = store.rows()
    assert (row["answer_text"], row["thumb"], row["answer_held"], row["review"]) == ("sat", 1, None, None)
    assert store.awaiting_review(10) == ([], 0)
    assert store.review(Feedback("a:0", thumb=0)).result(10) == 2
    assert store.forget("eve").result(10) == 3
    with store.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0001")
        assert "held" not in {column["name"] for column in sa.inspect(connection).get_columns("answers")}
        command.upgrade(config, "head")
    store.close()


# Training ---------------------------------------------------------------------------------------------------------


def test_nobody_liked_what_nobody_saw(store):
    """Of an answer that was not given as it was written only reviewers say what it was like; corrections stand."""
    store.keep(answer("good:0", text="sat"))
    store.keep(answer("bad:0", text="a slur", held=HELD, told="[no]"))
    store.keep(answer("seen:0", text="ran", held=HELD))
    for given in (
        Feedback("good:0", thumb=1),
        Feedback("bad:0", thumb=1, score=1.0, correction="lay"),
        Feedback("bad:0", thumb=0),
        Feedback("good:0", worse="bad:0"),
        Feedback("bad:0", worse="good:0"),
        Feedback("seen:0", thumb=0),
    ):
        store.take(given).result(10)
    rows = store.rows()
    pairs = [(pair["chosen"], pair["rejected"]) for pair in FORMS["preferences"](rows)]
    assert pairs == [("sat", "ran")]
    assert [*FORMS["ratings"](rows)] == []
    assert [row["completion"] for row in FORMS["demonstrations"](rows)] == ["lay"]
    store.review(Feedback("bad:0", thumb=0, correction="lay down")).result(10)
    pairs = [(pair["chosen"], pair["rejected"]) for pair in FORMS["preferences"](store.rows())]
    assert sorted(pairs) == [("lay down", "a slur"), ("sat", "a slur"), ("sat", "ran")]


# Over HTTP --------------------------------------------------------------------------------------------------------

ASKED = {"model": "tiny", "prompt": "the cat", "max_tokens": 12, "seed": 3, "logit_bias": {"1": -100}, "user": "eve"}


@pytest.fixture
def lm(tiny_lm):
    return tiny_lm("llama")


@pytest.fixture
def served(lm, store):
    """From rules to the address of a server that has them, and keeps answers."""
    opened = []

    def make(*rules, reward=None, **settings):
        guard = Guard(Rules(rule=rules, **settings)) if rules else None
        opened.append(listening(service_of(lm, guard=guard, store=store, reward=reward), admin_keys=["admin"]))
        return opened[-1].__enter__()

    yield make
    for each in opened:
        each.__exit__(None, None, None)


def queue(url, **how):
    answer = httpx.get(f"{url}/admin/review", headers=ADMIN, params=how)
    assert answer.status_code == 200, answer.text
    return answer.json()


def ask(url, **more):
    return httpx.post(f"{url}/v1/completions", json=ASKED | more)


def text_of(url):
    return ask(url, max_tokens=12).json()["choices"][0]["text"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("do", ["block", "replace", "review"])
def test_from_the_guard_to_a_verdict(served, store, lm, do, stream):
    with listening(service_of(lm)) as plain:
        written = text_of(plain)
    message = {} if do == "review" else {"message": "***"}
    url = served(
        {"name": "r", "on": "answer", "pattern": re.escape(written[4:7]), "do": do} | message, hold=5
    )  # fmt: skip
    told = ask(url, stream=stream)
    until(lambda: queue(url)["waiting"] == 1)
    [row] = queue(url)["data"]
    name = json.loads(told.text.split("\n\n")[0][6:])["id"] if stream else told.json()["id"]
    assert (row["id"], row["index"], row["prompt"]) == (name, 0, "the cat")
    assert written.startswith(row["text"])
    assert written[4:7] in row["text"]
    if not stream or do != "block":
        assert row["text"] == written
    events = [json.loads(part[6:]) for part in told.text.split("\n\n") if part.startswith("data: {")]
    heard = "".join(e["choices"][0]["text"] for e in events) if stream else told.json()["choices"][0]["text"]
    assert row["told"] == (None if do == "review" else heard)
    assert [(held["rule"], held["on"], held["did"]) for held in row["held"]] == [("r", "answer", do)]
    assert "person" not in row
    assert "eve" not in json.dumps(row)
    said = {"verdict": "bad", "correction": "lay", "annotator": "ann"}
    address = f"{url}/admin/review/{name}/0"
    assert httpx.post(address, json=said, headers=ADMIN).json() == {"object": "feedback", "number": 1}
    again = httpx.post(address, json=said, headers=ADMIN)
    assert (again.status_code, again.json()["error"]["code"]) == (409, "already_reviewed")
    assert queue(url) == {"object": "list", "data": [], "waiting": 0}
    [given] = store.rows()
    assert (given["thumb"], given["correction"], given["annotator"], given["review"]) == (0, "lay", "ann", 1)
    assert httpx.delete(f"{url}/admin/people/eve", headers=ADMIN).json()["deleted"] == 2
    assert store.counts() == (0, 0)


def test_answers_to_a_prompt_that_wants_review_are_in_the_queue(served):
    url = served({"name": "p", "on": "prompt", "words": ["cat"], "do": "review"})
    ask(url, prompt=["the cat", "a dog"], n=2)
    until(lambda: queue(url)["waiting"] == 2)
    assert sorted((row["index"], row["prompt"]) for row in queue(url)["data"]) == [(0, "the cat"), (1, "the cat")]


def test_a_prompt_is_kept_as_it_was_answered(served, store):
    url = served({"name": "p", "on": "prompt", "pattern": r"\d+", "do": "replace", "message": "#"})
    ask(url, prompt="my number is 1234")
    until(lambda: queue(url)["waiting"] == 1)
    [row] = queue(url)["data"]
    assert (row["prompt"], row["told"]) == ("my number is #", None)


@pytest.mark.parametrize(
    ("said", "status", "about"),
    [
        ({"verdict": "bad"}, 404, "there is no answer 'x:0'"),
        ({"verdict": "so so"}, 400, "'good' or 'bad'"),
        ({}, 400, "verdict: missing"),
        ({"verdict": "bad", "stars": 3}, 400, "stars: not supported here"),
        ({"verdict": "bad", "correction": ""}, 400, "at least 1"),
    ],
)
def test_a_verdict_that_is_none(served, said, status, about):
    answer = httpx.post(f"{served()}/admin/review/x/0", json=said, headers=ADMIN)
    assert answer.status_code == status
    assert about in answer.json()["error"]["message"]


def test_the_queue_is_the_administrators(served, lm):
    url = served()
    assert httpx.get(f"{url}/admin/review").status_code == 401
    assert httpx.post(f"{url}/admin/review/x/0", json={"verdict": "bad"}).status_code == 401
    assert httpx.get(f"{url}/admin/review", headers=ADMIN, params={"limit": 0}).status_code == 400
    with listening(service_of(lm), admin_keys=["admin"]) as bare:
        assert httpx.get(f"{bare}/admin/review", headers=ADMIN).json()["error"]["code"] == "no_feedback"


# Disagreement -----------------------------------------------------------------------------------------------------


@pytest.fixture
def models(lm, tmp_path):
    """Two reward models that do not agree."""
    lm.save(tmp_path / "base")
    models = [new_reward_model(tmp_path / "base", device="cpu") for _ in range(2)]
    for model, sign in zip(models, (1, -1), strict=True):
        model.head.weight.data.fill_(0.1 * sign)
    return models


def test_where_reward_models_disagree_people_look_first(served, models):
    url = served(reward=Panel(models))
    ids = [ask(url, seed=seed).json()["id"] for seed in range(4)]
    until(lambda: queue(url)["waiting"] == 4)
    rows = queue(url)["data"]
    assert {row["id"] for row in rows} == set(ids)
    for row in rows:
        scores = [model.score([joined("the cat", row["text"])])[0] for model in models]
        assert row["disagreement"] == pytest.approx(statistics.pstdev(scores), rel=1e-4)
    spreads = [row["disagreement"] for row in rows]
    assert spreads == sorted(spreads, reverse=True)
    assert len(set(spreads)) == 4
    told = httpx.post(f"{url}/v1/score", json={"model": "tiny", "input": ["the cat"]}).json()["data"][0]["score"]
    assert told == pytest.approx(statistics.fmean(model.score(["the cat"])[0] for model in models))


def test_one_reward_model_agrees_with_itself(served, models, store):
    url = served(reward=models[0])
    ask(url)
    assert waiting(store) == []
    assert store.counts()[0] == 1


def test_a_server_of_several_reward_models(models, tmp_path):
    for i, model in enumerate(models):
        model.save(tmp_path / f"reward{i}")
    sources = [str(tmp_path / f"reward{i}") for i in range(2)]
    service = load_service(str(tmp_path / "base"), reward_model=sources)
    assert isinstance(service.reward, Panel)
    service.close()
    service = load_service(str(tmp_path / "base"), reward_model=sources[:1])
    assert service.reward.score(["the cat"]) == pytest.approx(models[0].score(["the cat"]))
    service.close()
