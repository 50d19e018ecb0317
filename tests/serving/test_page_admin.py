"""The page for whoever keeps the server: what waits for review, versions, quality."""

import re
import time
from dataclasses import replace

import httpx
import pytest
from browsing import HELD, given, picture, until
from listeners import listening, service_of

from kedge.data.encode import encode_prompt
from kedge.sampling.local.driver import Driver
from kedge.sampling.local.engine import Engine
from kedge.sampling.settings import Sampling
from kedge.serving.guard.guard import Guard
from kedge.serving.guard.rules import Rules
from kedge.serving.http.versions import Version
from kedge.serving.people.store import Feedback, Store
from kedge.serving.people.tables import open_database


@pytest.fixture(scope="module")
def lm(tiny_lm):
    return tiny_lm("llama")


@pytest.fixture(scope="module")
def endless(lm):
    """Writes as much as it may, whatever it draws."""
    return replace(lm, eos_ids=())


@pytest.fixture
def store(tmp_path):
    return Store(open_database(tmp_path / "page.db"))


def ask(url, prompt="the cat", **more):
    asked = {"model": "tiny", "prompt": prompt, "max_tokens": 12, "seed": 3} | more
    return httpx.post(f"{url}/v1/completions", json=asked).json()["choices"][0]["text"]


def test_the_review_queue(tab, scripted, tiny_tokenizer, store):
    """What the guard acted on, as it is and as it was given, before what the reward models disagree about."""
    service = service_of(scripted(encode_prompt(tiny_tokenizer, "the cat"), "sat on the red mat"), store=store)
    colour = {"name": "colour", "on": "answer", "words": ["red"], "do": "replace", "message": "***"}
    cat = {"name": "cats", "on": "prompt", "words": ["cat"], "do": "review"}
    service.guard = Guard(Rules(rule=[colour, cat]))
    store.keep(given("cmpl-9:1", text="Hm."))
    store.measured("cmpl-9:1", 2.125)
    fails = [1]

    def busy(route):
        if route.request.method == "POST" and fails:
            fails.pop()
            route.fulfill(status=503, json={"error": {"message": "the database is busy"}})
        else:
            route.continue_()

    with listening(service, admin_keys=["admin"]) as url:
        assert ask(url) == "sat on the *** mat"
        until(lambda: store.awaiting_review(9)[1] == 2)
        page = tab(url, expected=["503", "409"], answers={"**/admin/review/*/*": busy})
        page.evaluate("sessionStorage.setItem('kedge.admin-key', '\"admin\"')")
        page.click("#settings summary")
        page.fill("[name=annotator]", "ann")
        page.click("nav >> text=Review")
        page.wait_for_selector("#queue article >> nth=1")
        picture(page, "review")
        assert page.locator("#queue .why").all_inner_texts() == ["The guard acted", "The reward models disagree: 2.125"]
        reasons = page.locator("#queue li").all_inner_texts()
        assert len(reasons) == 2
        assert any(each.startswith("colour (replace, on the answer): ") for each in reasons)
        assert any(each.startswith("cats (review, on the prompt): ") for each in reasons)
        assert page.locator("#queue .answer").all_inner_texts() == ["sat on the red mat", "Hm."]
        assert page.locator("#queue .told").all_inner_texts() == ["sat on the *** mat"]
        assert page.locator("#queue .version").all_inner_texts() == ["v1", "v1"]
        assert str(time.gmtime().tm_year) in page.inner_text("#queue time >> nth=0")
        assert "null" not in page.inner_text("#queue")
        page.click("#queue article:nth-child(1) >> text=It is bad")
        page.wait_for_selector("text=Not kept: the database is busy")
        page.click("#queue article:nth-child(1) summary")
        page.fill("#queue article:nth-child(1) textarea", "lay down")
        page.click("#queue article:nth-child(1) >> text=It is bad")
        page.wait_for_selector("#queue article:nth-child(2)", state="detached")
        [said] = store.rows()
        assert (said["thumb"], said["correction"], said["annotator"], said["review"]) == (0, "lay down", "ann", 1)
        assert said["answer_told"] == "sat on the *** mat"
        store.review(Feedback("cmpl-9:1", thumb=1)).result(10)  # meanwhile, by somebody else
        page.click("#queue >> text=It is good")
        page.wait_for_selector("text=Somebody else has said it before you.")
        page.wait_for_selector("text=Nothing is waiting.")
        for number in range(21):
            store.keep(given(f"more-{number}:0", held=HELD))
        until(lambda: store.awaiting_review(9)[1] == 21)
        page.click("#review-again")
        page.wait_for_selector("text=These are the first of 21.")
        assert page.locator("#queue article").count() == 20


def test_views_that_are_not_there(tab, lm):
    with listening(service_of(lm)) as url:
        page = tab(url, "review", expected=["404"])
        page.wait_for_selector("text=There is no queue here")
        page.click("nav >> text=Board")
        page.wait_for_selector("text=start the server with --admin-key-file")
        page.wait_for_selector("text=Nobody's opinion is kept")
        assert page.is_hidden("#rollback")


def with_two_versions(lm, store, source="runs/before"):
    service = service_of(lm, store=store)
    service.versions.before = Version(0, source, lm, Driver(Engine(lm)), Sampling(max_new_tokens=4))
    return service


def test_the_board(tab, lm, store):
    for number, (days, version) in enumerate(((2, 1), (1, 1), (1, 2), (0, 2), (40, 1))):
        store.keep(given(f"a{number}:0", days=days, version=version, tokens=3 + number))
        store.take(Feedback(f"a{number}:0", thumb=number % 2, score=float(number))).result(10)
    service = with_two_versions(lm, store)
    with listening(service, admin_keys=["admin"]) as url:
        page = tab(url)
        page.evaluate("sessionStorage.setItem('kedge.admin-key', '\"admin\"')")
        page.click("nav >> text=Board")
        page.wait_for_selector("#quality table")
        cards = page.locator("#versions article").all_inner_texts()
        assert [card.split("\n")[0] for card in cards] == ["Answers now", "The one before"]
        assert page.is_hidden("#promote")
        assert page.locator("#quality tbody tr").count() == 4
        newest = page.locator("#quality tbody tr >> nth=0").locator("td").all_inner_texts()
        assert newest[1:] == ["v2", "first", "1", "6", "1", "0", "3", "1", "0", "0", "0", "0"]
        assert page.locator(".charts figcaption").all_inner_texts() == [
            "Thumbs that are up", "Mean score", "Tokens of an answer", "Answers",
        ]  # fmt: skip
        titles = page.locator(".charts figure:nth-child(2) title").all_text_contents()
        assert sorted(title[:8] for title in titles) == ["v1 · fir"] * 2 + ["v2 · fir"] * 2
        assert [title.rsplit(": ")[1] for title in titles] == ["0 of 1", "1 of 1", "2 of 1", "3 of 1"]
        page.select_option("#days", "90")
        page.wait_for_selector("#quality tbody tr >> nth=4")
        page.click("#rollback")
        assert "v0 (runs/before)" in page.inner_text("#confirm-text")
        page.click("text=Leave it as it is")
        assert service.live.number == 1
        page.click("#rollback")
        page.click("#confirm-yes")
        page.wait_for_selector("text=v0 answers now.")
        assert service.live.number == 0
        page.click("#board-again")
        page.wait_for_selector("#versions article:nth-child(1) >> text=runs/before")


def test_a_version_on_trial(tab, lm, store, tmp_path):
    """Its measures beside the present one's; let answer everybody, and ended, and what was changed in between."""
    lm.save(tmp_path / "new")
    service = service_of(lm, store=store)
    with listening(service, admin_keys=["admin"]) as url:

        def try_it():
            trial = {"source": str(tmp_path / "new"), "canary": {"share": 0.5}}
            answer = httpx.post(
                f"{url}/admin/deploy", json=trial, headers={"Authorization": "Bearer admin"}, timeout=60
            )
            assert answer.status_code == 200

        try_it()
        for number in range(12):
            ask(url, user=f"person {number}", max_tokens=3)
        counts = [
            arm.moments["tokens"].count for arm in (service.versions.canary.present, service.versions.canary.candidate)
        ]
        assert sum(counts) == 12
        assert all(counts)
        page = tab(url, expected=["404"])
        page.evaluate("sessionStorage.setItem('kedge.admin-key', '\"admin\"')")
        page.click("nav >> text=Board")
        page.wait_for_selector("#canary table")
        picture(page, "board")
        assert page.locator("#versions .cards article h3").all_inner_texts() == ["Answers now"]
        assert "50% of the people" in page.inner_text("#canary .note")
        assert page.locator("#canary tbody th").all_inner_texts() == [
            "Reward", "Thumbs that are up", "Held by the guard", "Tokens of an answer", "Seconds a token",
        ]  # fmt: skip
        tokens = page.locator("#canary tbody tr >> nth=3").locator("td").all_inner_texts()
        assert [each.split()[1] for each in tokens[:2]] == [f"({count})" for count in counts]
        assert re.fullmatch(r"[+-]?[\d.e+-]+ to [+-]?[\d.e+-]+", tokens[2])
        assert page.locator("#canary tbody tr >> nth=0").locator("td").all_inner_texts() == ["", "", ""]
        page.click("#promote")
        assert f"v2 ({tmp_path}/new) answers everybody instead of v1 (first)" in page.inner_text("#confirm-text")
        page.click("#confirm-no")
        assert service.live.number == 1
        page.click("#promote")
        page.click("#confirm-yes")
        page.wait_for_selector("text=v2 answers now.")
        assert service.live.number == 2
        assert page.is_hidden("#promote")
        page.click("#history summary")
        changes = page.locator("#history li").all_inner_texts()
        assert ["promoted" in changes[0], "canary" in changes[1]] == [True, True]
        assert str(time.gmtime().tm_year) in changes[0]
        # A trial that ends between the question and the answer: what is confirmed is no longer what would be done.
        try_it()
        page.click("#board-again")
        page.wait_for_selector("#canary table")
        page.click("#rollback")
        assert "v2 (" in page.inner_text("#confirm-text")
        httpx.post(f"{url}/admin/promote", headers={"Authorization": "Bearer admin"})
        page.click("#confirm-yes")
        page.wait_for_selector("text=Nothing was done")
        assert service.live.number == 3
        try_it()
        page.click("#board-again")
        page.wait_for_selector("#canary table")
        page.click("#rollback")
        page.click("#confirm-yes")
        page.wait_for_selector("text=v3 answers now.")
        assert service.versions.canary is None
        assert service.versions.history[-1]["did"] == "rolled back"
