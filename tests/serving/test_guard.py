"""What the guard does, as clients see it."""

import hashlib
import json
import re
import threading
import time
from pathlib import Path

import httpx
import pytest
from listeners import listening, service_of

from kedge.data.encode import encode_prompt
from kedge.errors import ConfigError, StorageError
from kedge.sampling.local.engine import Engine
from kedge.sampling.settings import Sampling
from kedge.serving.guard.audit import AuditLog, check_audit
from kedge.serving.guard.guard import Guard
from kedge.serving.guard.rules import Rules, read_rules
from kedge.serving.http.run import load_service

CHAT = [{"role": "user", "content": "the cat"}]
ASKED = {"model": "tiny", "prompt": "the cat", "max_tokens": 30, "seed": 3, "logit_bias": {"1": -100}}
SAMPLING = Sampling(max_new_tokens=30, logit_bias=((1, -100.0),))
ADMIN = {"Authorization": "Bearer admin"}


@pytest.fixture(scope="module")
def lm(tiny_lm):
    return tiny_lm("llama")


@pytest.fixture(scope="module")
def written(lm):
    """What the model writes of its own: answers to ``ASKED``."""
    ids = encode_prompt(lm.tokenizer, "the cat")
    return [Engine(lm).generate([ids], SAMPLING, seed=3, first_request=i)[0].text for i in range(3)]


def rule(**said):
    return {"name": "r", "do": "block"} | said


@pytest.fixture
def guarded(lm, tmp_path):
    """From rules to the address of a server that has them."""
    opened = []

    def make(*rules, engine=Engine, store=None, **settings):
        log = AuditLog(tmp_path / "audit.jsonl")
        guard = Guard(Rules(rule=rules, **settings), log)
        opened.append(listening(service_of(lm, engine, guard=guard, store=store), admin_keys=["admin"]))
        return opened[-1].__enter__()

    yield make
    for each in opened:
        each.__exit__(None, None, None)


@pytest.fixture
def audited(tmp_path):
    """The log's lines so far."""

    def read():
        check_audit(tmp_path / "audit.jsonl")
        return [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]

    return read


def ask(url, route="completions", **more):
    return httpx.post(f"{url}/v1/{route}", json=ASKED | more, timeout=30)


def chat(url, messages, **more):
    asked = {key: value for key, value in ASKED.items() if key != "prompt"} | {"messages": messages} | more
    return httpx.post(f"{url}/v1/chat/completions", json=asked, timeout=30)


def choices(answer):
    return [choice["text"] for choice in answer.json()["choices"]]


def streamed(answer):
    """``(text, finish reason)`` of each choice of a stream, and its pieces."""
    events = [json.loads(part[6:]) for part in answer.text.split("\n\n") if part.startswith("data: {")]
    pieces = [choice for event in events for choice in event["choices"]]
    n = 1 + max(piece["index"] for piece in pieces)
    return [
        (
            "".join(piece["text"] for piece in pieces if piece["index"] == i),
            [piece["finish_reason"] for piece in pieces if piece["index"] == i][-1],
        )
        for i in range(n)
    ], pieces


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()


# Prompts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": "build a Bomb"}],
        [{"role": "user", "content": [{"type": "text", "text": "a bo"}, {"type": "text", "text": "mb"}]}],
        [{"role": "system", "content": "bomb"}, *CHAT],
        [*CHAT, {"role": "assistant", "content": "a bomb"}, *CHAT],
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_is_blocked(guarded, audited, messages, stream):
    url = guarded(rule(name="arms", on="prompt", words=["bomb"], message="not here"))
    answer = chat(url, messages, stream=stream, user="eve")
    assert answer.status_code == 400
    assert answer.json()["error"] == {
        "message": "messages: stopped by the rule 'arms': not here", "type": "invalid_request_error",
        "param": "messages", "code": "content_filter",
    }  # fmt: skip
    [line] = audited()
    assert (line["rule"], line["on"], line["did"], line["reason"]) == ("arms", "prompt", "block", "words found")
    assert line["user"] == digest("eve")
    assert "bomb" not in json.dumps(line).lower()
    assert line["id"].startswith("chatcmpl-")
    assert line["version"] == 1


def test_every_prompt_is_looked_at(guarded, lm):
    url = guarded(rule(on="prompt", pattern="b.mb"))
    for prompt in (
        "a bomb",
        ["the", "a bomb"],
        lm.tokenizer("a bomb").input_ids,
        [[5], lm.tokenizer("bomb").input_ids],
    ):
        answer = ask(url, prompt=prompt)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "content_filter"), prompt
    assert ask(url, prompt="a bo mb").status_code == 200
    assert ask(url, prompt=[10**6]).json()["error"]["code"] == "invalid_value"


def test_special_tokens_hide_nothing(guarded, lm):
    url = guarded(rule(on="prompt", words=["bomb"]))
    bo, mb = lm.tokenizer("bo").input_ids, lm.tokenizer("mb").input_ids
    assert lm.tokenizer.decode([*bo, *mb]) == "bomb"
    assert ask(url, prompt=[*bo, 1, *mb]).json()["error"]["code"] == "content_filter"
    assert ask(url, prompt="bo<eos>mb").json()["error"]["code"] == "content_filter"
    assert chat(url, [{"role": "user", "content": "b<|user|>omb"}]).json()["error"]["code"] == "content_filter"


def test_special_tokens_stay_where_nothing_is_found(guarded, lm):
    url, asked = guarded(rule(on="prompt", words=["bomb"])), ASKED | {"prompt": "the<eos>cat"}
    with listening(service_of(lm)) as plain:
        assert choices(ask(url, **asked)) == choices(ask(plain, **asked))


def test_a_prompt_that_is_replaced_is_what_is_answered(guarded, lm, written):
    url = guarded(rule(on="prompt", words=["dog"], do="replace", message="cat"))
    assert choices(ask(url, prompt="the dog")) == written[:1]
    assert choices(ask(url, prompt=lm.tokenizer("the dog").input_ids)) == written[:1]
    plain = chat(url, CHAT).json()["choices"]
    assert chat(url, [{"role": "user", "content": "the DOG"}]).json()["choices"] == plain
    parts = [{"type": "text", "text": "the do"}, {"type": "text", "text": "g"}]
    assert chat(url, [{"role": "user", "content": parts}]).json()["choices"] == plain


def test_rules_on_answers_look_at_no_prompts(guarded, written):
    url = guarded(rule(on="answer", words=["cat food"]), rule(name="s", on="prompt", pattern=re.escape(written[0])))
    assert choices(ask(url, prompt="the cat food"))
    assert choices(ask(url)) == written[:1]


# Answers ----------------------------------------------------------------------------------------------------------


def parts_of(text):
    """Something in the middle of a text that stands in it once."""
    for size in range(3, 9):
        for start in range(len(text) // 2, len(text) - size):
            if text.count(part := text[start : start + size]) == 1 and part.strip() == part:
                return part
    raise AssertionError(text)


def test_an_answer_that_is_blocked(guarded, audited, written):
    part = parts_of(written[1])
    assert all(part.lower() not in other.lower() for other in (written[0], written[2]))
    url = guarded(rule(name="x", on="answer", pattern=re.escape(part), message="[no]"))
    told = ask(url, n=3, logprobs=2, user="eve").json()
    assert [choice["text"] for choice in told["choices"]] == [written[0], "[no]", written[2]]
    assert [choice["finish_reason"] for choice in told["choices"]] == ["length", "content_filter", "length"]
    assert [choice["logprobs"] is None for choice in told["choices"]] == [False, True, False]
    [line] = audited()
    assert (line["id"], line["did"], line["matched"]) == (f"{told['id']}:1", "block", digest(part))
    assert part not in json.dumps(line)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_is_replaced(guarded, audited, written, whole, stream):
    part = parts_of(written[0])
    url = guarded(rule(on="answer", pattern=re.escape(part), do="replace", message="***", whole=whole), hold="answer")
    want = "***" if whole else re.sub(re.escape(part), "***", written[0], flags=re.IGNORECASE)
    end = "content_filter" if whole else "length"
    answer = ask(url, stream=stream, logprobs=1)
    if stream:
        [told], pieces = streamed(answer)
        assert told == (want, end)
        assert all(piece["logprobs"] is None for piece in pieces)
    else:
        [choice] = answer.json()["choices"]
        assert (choice["text"], choice["finish_reason"], choice["logprobs"]) == (want, end, None)
    assert [line["did"] for line in audited()] == ["replace"]


@pytest.mark.parametrize("form", ["completions", "chat"])
def test_a_stream_is_what_no_stream_would_be(guarded, written, form):
    """In pieces of a token each, and well before the end."""
    part = parts_of(written[0])
    url = guarded(rule(on="answer", pattern=re.escape(part), do="replace", message="***"), hold=len(part) + 1)
    if form == "chat":
        whole = chat(url, CHAT, n=3).json()["choices"]
        events = [json.loads(e[6:]) for e in chat(url, CHAT, n=3, stream=True).text.split("\n\n") if e[:7] == "data: {"]
        for i in range(3):
            mine = [c for event in events for c in event["choices"] if c["index"] == i]
            assert "".join(c["delta"].get("content", "") for c in mine) == whole[i]["message"]["content"]
            assert mine[-1]["finish_reason"] == whole[i]["finish_reason"]
        return
    whole = ask(url, n=3)
    told, pieces = streamed(ask(url, n=3, stream=True))
    assert told == [(choice["text"], choice["finish_reason"]) for choice in whole.json()["choices"]]
    assert "***" in told[0][0]
    assert part not in told[0][0]
    assert len([piece for piece in pieces if piece["index"] == 0]) > 5


def test_a_stream_that_is_blocked_ends_there(guarded, audited, written):
    class Slow(Engine):
        def step(self):
            time.sleep(0.02)
            return super().step()

    part = parts_of(written[0])
    url = guarded(rule(on="answer", pattern=re.escape(part), message="[no]"), hold=len(part) + 1, engine=Slow)
    [(text, end)], _ = streamed(ask(url, stream=True, max_tokens=100))
    assert end == "content_filter"
    assert text.endswith("[no]")
    assert written[0][: written[0].lower().index(part.lower())].startswith(text.removesuffix("[no]"))
    assert len(text) > len("[no]")
    page = httpx.get(f"{url}/metrics").text
    assert float(re.search(r"^kedge_answer_tokens_total (.*)$", page, re.MULTILINE)[1]) < 60
    assert [line["did"] for line in audited()] == ["block"]
    assert choices(ask(url)) == ["[no]"]


def test_log_probabilities_come_with_their_text_or_not_at_all(guarded, written):
    url = guarded(rule(on="answer", words=["nosuchword"]), hold=12)
    told, pieces = streamed(ask(url, stream=True, logprobs=1))
    assert told[0][0] == written[0]
    [whole] = ask(url, logprobs=1).json()["choices"]
    assert [t for piece in pieces for t in piece["logprobs"]["tokens"]] == whole["logprobs"]["tokens"]
    assert [len(piece["text"]) > 0 for piece in pieces] == [True, False]


def test_stop_strings_are_no_part_of_an_answer(guarded, written):
    part = parts_of(written[0])
    url = guarded(rule(on="answer", pattern=re.escape(part)), hold=100)
    cut = written[0][: written[0].index(part)]
    assert choices(ask(url, stop=part)) == [cut]
    assert streamed(ask(url, stop=part, stream=True))[0] == [(cut, "stop")]


def test_review_delivers_it_and_notes_it(guarded, audited, written):
    url = guarded(rule(on="answer", pattern=".", do="review"), rule(name="p", on="prompt", words=["cat"], do="review"))
    answer = ask(url, logprobs=1)
    assert choices(answer) == written[:1]
    assert answer.json()["choices"][0]["logprobs"] is not None
    assert [(line["rule"], line["on"], line["did"]) for line in audited()] == [
        ("p", "prompt", "review"), ("r", "answer", "review"),
    ]  # fmt: skip


# Rewards ----------------------------------------------------------------------------------------------------------


def long(completions, **_):
    return [float(len(str(each))) for each in completions]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("test", "stops"),
    [({"above": 5}, True), ({"above": 5000}, False), ({"below": 5}, False), ({"below": 5000.0}, True)],
)
def test_a_reward_judges_whole_answers(guarded, audited, written, test, stops, stream):
    url = guarded(rule(on="answer", reward=long, message="[no]", **test), hold=1)
    answer = ask(url, stream=stream, logprobs=1)
    told = streamed(answer)[0][0] if stream else (choices(answer)[0], answer.json()["choices"][0]["finish_reason"])
    assert told == (("[no]", "content_filter") if stops else (written[0], "length"))
    lines = audited()
    assert len(lines) == stops
    if stops:
        [(where, threshold)] = test.items()
        assert lines[0]["reason"] == f"long: {len(written[0])} is {where} {threshold:g}"
        assert lines[0]["matched"] == digest(written[0])


def test_a_reward_judges_prompts_by_themselves(guarded, audited):
    seen = []

    def judge(prompts, completions, **_):
        seen.append((prompts, completions))
        return [-1.0 if "bomb" in each else 1.0 for each in completions]

    url = guarded(rule(on="prompt", reward=judge, below=0))
    assert chat(url, [{"role": "system", "content": "bomb"}, *CHAT]).json()["error"]["code"] == "content_filter"
    assert chat(url, CHAT).status_code == 200
    assert seen == [([""], ["bomb\nthe cat"]), ([""], ["the cat"])]


def test_rewards_of_the_library(guarded):
    url = guarded(rule(on="both", reward={"kind": "toxicity"}, below=-0.5))
    assert ask(url, prompt="you 1d1ot").json()["error"]["code"] == "content_filter"
    assert ask(url, prompt="the cat").status_code == 200


def broken(completions, **_):
    raise RuntimeError(f"could not read {completions[0]}")


@pytest.mark.parametrize(("on_error", "blocked"), [("block", True), ("pass", False)])
@pytest.mark.parametrize("slow", [False, True])
def test_a_reward_that_fails(guarded, audited, written, caplog, on_error, blocked, slow):
    """Its decision is the rule's, and the log has no text."""
    gone = threading.Event()

    def hangs(completions, **_):
        gone.wait(20)
        return [0.0]

    reward, seconds = (hangs, 0.3) if slow else (broken, 60)
    url = guarded(rule(on="answer", reward=reward, below=0, on_error=on_error, message="[no]"), seconds=seconds)
    assert choices(ask(url)) == ["[no]" if blocked else written[0]]
    gone.set()
    [line] = audited()
    assert line["did"] == on_error
    assert line["reason"] == (
        "the test failed: it took longer than 0.3 seconds"
        if slow
        else "the test failed: RuntimeError; the server's log says more"
    )
    assert written[0] not in json.dumps(line)
    assert slow or any("guard rule 'r' could not judge: RuntimeError" in record.message for record in caplog.records)


def test_while_a_reward_thinks_others_are_answered(guarded):
    thinking, go = threading.Event(), threading.Event()

    def slow(completions, **_):
        thinking.set()
        assert go.wait(20)
        return [1.0] * len(completions)

    url, told = guarded(rule(on="answer", reward=slow, below=0)), []
    thread = threading.Thread(target=lambda: told.append(choices(ask(url))))
    thread.start()
    assert thinking.wait(20)
    assert httpx.get(f"{url}/health", timeout=2).status_code == 200
    go.set()
    thread.join(20)
    assert told


def test_answers_are_judged_together_and_one_that_breaks_harms_no_other(guarded, written):
    calls, first = [], threading.Event()

    def some(completions, **_):
        calls.append(len(completions))
        if len(calls) == 1:
            first.wait(1.0)
        if any(each == written[1] for each in completions):
            raise RuntimeError
        return [1.0] * len(completions)

    url = guarded(rule(on="answer", reward=some, below=0, message="[no]"))
    assert choices(ask(url, n=3)) == [written[0], "[no]", written[2]]
    assert max(calls) > 1


# What is kept -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_nothing_is_told_that_could_not_be_noted(guarded, written, monkeypatch, stream):
    url = guarded(rule(on="answer", pattern=".", do="review"))

    def full(*_):
        raise StorageError("full")

    monkeypatch.setattr(AuditLog, "write", full)
    answer = ask(url, stream=stream)
    assert written[0][:5] not in answer.text
    assert "what the guard decided cannot be written down" in answer.text
    assert stream or answer.status_code == 503


def test_the_head_and_the_metrics(guarded, audited):
    url = guarded(rule(name="arms", on="prompt", words=["bomb"]))
    assert httpx.get(f"{url}/admin/audit", headers=ADMIN).json() == {"head": "0" * 64, "count": 0}
    ask(url, prompt="bomb")
    [line] = audited()
    assert httpx.get(f"{url}/admin/audit", headers=ADMIN).json() == {"head": line["hash"], "count": 1}
    assert httpx.get(f"{url}/admin/audit").status_code == 401
    page = httpx.get(f"{url}/metrics").text
    assert 'kedge_guard_decisions_total{did="block",on="prompt",rule="arms"} 1.0' in page


def test_without_one_there_is_no_log(lm):
    with listening(service_of(lm), admin_keys=["admin"]) as url:
        assert httpx.get(f"{url}/admin/audit", headers=ADMIN).json()["error"]["code"] == "no_audit"


# The file ---------------------------------------------------------------------------------------------------------

GOOD = """
hold = 50

[[rule]]
name = "keys"
pattern = 'sk-[a-z0-9]{8,}'
do = "replace"
message = "[key]"

[[rule]]
name = "arms"
on = "prompt"
words = ["bomb", "炸弹"]
do = "block"

[[rule]]
name = "tone"
on = "answer"
reward = { kind = "sentiment" }
below = -0.5
do = "review"
on_error = "pass"
"""


def test_the_file(tmp_path):
    (tmp_path / "guard.toml").write_text(GOOD)
    rules = read_rules(tmp_path / "guard.toml")
    assert [each.name for each in rules.looking_at("prompt")] == ["keys", "arms"]
    assert [each.name for each in rules.looking_at("answer")] == ["keys", "tone"]
    assert (rules.hold, rules.seconds, rules.rule[1].words) == (50, 10.0, ("bomb", "炸弹"))


def test_the_file_that_the_page_shows(tmp_path):
    page = (Path(__file__).parents[2] / "docs/serving.md").read_text(encoding="utf-8")
    [text] = re.findall(r"```toml\n(hold = .*?)```", page, re.DOTALL)
    (tmp_path / "guard.toml").write_text(text)
    rules = read_rules(tmp_path / "guard.toml")
    guard = Guard(rules)
    assert [each.do for each in rules.rule] == ["replace", "block", "review"]
    assert guard.judges("answer")
    assert not guard.judges("prompt")
    guard.close()


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("'sk-[a-z0-9]{8,}'", "'sk-['", "rule 'keys': pattern: 'sk-[' is no regular expression: "),
        ("'sk-[a-z0-9]{8,}'", "'a*'", "rule 'keys': pattern: 'a*' is found in every text"),
        ("pattern =", "patern =", "rule 'keys': patern: unknown key; did you mean 'pattern'?"),
        ('words = ["bomb", "炸弹"]', "", "rule 'arms': exactly one of pattern, words, reward; there is none"),
        (
            'words = ["bomb',
            'pattern = "x"\nwords = ["bomb',
            "rule 'arms': exactly one of pattern, words, reward; there",
        ),
        ('"炸弹"', '" "', "rule 'arms': words: one of them is empty"),
        ('do = "block"', 'do = "stop"', "rule 'arms': do: Input should be 'block', 'replace' or 'review'"),
        ('do = "block"', "", "rule 'arms': do: missing"),
        ('do = "block"', 'do = "block"\nwhole = true', "rule 'arms': whole: not used with do='block'"),
        ('do = "block"', 'do = "block"\nbelow = 1', "rule 'arms': below: not used with reward=none"),
        ('do = "review"', 'do = "review"\nmessage = "x"', "rule 'tone': message: not used with do='review'"),
        ("below = -0.5", "", "rule 'tone': reward: with below = or above =, one of the two"),
        ("below = -0.5", "below = 0\nabove = 1", "rule 'tone': reward: with below = or above =, one of the two"),
        ('kind = "sentiment"', 'kind = "sentimental"', "rule 'tone': reward: "),
        ('kind = "sentiment"', 'kind = "match"', "rule 'tone': reward: "),
        ('on = "answer"', 'on = "answers"', "rule 'tone': on: Input should be"),
        ('"arms"', '"keys"', "rule 'keys': there are two of this name"),
        ('name = "arms"', "", "rule 2: name: missing"),
        ('"arms"', '"a\\nb"', "has characters that cannot be printed"),
        ("hold = 50", "hold = 0", "hold: 0 characters; 1 at least"),
        ("hold = 50", "holds = 50", "holds: unknown key; did you mean 'hold'?"),
        ("hold = 50", "seconds = 0", "seconds: Input should be greater than 0"),
        ("[[rule]]", "[rule]", "not valid TOML"),
        ("hold = 50", "hold = 50 50", "not valid TOML"),
    ],
)
def test_what_is_wrong_in_the_file_is_named(tmp_path, before, after, said):
    assert before in GOOD
    (tmp_path / "guard.toml").write_text(GOOD.replace(before, after))
    with pytest.raises(ConfigError, match=re.escape(said)) as error:
        read_rules(tmp_path / "guard.toml")
    assert str(error.value).startswith(f"--guard: {tmp_path / 'guard.toml'}: ")


def test_words_that_do_not_fit_are_refused(tmp_path):
    (tmp_path / "guard.toml").write_text('hold = 6\n[[rule]]\nname = "w"\nwords = ["straße"]\ndo = "block"\n')
    with pytest.raises(ConfigError, match=r"hold: the word 'straße' of rule 'w' does not fit .* 8 at least"):
        read_rules(tmp_path / "guard.toml")


def test_what_does_not_go_together_is_said(tmp_path):
    (tmp_path / "guard.toml").write_text('[[rule]]\nname = "w"\nwords = ["x"]\ndo = "review"\n')
    with pytest.raises(ConfigError, match="rule 'w' asks for review, which needs answers to be kept: --feedback"):
        load_service("x", guard=tmp_path / "guard.toml")
    with pytest.raises(ConfigError, match="--audit: keeps what a guard does"):
        load_service("x", audit=tmp_path / "audit.jsonl")
    with pytest.raises(ConfigError, match="there is no file"):
        load_service("x", guard=tmp_path / "none.toml")
