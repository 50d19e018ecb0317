"""The server as OpenAI's own client sees it, over a real socket."""

import json
import math
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest
from listeners import Slow, alone, listening, service_of
from transformers import AutoTokenizer

from kedge.models.reward_loading import new_reward_model
from kedge.sampling.settings import Sampling
from kedge.serving.http.app import create_app
from kedge.serving.http.service import Limits, Service
from kedge.serving.http.streams import ReadInTime
from kedge.serving.http.told import ChatForm

CHAT = [{"role": "user", "content": "the cat"}]
KEY = "sk-of-the-tests"


def client_of(url, key=KEY):
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)


@pytest.fixture(scope="module")
def lm(tiny_lm):
    return tiny_lm("llama")


@pytest.fixture(scope="module")
def service(lm, tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    lm.save(folder)
    return service_of(lm, reward=new_reward_model(folder, device="cpu"))


@pytest.fixture(scope="module")
def url(service):
    with listening(service) as url:
        yield url


@pytest.fixture(scope="module")
def client(url):
    return client_of(url)


def test_a_chat_is_what_the_engine_writes(client, lm):
    told = client.chat.completions.create(model="tiny", messages=CHAT, max_tokens=12, seed=3)
    want = alone(lm, CHAT, Sampling(max_new_tokens=12), seed=3)
    [choice] = told.choices
    assert choice.message.content == want.text
    assert choice.message.role == "assistant"
    assert choice.finish_reason == ("length" if want.finish_reason == "length" else "stop")
    assert told.usage.prompt_tokens == len(want.prompt_ids)
    assert told.usage.completion_tokens == len(want.ids)
    assert told.usage.total_tokens == len(want.prompt_ids) + len(want.ids)
    assert (told.model, told.object) == ("tiny", "chat.completion")


@pytest.mark.parametrize("n", [1, 3])
def test_a_stream_is_the_same_in_pieces(client, lm, n):
    asked = {"model": "tiny", "messages": CHAT, "max_tokens": 12, "seed": 4, "n": n}
    chunks = [*client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})]
    whole = client.chat.completions.create(**asked)
    texts, ends = [""] * n, [None] * n
    for chunk in chunks[:-1]:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            ends[choice.index] = choice.finish_reason or ends[choice.index]
    assert texts == [choice.message.content for choice in whole.choices]
    assert texts == [alone(lm, CHAT, Sampling(max_new_tokens=12), seed=4, request=i).text for i in range(n)]
    assert ends == [choice.finish_reason for choice in whole.choices]
    assert [chunks[i].choices[0].delta.role for i in range(n)] == ["assistant"] * n
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert len({chunk.id for chunk in chunks}) == 1


def test_completions_of_texts_and_of_tokens(client, lm):
    want = [alone(lm, text, Sampling(max_new_tokens=8), seed=1, request=i) for i, text in enumerate(("the", "a dog"))]
    for prompt in (["the", "a dog"], [completion.prompt_ids for completion in want]):
        told = client.completions.create(model="tiny", prompt=prompt, max_tokens=8, seed=1)
        assert [choice.text for choice in told.choices] == [completion.text for completion in want]
        assert told.usage.prompt_tokens == sum(len(completion.prompt_ids) for completion in want)
    one = client.completions.create(model="tiny", prompt=want[0].prompt_ids, max_tokens=8, seed=1)
    assert one.choices[0].text == want[0].text
    streamed = client.completions.create(model="tiny", prompt="the", max_tokens=8, seed=1, stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == want[0].text


def test_log_probabilities(client, lm):
    asked = {"model": "tiny", "messages": CHAT, "max_tokens": 10, "seed": 5}
    want = alone(lm, CHAT, Sampling(max_new_tokens=10, top_logprobs=4), seed=5)
    text = len(want.ids) - (want.finish_reason == "eos")
    content = client.chat.completions.create(**asked, logprobs=True, top_logprobs=4).choices[0].logprobs.content
    assert [token.logprob for token in content] == pytest.approx(want.logprobs[:text])
    assert [[top.logprob for top in token.top_logprobs] for token in content] == [
        pytest.approx([nats for _, nats in top]) for top in want.top_logprobs[:text]
    ]
    assert [token.token for token in content] == [lm.tokenizer.decode([i]) for i in want.ids[:text]]
    chunks = client.chat.completions.create(**asked, logprobs=True, top_logprobs=4, stream=True)
    pieces = [token for c in chunks if c.choices[0].logprobs for token in c.choices[0].logprobs.content]
    assert pieces == content
    bare = client.chat.completions.create(**asked, logprobs=True).choices[0].logprobs.content
    assert [token.logprob for token in bare] == pytest.approx(want.logprobs[:text])
    assert [token.top_logprobs for token in bare] == [[]] * text
    assert client.chat.completions.create(**asked).choices[0].logprobs is None


@pytest.mark.shared
def test_words_of_a_tokenizer_that_drops_the_first_space(shared):
    """Together they are the text; a single one is decoded without its space."""
    tokenizer = AutoTokenizer.from_pretrained(shared / "models/stories3M")
    form = ChatForm("m", tokenizer, "v1", 0)
    ids = tokenizer("Once upon a time, a cat sat.", add_special_tokens=False).input_ids
    assert "".join(form._word(token) for token in ids[1:]) == " upon a time, a cat sat."


def test_a_greedy_answer_has_the_models_own_log_probabilities(client):
    asked = {"model": "tiny", "prompt": "the cat", "max_tokens": 6, "temperature": 0, "logprobs": 2}
    log = client.completions.create(**asked).choices[0].logprobs
    assert log.token_logprobs == [next(iter(top.values())) for top in log.top_logprobs]  # the likeliest first
    assert log.token_logprobs == [max(top.values()) for top in log.top_logprobs]
    assert all(-20 < logprob < 0 for logprob in log.token_logprobs)
    assert log.text_offset[0] == 0
    bare = client.completions.create(**asked | {"logprobs": 0}).choices[0].logprobs
    assert bare.token_logprobs == pytest.approx(log.token_logprobs)
    assert bare.top_logprobs == [{}] * len(bare.tokens)


def test_stop_strings_cut_the_text(client, lm):
    whole = alone(lm, "the cat", Sampling(max_new_tokens=16), seed=2).text
    stop = whole[1:3]
    assert len(stop) == 2
    told = client.completions.create(model="tiny", prompt="the cat", max_tokens=16, seed=2, stop=stop)
    assert told.choices[0].text == whole[: whole.index(stop)]
    assert told.choices[0].finish_reason == "stop"
    chunks = client.completions.create(model="tiny", prompt="the cat", max_tokens=16, seed=2, stop=[stop], stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == told.choices[0].text


def test_without_a_seed_answers_differ(client):
    asked = {"model": "tiny", "prompt": "the cat", "max_tokens": 16}
    assert len({client.completions.create(**asked).choices[0].text for _ in range(4)}) > 1
    same = {client.completions.create(**asked, seed=9).choices[0].text for _ in range(3)}
    assert len(same) == 1


def test_a_bias_bans_and_forces(client, lm):
    asked = {"model": "tiny", "prompt": "the cat", "max_tokens": 8, "temperature": 0}
    word = lm.tokenizer("cat").input_ids[0]
    forced = client.completions.create(**asked, logit_bias={str(word): 100}).choices[0].text
    assert forced == lm.tokenizer.decode([word] * 8)
    [first, *_] = lm.tokenizer(client.completions.create(**asked).choices[0].text).input_ids
    banned = client.completions.create(**asked, logit_bias={first: -100}, logprobs=1).choices[0]
    assert lm.tokenizer.decode([first]) not in banned.logprobs.tokens


def test_penalties_keep_words_from_coming_back(client, lm):
    word = lm.tokenizer("cat").input_ids[0]
    asked = {"model": "tiny", "prompt": "the cat", "max_tokens": 12, "temperature": 0, "logit_bias": {word: 9}}
    count = {
        name: client.completions.create(**asked, **how, logprobs=0)
        .choices[0]
        .logprobs.tokens.count(lm.tokenizer.decode([word]))
        for name, how in {
            "none": {},
            "frequency": {"frequency_penalty": 2.0},
            "presence": {"presence_penalty": 2.0},
        }.items()
    }
    assert count["none"] == 12
    assert count["frequency"] <= count["presence"] <= 12
    assert count["frequency"] < 12


@pytest.mark.parametrize(
    ("more", "param", "said"),
    [
        ({"tools": []}, "tools", "tools: not supported here"),
        ({"temperature": 3}, "temperature", "less than or equal to 2"),
        ({"temperature": "hot"}, "temperature", "valid number"),
        ({"n": 0}, "n", "greater than or equal to 1"),
        ({"n": 2.5}, "n", "valid integer"),
        ({"max_tokens": True}, "max_tokens", "valid integer"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop", "at most 4"),
        ({"top_logprobs": 2}, "top_logprobs", "top_logprobs: only with logprobs = true"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "stream_options: only with stream = true"),
        ({"stream": True, "stream_options": {"every": 1}}, "stream_options.every", "not supported"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "'text'"),
        ({"response_format": {"type": "json_schema"}}, "response_format", "json_schema: with type"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "no"}}}},
            "response_format",
            "Invalid type: no",
        ),
        ({"messages": []}, "messages", "at least 1"),
        ({"logit_bias": {"1": 1, "01": -1}}, "logit_bias", "names a token twice"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": "#"}}}},
            "response_format",
            "no JSON is of this schema",
        ),
        *(
            ({"messages": [{"role": "user", "content": [part]}]}, "messages.0.content", "text alone")
            for part in ({"type": "text", "text": None}, {"type": "text", "text": "a", "cache": 1}, {"type": "text"})
        ),
        ({"messages": [{"role": "user", "content": "a", "tool_calls": []}]}, "messages.0.tool_calls", "not supported"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content", "text alone"),
        ({"max_tokens": 5, "max_completion_tokens": 5}, "max_tokens", "max_completion_tokens says it already"),
        ({"max_tokens": 10_000}, "max_tokens", "there is room for"),
        ({"max_tokens": 10**12}, "max_tokens", "less than or equal to"),
        ({"messages": [{"role": "user", "content": "cat " * 600}]}, "messages", "positions; shorten it"),
        ({"logit_bias": {"9999": 1}}, "logit_bias", "logit_bias: names tokens outside"),
        ({"logit_bias": {"a": 1}}, "logit_bias", "valid integer"),
        ({"seed": 2**70}, "seed", "64 bits"),
        ({"n": 100, "max_tokens": 4}, "n", "taken at most"),
    ],
)
def test_what_is_wrong_is_named(lm, more, param, said):
    from starlette.testclient import TestClient

    with TestClient(create_app(service_of(lm, limits=Limits(waiting=64)))) as client:
        answer = client.post("/v1/chat/completions", json={"model": "tiny", "messages": CHAT} | more)
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert said in error["message"]
    assert error["type"] == "invalid_request_error"
    if param is not None:
        assert error["param"].startswith(param)


@pytest.mark.parametrize("prompt", [[], [1.0], [[]], [["a"]], {}])
def test_what_is_no_prompt_is_named(url, prompt):
    told = httpx.post(f"{url}/v1/completions", json={"model": "tiny", "prompt": prompt})
    assert (told.status_code, told.json()["error"]["param"]) == (400, "prompt")


def test_a_prompt_that_is_missing_is_missing(url):
    error = httpx.post(f"{url}/v1/completions", json={"model": "tiny"}).json()["error"]
    assert (error["param"], error["code"]) == ("prompt", "missing_required_parameter")


def test_more_prompts_than_are_ever_taken_are_refused_before_they_are_read(url, monkeypatch):
    monkeypatch.setattr(Service, "encoded", lambda *_: pytest.fail("has read one"))
    told = httpx.post(f"{url}/v1/completions", json={"model": "tiny", "prompt": ["a"] * 10_000})
    assert (told.status_code, told.json()["error"]["param"]) == (400, "n")


def test_an_error_that_nobody_has_thought_of_has_that_form_too(lm, monkeypatch, caplog):
    service = service_of(lm)
    monkeypatch.setattr(Service, "refuse_another", lambda self, model: {}[model])
    with listening(service) as url:
        told = httpx.post(f"{url}/v1/completions", json={"model": "one\nERROR:forged", "prompt": "a"})
        assert (told.status_code, told.json()["error"]["type"]) == (500, "server_error")
        counted = httpx.get(f"{url}/metrics").text
    assert 'kedge_requests_total{route="/v1/completions",status="500"} 1.0' in counted
    assert "KeyError" in caplog.text
    assert "forged" not in caplog.text


def test_null_is_as_good_as_nothing(url):
    replayed = [*CHAT, {"role": "assistant", "content": "sat", "refusal": None, "tool_calls": None}, *CHAT]
    asked = {"model": "tiny", "messages": replayed, "max_tokens": 3, "tools": None, "stop": None, "temperature": None}
    assert httpx.post(f"{url}/v1/chat/completions", json=asked).status_code == 200


def test_errors_have_openais_classes(client, url):
    with pytest.raises(openai.NotFoundError, match="there is no 'gpt-4' here; there is 'tiny'"):
        client.chat.completions.create(model="gpt-4", messages=CHAT)
    with pytest.raises(openai.BadRequestError, match="top_p"):
        client.chat.completions.create(model="tiny", messages=CHAT, top_p=2)
    plain = httpx.post(f"{url}/v1/completions", content=b'{"model": "tiny", "prompt": "a"}')
    assert "sent as Content-Type: application/json" in plain.json()["error"]["message"]
    for body, said in (
        (b"{", "no JSON"),
        (b"[]", "a JSON object"),
        (b"", "missing"),
        (b'"x"', "a JSON object"),
        (b'{"model": "tiny"}', "messages"),
    ):
        answer = httpx.post(f"{url}/v1/chat/completions", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 400, (body, answer.text)
        assert said in answer.json()["error"]["message"]
    assert httpx.get(f"{url}/v1/nothing").json()["error"]["type"] == "invalid_request_error"
    assert httpx.get(f"{url}/v1/chat/completions").status_code == 405


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_of_a_schema(client, stream):
    schema = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 9}},
              "required": ["n"], "additionalProperties": False}  # fmt: skip
    asked = {"model": "tiny", "messages": CHAT, "max_tokens": 40, "seed": 1, "n": 3}
    form = {"type": "json_schema", "json_schema": {"name": "number", "schema": schema, "strict": True}}
    if stream:
        texts = [""] * 3
        for chunk in client.chat.completions.create(**asked, response_format=form, stream=True):
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
    else:
        texts = [each.message.content for each in client.chat.completions.create(**asked, response_format=form).choices]
    assert all(json.loads(text)["n"] in range(10) for text in texts)
    told = client.chat.completions.create(**asked, response_format={"type": "json_object"}).choices
    assert all(each.message.content.startswith("{") for each in told)
    assert client.chat.completions.create(**asked, response_format={"type": "text"}).choices


def test_models_and_scores(client, url, service):
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "kedge"
    asked = {"model": "tiny", "input": ["the cat sat", [*CHAT, {"role": "assistant", "content": "sat"}]]}
    told = httpx.post(f"{url}/v1/score", json=asked).json()
    want = service.reward.score(["the cat sat", [*CHAT, {"role": "assistant", "content": "sat"}]])
    assert [each["score"] for each in told["data"]] == pytest.approx(want)


def test_many_clients_get_what_they_would_get_alone(url, lm):
    prompts = ["the", "a dog ran", "once upon a time", "red"] * 4

    def ask(i):
        told = client_of(url).completions.create(model="tiny", prompt=prompts[i], max_tokens=8 + i, seed=i)
        return told.choices[0].text

    with ThreadPoolExecutor(8) as callers:
        texts = [*callers.map(ask, range(len(prompts)))]
    assert texts == [alone(lm, prompts[i], Sampling(max_new_tokens=8 + i), seed=i).text for i in range(len(prompts))]


def test_keys(lm):
    with listening(service_of(lm), keys=["another", KEY]) as url:
        assert client_of(url).completions.create(model="tiny", prompt="the", max_tokens=1).choices
        for key in ("wrong", KEY + "x", KEY[:-1]):
            with pytest.raises(openai.AuthenticationError, match="no key, or a wrong one"):
                client_of(url, key).completions.create(model="tiny", prompt="the")
        for path in ("/v1/models", "/metrics", "/docs", "/openapi.json"):
            assert httpx.get(url + path).status_code == 401
        basic = httpx.get(f"{url}/v1/models", headers={"Authorization": f"Basic {KEY}"})
        assert (basic.status_code, basic.headers["www-authenticate"]) == (401, "Bearer")
        assert httpx.get(f"{url}/health").json() == {"status": "ok"}
        assert httpx.get(f"{url}/ready").status_code == 200


@pytest.fixture
def slow(lm):
    def make(**limits):
        return service_of(lm, Slow, limits=Limits(**limits))

    return make


LONG = {"model": "tiny", "prompt": "the", "max_tokens": 100, "logit_bias": {"1": -100}}


def until(true, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("stream", [False, True])
def test_who_goes_away_makes_room(slow, stream):
    service = slow()
    with listening(service) as url, httpx.Client() as client:
        if stream:
            with client.stream("POST", f"{url}/v1/completions", json=LONG | {"stream": True}) as answer:
                lines = answer.iter_lines()
                next(lines)
                assert service.live.driver.writing == 1
        else:
            with pytest.raises(httpx.ReadTimeout):
                client.post(f"{url}/v1/completions", json=LONG, timeout=0.5)
        until(lambda: service.live.driver.writing == service.live.driver.waiting == service._waiting == 0, 2.0)


def test_a_full_queue_refuses_and_says_when_to_come_back(slow):
    service = slow(waiting=2)
    with listening(service) as url, httpx.Client() as client, client.stream(
        "POST", f"{url}/v1/completions", json=LONG | {"stream": True, "n": 2}
    ) as answer:  # fmt: skip
        lines = answer.iter_lines()  # which ends the response when it goes
        next(lines)
        with pytest.raises(openai.RateLimitError, match="busy") as refused:
            client_of(url).completions.create(model="tiny", prompt="the")
        assert refused.value.response.headers["retry-after"] == "1"
        assert httpx.get(f"{url}/ready").status_code == 503


def test_an_answer_that_takes_too_long_is_given_up(slow):
    service = slow(seconds=0.4)
    with listening(service) as url:
        with pytest.raises(openai.InternalServerError, match=r"longer than 0\.4 seconds"):
            client_of(url).completions.create(**LONG)
        lines = httpx.post(f"{url}/v1/completions", json=LONG | {"stream": True}).text.split("\n\n")
        assert json.loads(lines[-3].removeprefix("data: "))["error"]["code"] == "timeout"
        assert lines[-2] == "data: [DONE]"
        until(lambda: service.live.driver.writing == 0)


def test_who_does_not_read_is_given_up(lm, monkeypatch):
    """The places are free again, and the connection ends."""
    monkeypatch.setattr(ReadInTime, "GRACE", 0.5)
    service = service_of(lm, limits=Limits(waiting=64, seconds=4.0))
    asked = {"model": "tiny", "prompt": "the", "n": 64, "max_tokens": 100, "logprobs": 20, "stream": True,
             "logit_bias": {"1": -100}}  # fmt: skip
    body = json.dumps(asked).encode()
    with listening(service) as url, socket.socket() as reader:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.connect(("127.0.0.1", int(url.rpartition(":")[2])))
        head = (
            f"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        )
        reader.sendall(f"{head}\r\n\r\n".encode() + body)
        deadline = time.monotonic() + 20
        busy = False
        while time.monotonic() < deadline and not (busy and service._waiting == 0):
            busy = busy or service._waiting == 64
            time.sleep(0.02)
        assert busy
        assert service._waiting == 0
        assert httpx.post(f"{url}/v1/completions", json=asked | {"stream": False, "max_tokens": 2}).status_code == 200


def test_a_body_that_is_too_large(lm):
    with listening(service_of(lm, limits=Limits(body=1000))) as url:
        for content in (b"x" * 1001, iter([b"x" * 500] * 3)):
            answer = httpx.post(f"{url}/v1/completions", content=content)
            assert answer.status_code == 413
            assert answer.json()["error"]["message"] == "the body is larger than 1000 bytes"


def test_what_is_being_written_is_written_to_its_end(slow):
    """Told to stop, the server takes nothing new and finishes what it has begun."""
    service, texts = slow(), []
    with listening(service) as url:
        asked = LONG | {"max_tokens": 20, "seed": 1}
        thread = threading.Thread(target=lambda: texts.append(client_of(url).completions.create(**asked)))
        thread.start()
        until(lambda: service.live.driver.writing == 1)
    thread.join(10)
    assert texts[0].usage.completion_tokens == 20


def test_a_model_that_breaks_is_an_error_and_harms_nobody_else(lm, monkeypatch, caplog):
    service = service_of(lm)
    with listening(service) as url:
        engine, broken = service.live.driver._engine, []
        step = engine.step

        def sometimes():
            if broken:
                broken.clear()
                raise RuntimeError("of the model")
            return step()

        monkeypatch.setattr(engine, "step", sometimes)
        broken.append(True)
        with pytest.raises(openai.InternalServerError):
            client_of(url).completions.create(model="tiny", prompt="the", max_tokens=2)
        assert client_of(url).completions.create(model="tiny", prompt="the", max_tokens=2).choices
        broken.append(True)
        streamed = httpx.post(f"{url}/v1/completions", json={"model": "tiny", "prompt": "the", "stream": True}).text
        assert [json.loads(part[6:])["error"]["type"] for part in streamed.split("\n\n")[:-2]] == ["server_error"]
        assert streamed.endswith("data: [DONE]\n\n")
    assert [record.name for record in caplog.records if "of the model" in record.message] == ["kedge.serving"] * 2


def test_metrics(lm):
    service = service_of(lm)
    with listening(service) as url:
        told = client_of(url).completions.create(model="tiny", prompt="the", max_tokens=5, logit_bias={1: -100}, n=2)
        httpx.get(f"{url}/nothing/<b>")
        page = httpx.get(f"{url}/metrics").text
    values = dict(line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#"))
    assert float(values["kedge_answer_tokens_total"]) == 10
    assert float(values["kedge_prompt_tokens_total"]) == told.usage.prompt_tokens
    assert float(values['kedge_requests_total{route="/v1/completions",status="200"}']) == 1
    assert float(values['kedge_requests_total{route="none",status="404"}']) == 1
    assert float(values["kedge_time_to_first_token_seconds_count"]) == 2
    assert math.isfinite(float(values["kedge_time_per_token_seconds_sum"]))
    assert float(values["kedge_batch_size"]) == 0
    assert "<b>" not in page


ADMIN = {"Authorization": "Bearer admin"}


def test_nobody_else_changes_the_weights(lm):
    with listening(service_of(lm), keys=[KEY], admin_keys=["admin"]) as url:
        for headers in ({}, {"Authorization": f"Bearer {KEY}"}):
            assert httpx.post(f"{url}/admin/rollback", headers=headers).status_code == 401
        assert httpx.get(f"{url}/v1/models", headers=ADMIN).status_code == 401
    with listening(service_of(lm)) as url:
        assert httpx.post(f"{url}/admin/rollback").status_code == 404
