"""The page in a browser: every control, and what people and models may write into it."""

import json
import re
from contextlib import ExitStack
from dataclasses import replace

import httpx
import pytest
from browsing import HELD, fits, given, picture, say, seen, until
from listeners import Slow, listening, service_of

from kedge.data.encode import encode_prompt
from kedge.sampling.local.driver import Driver
from kedge.sampling.local.engine import Engine
from kedge.sampling.settings import Sampling
from kedge.serving.http.canary import Canary, Terms
from kedge.serving.http.page import FILES
from kedge.serving.http.versions import Version
from kedge.serving.people.store import Feedback, Store
from kedge.serving.people.tables import open_database

HOSTILE = (
    '<img src=x onerror="window.ran=1"></script><script>window.ran=1</script>'
    "<svg onload='window.ran=1'>javascript:window.ran=1 \u202egnp.exe\u202c &lt;b&gt; " + "W" * 100
)


# Without a browser ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lm(tiny_lm):
    return tiny_lm("llama")


@pytest.fixture(scope="module")
def endless(lm):
    """Writes as much as it may, whatever it draws."""
    return replace(lm, eos_ids=())


def test_the_files_need_no_key_and_nothing_from_outside(lm):
    with listening(service_of(lm), keys=["secret"], admin_keys=["admin"]) as url:
        names = sorted(path.name for path in FILES.iterdir())
        assert {"index.html", "main.js", "style.css"} <= {*names}
        found = set()
        for path in ("/", *(f"/page/{name}" for name in names)):
            answer = httpx.get(url + path)
            assert answer.status_code == 200, path
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "frame-ancestors 'none'" in policy
            assert "unsafe" not in policy
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["referrer-policy"] == "no-referrer"
            assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", answer.text), path
            found |= {*re.findall(r'"(?:\./|/page/)([a-z]+\.[a-z]+)"', answer.text)}
        assert found <= {*names}
        assert {"style.css", "main.js", "api.js", "chart.js"} <= found
        assert httpx.get(f"{url}/page/main.js").headers["content-type"].startswith("text/javascript")
        for path in ("/page/", "/page/nothing.js", "/page/..%2fhttp%2fgate.py", "/page/../http/gate.py", "/page/a/b"):
            assert httpx.get(url + path).status_code in (401, 404), path
        for path in ("/v1/models", "/admin/quality", "/page", "/docs"):
            assert httpx.get(url + path, follow_redirects=False).status_code == 401, path


# With one ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path):
    return Store(open_database(tmp_path / "page.db"))


def test_a_conversation(tab, endless, store):
    """Streamed; with thumbs, a correction and a comment of somebody, kept as they were given."""
    with listening(service_of(endless, Slow, store=store)) as url:
        page = tab(url, viewport={"width": 600, "height": 600})
        page.click("#settings summary")
        for name, value in {"annotator": "ann", "max_tokens": "14", "temperature": "0.5", "seed": "3"}.items():
            page.fill(f"[name={name}]", value)
        assert page.inner_text("#settings-now") == "temperature 0.5, max tokens 14, seed 3; ann"
        page.click("#settings summary")
        say(page, "the cat")
        page.wait_for_selector(".answer.writing:not(:empty)")
        first = page.inner_text(".answer")
        assert page.input_value("#question") == ""
        page.wait_for_selector(".opinion")
        assert page.is_hidden("#chat >> text=without --feedback")
        assert page.is_hidden("text=no chat template")
        text = page.text_content(".answer")
        assert 0 < len(first) < len(text)  # it came in pieces
        assert page.inner_text(".foot .version") == "v1"
        page.click("[data-thumb=up]")
        page.wait_for_selector("[data-thumb=up][aria-pressed=true]")
        page.click("[data-thumb=down]")
        page.wait_for_selector("[data-thumb=down][aria-pressed=true]")
        page.click(".opinion summary")
        page.click("text=Keep this")
        assert "nothing is said yet" in page.inner_text(".opinion output")
        page.fill("[name=correction]", "sat on the mat")
        page.fill("[name=comment]", "too short")
        page.click("text=Keep this")
        page.wait_for_selector(".opinion details:not([open])")
        say(page, "and then")
        page.wait_for_selector(".turn:nth-child(2) .opinion")
        bottom = "document.querySelector('.turn:last-child').getBoundingClientRect().bottom"
        assert page.evaluate(f"{bottom} <= document.querySelector('#ask').getBoundingClientRect().top")  # it is seen
        assert page.evaluate("document.scrollingElement.scrollHeight > innerHeight")
        rows = store.rows()
        assert [(row["thumb"], row["correction"], row["comment"]) for row in rows] == [
            (1, None, None), (0, None, None), (None, "sat on the mat", "too short"),
        ]  # fmt: skip
        assert {(row["annotator"], row["answer_person"], seen(row["answer_text"])) for row in rows} == {
            ("ann", "ann", text)
        }
        assert rows[0]["answer_sampling"]["temperature"] == 0.5
        assert rows[0]["answer_prompt"] == [{"role": "user", "content": "the cat"}]
        # The second question came with the first and its answer; a reload forgets nothing.
        page.fill("#question", "half a thou")
        page.reload()
        page.wait_for_selector(".turn:nth-child(2) .opinion")
        assert page.text_content(".answer") == text
        assert page.get_attribute("[data-thumb=down]", "aria-pressed") == "true"
        assert page.input_value("#question") == "half a thou"
        page.click(".turn:nth-child(2) [data-thumb=up]")
        until(lambda: store.counts()[1] == 4)
        prompt = store.rows()[-1]["answer_prompt"]
        assert [message["content"] for message in prompt] == ["the cat", rows[0]["answer_text"], "and then"]
        page.click("text=New conversation")
        assert page.query_selector(".turn") is None
        assert page.input_value("#question") == "half a thou"


def test_feedback_that_is_sent_again_is_kept_once(tab, lm, store):
    """The server has it, and the connection was lost before it said so."""
    failed = []

    def lost(route):
        answer = route.fetch()
        failed.append(answer.status)
        route.abort() if len(failed) == 1 else route.fulfill(response=answer)

    with listening(service_of(lm, store=store)) as url:
        page = tab(url, expected=["ERR_FAILED"], answers={"**/v1/feedback": lost})
        say(page, "the cat")
        page.click("[data-thumb=up]")
        page.wait_for_selector("text=Not kept: the connection was lost")
        assert page.get_attribute("[data-thumb=up]", "aria-pressed") == "false"
        page.click("[data-thumb=up]")
        page.wait_for_selector("[data-thumb=up][aria-pressed=true]")
        assert failed == [200, 200]
        assert store.counts() == (1, 1)


def test_stop_and_ask_again(tab, endless, store):
    service = service_of(endless, Slow, store=store)
    with listening(service) as url:
        page = tab(url)
        page.click("#settings summary")
        page.fill("[name=max_tokens]", "100")
        say(page, "the cat")
        page.wait_for_selector(".answer.writing:not(:empty)")
        say(page, "typed meanwhile")
        page.click("#stop")
        page.wait_for_selector("text=Stopped. What was not written")
        until(lambda: service.live.driver.writing == 0)
        assert page.text_content(".answer") != ""
        assert page.query_selector(".opinion") is None  # it was not kept
        assert page.input_value("#question") == "typed meanwhile"
        page.fill("[name=max_tokens]", "2")
        page.click("text=Ask again")
        page.wait_for_selector(".opinion, .note:has-text('as many tokens as it may')")
        assert page.locator(".turn").count() == 1
        page.fill("[name=max_tokens]", "0")  # which no request may have
        page.press("#question", "Enter")
        assert page.input_value("#question") == "typed meanwhile"
        assert page.locator(".turn").count() == 1


def test_a_dropped_connection_loses_nothing(tab, endless):
    with ExitStack() as first:
        url = first.enter_context(listening(service_of(endless, Slow), grace=0))
        page = tab(url, expected=["ERR_"])
        page.click("#settings summary")
        page.fill("[name=max_tokens]", "100")
        say(page, "the cat")
        page.wait_for_selector(".answer.writing:not(:empty)")
        page.fill("#question", "typed meanwhile")
    page.wait_for_selector("text=The connection was lost.")
    written = page.text_content(".answer")
    assert written != ""
    page.click("text=Ask again")  # nobody is there
    page.wait_for_selector("text=Ask again")
    assert page.text_content(".answer") == written
    assert page.input_value("#question") == "typed meanwhile"
    with listening(service_of(endless), port=int(url.rsplit(":", 1)[1])):
        page.fill("[name=max_tokens]", "4")
        page.click("text=Ask again")
        page.wait_for_selector("#chat-state:has-text('Written by v1')")
        assert page.query_selector("text=The connection was lost.") is None
        assert page.inner_text(".asked") == "the cat"


@pytest.mark.parametrize(
    ("end", "said"),
    [
        ("", "The connection was lost."),  # a proxy may end it as if it were whole
        (
            'data: {"error": {"message": "longer than <i>1</i> second"}}\n\ndata: [DONE]\n\n',
            "longer than <i>1</i> second",
        ),
    ],
)
def test_a_stream_without_its_end(tab, lm, end, said):
    choice = {"index": 0, "delta": {"content": "half"}, "finish_reason": None}
    begun = f"data: {json.dumps({'id': 'c', 'system_fingerprint': 'v1', 'choices': [choice]})}\n\n"
    broken = {"**/chat/completions": lambda route: route.fulfill(content_type="text/event-stream", body=begun + end)}
    with listening(service_of(lm)) as url:
        page = tab(url, answers=broken)
        say(page, "the cat")
        page.wait_for_selector(f"#turns >> text={said}")
        assert page.text_content(".answer") == "half"
        assert page.is_visible("text=Ask again")


def test_without_template_or_feedback(tab, tiny_lm, tiny_tokenizer):
    tokenizer = type(tiny_tokenizer)(tokenizer_object=tiny_tokenizer._tokenizer, pad_token="<pad>", eos_token="<eos>")
    with listening(service_of(tiny_lm("llama", tokenizer=tokenizer))) as url:
        page = tab(url)
        page.wait_for_selector("text=no chat template")
        page.wait_for_selector("#chat >> text=without --feedback")
        with page.expect_request("**/v1/completions") as asked:
            say(page, "the cat")
        assert asked.value.post_data_json["prompt"] == "the cat"
        page.wait_for_selector("#chat-state:has-text('Written by v1')")
        assert page.text_content(".answer") != ""
        assert page.query_selector(".opinion") is None


def test_what_does_not_fit_is_left_out(tab, endless):
    with listening(service_of(endless)) as url:
        page = tab(url, expected=["400"])
        say(page, "cat " * 40)
        page.wait_for_selector("#chat-state:has-text('Written')")
        say(page, "cat " * 100)
        page.wait_for_selector("text=The first 1 of what was said before no longer fit")


def test_a_key_is_asked_for(tab, lm):
    with listening(service_of(lm), keys=["secret"], admin_keys=["admin"]) as url:
        page = tab(url, expected=["401", "404"])
        page.wait_for_selector("#key")
        say(page, "the cat")
        page.wait_for_selector("#turns >> text=no key, or a wrong one")
        for key in ("wrong", "secret"):
            page.fill("#key input", key)
            page.press("#key input", "Enter")
            page.wait_for_selector("#key", state="visible" if key == "wrong" else "hidden")
        page.click("text=Ask again")
        page.wait_for_selector("#chat-state:has-text('Written by v1')")
        assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
        page.click("nav >> text=Board")
        page.wait_for_selector("#admin-key")
        page.fill("#admin-key input", "admin")
        page.press("#admin-key input", "Enter")
        page.wait_for_selector("#versions >> text=Answers now")
        assert page.is_hidden("#admin-key")
        page.click("nav >> text=Chat")
        say(page, "still with the other key")
        page.wait_for_selector(".turn:nth-child(2) .version")


COIN = """() => {
const real = crypto.getRandomValues.bind(crypto);
window.coin = 0;
crypto.getRandomValues = (into) => into.length === 1 ? into.fill(window.coin) : real(into);
}"""


def test_two_answers_by_keyboard(tab, lm, store):
    """What was preferred is what the database says, on whichever side it stood."""
    with listening(service_of(lm, store=store)) as url:
        page = tab(url, "compare")
        page.evaluate(COIN)
        page.click("text=A list of prompts")
        page.set_input_files("#list-file", {
            "name": "prompts.txt", "mimeType": "text/plain", "buffer": b"the cat\n\na dog\nred\nonce\nthe mat\n",
        })  # fmt: skip
        until(lambda: page.input_value("#list-text") != "")
        page.click("text=Begin with the first")
        chosen = []
        ready = ".pair article:nth-child(1) button:enabled"
        for coin, key, side in ((0, "ArrowLeft", 1), (1, "ArrowRight", 2), (0, "2", 2), (1, "1", 1)):
            page.wait_for_selector(ready)
            texts = [page.text_content(f".pair article:nth-child({each}) .text") for each in (side, 3 - side)]
            chosen.append((page.text_content("#pair-asked"), *texts))
            page.fill("#pair-comment", f"because of {coin}")
            page.press("#pair-comment", "1")  # which is text there, and no choice
            page.evaluate(f"window.coin = {[1, 0, 1, 0][len(chosen) - 1]}")
            page.evaluate("document.querySelector('#pair').focus()")
            page.keyboard.press(key)
            enough = len(chosen)
            until(lambda enough=enough: store.counts()[1] == enough)
        rows = store.rows()
        kept = [(row["answer_prompt"][0]["content"], row["answer_text"], row["worse_text"]) for row in rows]
        assert [tuple(map(seen, each)) for each in kept] == chosen
        assert [prompt for prompt, *_ in chosen] == ["the cat", "a dog", "red", "once"]
        # Left with coin 0 is answer 0, right with coin 1 too; right with 0 and left with 1 are answer 1.
        assert [row["answer"].rsplit(":")[-1] for row in rows] == ["0", "0", "1", "1"]
        assert [row["comment"] for row in rows] == ["because of 01", "because of 11", "because of 01", "because of 11"]
        page.wait_for_selector(ready)
        page.keyboard.press("t")
        until(lambda: store.counts()[1] == 5)
        tie = store.rows()[-1]
        assert (tie["worse"], tie["thumb"], tie["comment"]) == (None, None, "tie of both answers")
        page.wait_for_selector("#pair", state="hidden")
        page.fill("#pair-prompt", "one more")
        page.press("#pair-prompt", "Enter")
        page.wait_for_selector(ready)
        page.keyboard.press("s")
        page.wait_for_selector("#pair", state="hidden")
        page.fill("#pair-prompt", "by mouse")
        page.click("text=Two answers")
        page.wait_for_selector(ready)
        text = page.text_content(".pair article:nth-child(2) .text")
        page.click(".pair article:nth-child(2) button")
        until(lambda: store.counts()[1] == 6)
        assert seen(store.rows()[-1]["answer_text"]) == text
        # Alike: there is nothing to choose.
        page.click("#settings summary")
        page.fill("[name=temperature]", "0")
        page.fill("#pair-prompt", "the cat")
        page.press("#pair-prompt", "Enter")
        page.wait_for_selector("text=Both are the same")
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("s")
        assert store.counts()[1] == 6


def test_hostile_text_stays_text(tab, scripted, tiny_tokenizer, lm, store):
    """In questions, answers, names, comments, corrections, reasons and paths; at 320 pixels all of it fits."""
    prompt = encode_prompt(tiny_tokenizer, [{"role": "user", "content": HOSTILE}])
    service = service_of(scripted(prompt, HOSTILE), store=store)
    service.name = HOSTILE
    service.versions.before = Version(0, HOSTILE, lm, Driver(Engine(lm)), Sampling(max_new_tokens=4))
    held = [HELD[0] | {"rule": HOSTILE, "reason": HOSTILE}]
    store.keep(given("h:0", source=HOSTILE, text=HOSTILE, held=held, told=HOSTILE + "!"))
    store.take(Feedback("h:0", thumb=1)).result(10)
    tried = Version(2, HOSTILE, lm, Driver(Engine(lm)), Sampling(max_new_tokens=4))
    service.versions.canary = Canary(service.live, tried, Terms(share=1e-12))
    service.versions._note("canary", tried, HOSTILE)
    with listening(service, admin_keys=["admin"]) as url:
        page = tab(url, viewport={"width": 320, "height": 640})
        page.evaluate("sessionStorage.setItem('kedge.admin-key', '\"admin\"')")
        page.click("#settings summary")
        page.fill("[name=annotator]", HOSTILE[:250])
        page.fill("[name=max_tokens]", "1000")
        page.click("#settings summary")
        say(page, HOSTILE)
        page.wait_for_selector(".opinion")
        assert page.text_content(".answer") == seen(HOSTILE)
        assert page.text_content(".turn > .asked") == seen(HOSTILE)
        page.click(".opinion summary")
        page.fill("[name=correction]", HOSTILE + "!")
        page.fill("[name=comment]", HOSTILE)
        page.click("text=Keep this")
        page.wait_for_selector(".opinion details:not([open])")
        said = store.rows()[-1]
        assert (said["comment"], said["correction"], said["annotator"]) == (HOSTILE, HOSTILE + "!", HOSTILE[:250])
        assert said["answer_text"] == HOSTILE
        assert fits(page)
        page.click("nav >> text=Compare")
        page.fill("#pair-prompt", HOSTILE)
        page.press("#pair-prompt", "Enter")
        page.wait_for_selector("text=Both are the same")
        assert page.text_content(".pair .text >> nth=0") == seen(HOSTILE)
        page.click("text=A list of prompts")
        assert fits(page)
        page.click("nav >> text=Review")
        page.wait_for_selector("#queue .answer")
        assert page.text_content("#queue .answer") == seen(HOSTILE)
        assert page.text_content("#queue .told") == seen(HOSTILE + "!")
        page.click("#queue summary")
        assert fits(page)
        page.click("nav >> text=Board")
        page.wait_for_selector("#quality table")
        page.wait_for_selector("#versions article:nth-child(2)")
        page.click("#history summary")
        picture(page, "board-320")
        assert fits(page)
        page.click("#rollback")
        assert fits(page)
        page.click("#confirm-no")
        assert page.locator("img, main script, main svg[onload]").count() == 0


def test_all_of_it_by_keyboard(tab, lm):
    """Every control has a name, and Tab reaches it."""
    with listening(service_of(lm)) as url:
        page = tab(url)
        page.wait_for_selector("text=without --feedback")
        reached = []
        for _ in range(14):
            page.keyboard.press("Tab")
            reached.append(page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()"))
        for each in ("To the content", "Chat", "Compare", "Review", "Board", "question", "send"):
            assert each in reached
        unnamed = page.evaluate("""[...document.querySelectorAll('input, textarea, select, button')]
            .filter((each) => !each.labels?.length && !each.textContent.trim() && !each.ariaLabel)
            .map((each) => each.outerHTML)""")
        assert unnamed == []
