"""A version on trial: who is answered by it, and when it is clear what it is worth."""

import random
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import httpx
import pytest
from listeners import Slow, listening, service_of

from kedge import cli
from kedge.data.encode import encode_prompt
from kedge.sampling.local.engine import Engine
from kedge.sampling.settings import Sampling
from kedge.serving.http.canary import Canary, Terms
from kedge.serving.http.panel import Panel
from kedge.serving.people.store import Store
from kedge.serving.people.tables import open_database

ADMIN = {"Authorization": "Bearer admin"}


def version(number):
    told = {"version": number, "source": f"of {number}", "answers": 0}
    return SimpleNamespace(number=number, told=lambda: told)


def canary(candidate=2, **terms):
    return Canary(version(1), version(candidate), Terms(**({"share": 0.5} | terms)))


@pytest.mark.parametrize(
    ("draw", "verdict"),
    [
        (lambda rng, which: {"held": 0, "reward": rng.gauss(which, 1)}, "promoted"),
        (lambda rng, which: {"thumbs": 1}, "promoted"),
        (lambda rng, which: {"thumbs": float(which == 1 or rng.random() < 0.5)}, "rolled back"),
        (
            lambda rng, which: {"reward": rng.gauss(0, 1), "held": float(which == 2 and rng.random() < 0.5)},
            "rolled back",
        ),
        (lambda rng, which: {"held": 0}, None),
    ],
)
def test_where_numbers_are_all_alike(draw, verdict):
    """A guard that held nothing, and thumbs that are all up, keep nothing from being decided."""
    assert fed(canary(), draw, 10_000)[0] == verdict


def test_one_thumb_that_is_down_among_many():
    """Of the present version's there is none, and so no spread."""
    tried = canary()
    tried.count(2, thumbs=0)
    assert fed(tried, lambda rng, which: {"thumbs": 1}, 10_000)[0] == "promoted"


def test_a_person_is_always_answered_by_the_same_version():
    tried = canary(share=0.1)
    people = [f"person {i}" for i in range(10_000)]
    first = [tried.answering(person).number for person in people]
    assert [tried.answering(person).number for person in people] == first
    assert 0.09 < first.count(2) / 10_000 < 0.11
    others = [canary(candidate=3, share=0.1).answering(person).number for person in people]
    both = sum(one == 2 and other == 3 for one, other in zip(first, others, strict=True))
    assert both < 150  # another tenth: nobody is always the one


def test_who_does_not_say_who_they_are_is_drawn_anew():
    tried = canary(share=0.3)
    drawn = [tried.answering(None).number for _ in range(2000)]
    assert 0.25 < drawn.count(2) / 2000 < 0.35


def fed(tried, draw, answers, seed=0):
    """The verdict, and after how many answers it came."""
    rng = random.Random(seed)
    for number in range(1, answers + 1):
        which = 2 if rng.random() < tried.terms.share else 1
        tried.count(which, **draw(rng, which))
        verdict = tried.verdict() if number % 10 == 0 else None
        if verdict is not None:
            return verdict[0], verdict[1], number
    return None, "", answers


def test_of_twenty_as_good_at_most_one_is_rolled_back():
    """Over and over: sixty of them, each looked at as long as it takes."""

    def equal(rng, which):
        return {"reward": rng.gauss(0.3, 1.0), "held": float(rng.random() < 0.05), "tokens": rng.expovariate(0.02),
                "seconds_a_token": rng.expovariate(100)}  # fmt: skip

    found = [fed(canary(), equal, 3000, seed)[0] for seed in range(60)]
    assert found.count("rolled back") <= 3
    assert found.count("promoted") >= 40


@pytest.mark.parametrize(
    ("measure", "present", "candidate"),
    [
        ("reward", (1.0, 1.0), (0.5, 1.0)),
        ("thumbs", (0.8, 0.4), (0.5, 0.5)),
        ("held", (0.02, 0.14), (0.3, 0.46)),
        ("tokens", (100, 30), (200, 30)),
        ("tokens", (100, 30), (30, 10)),
        ("seconds_a_token", (0.01, 0.003), (0.03, 0.003)),
    ],
)
def test_a_bad_one_is_rolled_back_for_what_is_worse(measure, present, candidate):
    def draw(rng, which):
        mean, spread = candidate if which == 2 else present
        return {"reward": rng.gauss(0, 1)} | {measure: rng.gauss(mean, spread)}

    verdict, why, answers = fed(canary(margin=0.01), draw, 3000)
    assert verdict == "rolled back"
    assert why.startswith(f"{measure}: ")
    assert answers < 1500


def test_a_better_one_is_promoted_sooner_than_one_as_good():
    def better(by):
        return lambda rng, which: {"reward": rng.gauss(by if which == 2 else 0, 1)}

    good, equal = fed(canary(), better(0.5), 5000), fed(canary(), better(0.0), 5000)
    assert good[0] == equal[0] == "promoted"
    assert good[2] < equal[2] / 2


def test_without_anything_that_speaks_for_it_it_waits_for_a_hand():
    def equal(rng, which):
        return {"held": 0.0, "tokens": rng.gauss(10, 1), "seconds_a_token": rng.gauss(1, 0.1)}

    assert fed(canary(), equal, 3000)[0] is None


def test_a_few_answers_decide_nothing():
    tried = canary(least=50)
    for _ in range(49):
        tried.count(1, reward=random.Random(0).gauss(0, 1))
        tried.count(2, reward=-100.0)
    assert tried.verdict() is None
    tried.count(1, reward=0.0)
    tried.count(2, reward=-100.0)
    assert tried.verdict()[0] == "rolled back"


def test_one_thumb_an_answer_counts_and_for_who_wrote_it():
    tried = canary()
    tried.wrote("a", 1)
    tried.wrote("b", 2)
    for answer in ("b", "b", "nobody's"):
        tried.hear(answer, thumb=1)
    measures = tried.told()["measures"]["thumbs"]
    assert (measures["present"]["count"], measures["candidate"]) == (0, {"count": 1, "mean": 1.0})


class Judge:
    """A reward model, as far as the server asks one."""

    def __init__(self, score):
        self.score_of = score

    def score(self, texts, answers=None):
        return [self.score_of(text) for text in texts]


@pytest.fixture(scope="module")
def lm(tiny_lm):
    return tiny_lm("llama")


@pytest.fixture
def folder(tiny_lm, tmp_path):
    tiny_lm("llama", seed=7).save(tmp_path / "other")
    return tmp_path / "other"


TERMS = {"share": 0.5, "least": 10, "margin": 0.5}
ASKED = {"model": "tiny", "prompt": "the", "max_tokens": 4, "logit_bias": {"1": -100}}


def asked_by_many(url, people, **more):
    def ask(person):
        return httpx.post(f"{url}/v1/completions", json=ASKED | {"user": f"p{person}"} | more, timeout=60).json()

    with ThreadPoolExecutor(8) as pool:
        return [*pool.map(ask, range(people))]


def deploy(url, folder, terms=TERMS):
    return httpx.post(f"{url}/admin/deploy", json={"source": str(folder), "canary": terms}, headers=ADMIN, timeout=60)


def history(url):
    return [
        (each["did"], each["version"]) for each in httpx.get(f"{url}/admin/versions", headers=ADMIN).json()["history"]
    ]


@pytest.mark.parametrize(("worth", "end"), [(-1.0, "rolled back"), (1.0, "promoted")])
def test_it_ends_without_a_hand(lm, folder, worth, end):
    """A candidate whose answers are worse, or better, by what the reward model says of their texts."""
    [usual] = Engine(lm).generate(
        [encode_prompt(lm.tokenizer, "the")], Sampling(max_new_tokens=4, temperature=0, logit_bias=((1, -100.0),))
    )
    rng = random.Random(0)

    def score(text):
        return rng.gauss(0 if text == "the" + usual.text else worth, 1)

    service = service_of(lm, reward=Panel([Judge(score)]))
    with listening(service, admin_keys=["admin"]) as url:
        told = deploy(url, folder).json()
        assert (told["live"]["version"], told["canary"]["version"], told["canary"]["share"]) == (1, 2, 0.5)
        tried = service.versions.canary.candidate.version.driver
        for _ in range(60):
            asked_by_many(url, 8, temperature=0)
            if service.versions.canary is None:
                break
        assert history(url) == [("canary", 2), (end, 2)]
        assert service.live.number == (1 if end == "rolled back" else 2)
        assert {answer["system_fingerprint"] for answer in asked_by_many(url, 8)} == {f"v{service.live.number}"}
        if end == "rolled back":
            tried._thread.join(10)
            assert not tried._thread.is_alive()


def test_one_that_breaks_is_rolled_back_at_once(lm, folder, monkeypatch):
    service = service_of(lm)
    with listening(service, admin_keys=["admin"]) as url:
        deploy(url, folder)
        engine = service.versions.canary.candidate.version.driver._engine
        monkeypatch.setattr(engine, "step", lambda: (_ for _ in ()).throw(RuntimeError("of the model")))
        found = asked_by_many(url, 16)
        broken = [answer for answer in found if "error" in answer]
        assert broken
        assert history(url)[-1] == ("rolled back", 2)
        why = httpx.get(f"{url}/admin/versions", headers=ADMIN).json()["history"][-1]["why"]
        assert why == "an answer could not be written: RuntimeError"
        assert all("choices" in answer for answer in asked_by_many(url, 16))


def test_by_hand(lm, folder):
    service = service_of(lm)
    with listening(service, admin_keys=["admin"]) as url:
        assert httpx.post(f"{url}/admin/promote", headers=ADMIN).status_code == 409
        deploy(url, folder)
        again = deploy(url, folder)
        assert (again.status_code, "version 2 is being tried" in again.json()["error"]["message"]) == (409, True)
        assert {answer["system_fingerprint"] for answer in asked_by_many(url, 20)} == {"v1", "v2"}
        assert httpx.post(f"{url}/admin/rollback", headers=ADMIN).json()["live"]["version"] == 1
        assert {answer["system_fingerprint"] for answer in asked_by_many(url, 20)} == {"v1"}
        deploy(url, folder)
        told = httpx.post(f"{url}/admin/promote", headers=ADMIN).json()
        assert (told["live"]["version"], told["before"]["version"], told["canary"]) == (3, 1, None)
        assert history(url) == [("canary", 2), ("rolled back", 2), ("canary", 3), ("promoted", 3)]


@pytest.mark.parametrize("share", [0, 1, -0.5, "x", None])
def test_a_share_that_is_none(lm, folder, share):
    with listening(service_of(lm), admin_keys=["admin"]) as url:
        answer = deploy(url, folder, {"share": share})
        assert answer.status_code == 400
        assert "share" in answer.json()["error"]["message"]


def test_what_people_say_of_answers_counts(lm, folder, tmp_path):
    """Thumbs down for the candidate and up for the present version, from feedback alone."""
    service = service_of(lm, store=Store(open_database(str(tmp_path / "f.db"))))
    with listening(service, admin_keys=["admin"]) as url:
        deploy(url, folder)
        for _ in range(40):
            for answer in asked_by_many(url, 8):
                thumb = "up" if answer["system_fingerprint"] == "v1" else "down"
                said = httpx.post(f"{url}/v1/feedback", json={"id": answer["id"], "index": 0, "thumb": thumb})
                assert said.status_code == 200
            if service.versions.canary is None:
                break
        last = httpx.get(f"{url}/admin/versions", headers=ADMIN).json()["history"][-1]
        assert (last["did"], last["why"].startswith("thumbs: -1 ")) == ("rolled back", True)


def test_what_began_with_it_ends_with_it(lm, folder):
    """Rolled back while it writes: the stream goes on to its end with the version it began with."""
    service = service_of(lm, Slow)
    with listening(service, admin_keys=["admin"]) as url, httpx.Client(base_url=url, timeout=60) as http:
        deploy(url, folder, {"share": 0.999})
        more = {"stream": True, "max_tokens": 30}
        with http.stream("POST", "/v1/completions", json=ASKED | more) as begun:
            lines = begun.iter_lines()
            first = next(lines)
            assert '"v2"' in first
            http.post("/admin/rollback", headers=ADMIN)
            rest = [line for line in lines if line.startswith("data: {")]
        assert all('"v2"' in line for line in rest)
        assert '"finish_reason":"length"' in rest[-1].replace(" ", "")


def test_the_command(lm, folder, tmp_path, monkeypatch, capsys):
    keys = tmp_path / "keys"
    keys.write_text("admin")
    with listening(service_of(lm, reward=Panel([Judge(len)])), admin_keys=["admin"]) as url:

        def kedge(*words):
            monkeypatch.setattr("sys.argv", ["kedge", "deploy", *words, "--to", url, "--admin-key-file", str(keys)])
            with pytest.raises(SystemExit) as stopped:
                cli.main()
            return stopped.value.code or 0, "".join(capsys.readouterr())

        assert "version 2 is tried on 50% of the people" in kedge(str(folder), "--canary", "0.5")[1]
        asked_by_many(url, 12)
        status, said = kedge("--status")
        assert status == 0
        assert "version 1 answers: first" in said
        assert "  tokens: 4 of " in said
        assert "last: version 2 promoted (by hand)" in kedge("--promote")[1]
        assert kedge("--promote")[0] == 2
        assert "one of them" in kedge("--status", "--rollback")[1]
        assert "a share between 0 and 1" in kedge(str(folder), "--canary", "1")[1]
