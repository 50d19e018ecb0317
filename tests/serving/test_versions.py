"""New weights beside the old: at once, back again, and refused."""

import asyncio
import copy
import json
import math
from dataclasses import replace

import httpx
import pytest
import torch
from listeners import Slow, alone, listening, service_of

from kedge.sampling.settings import Sampling
from kedge.serving.http.run import load_service
from kedge.serving.http.version import Held

ADMIN = {"Authorization": "Bearer admin"}


@pytest.fixture(scope="module")
def lm(tiny_lm):
    return tiny_lm("llama")


@pytest.fixture
def other(tiny_lm, tmp_path):
    """The folder of a model of the same tokenizer and other weights, and that model."""
    lm = tiny_lm("llama", seed=7)
    lm.save(tmp_path / "other")
    return tmp_path / "other", lm


def test_new_weights_answer_what_comes_after(lm, other):
    """What has begun ends with the weights it began with; prompts seen before are answered by the new ones."""
    service, (folder, new) = service_of(lm, Slow), other
    asked = {"model": "tiny", "prompt": "the", "seed": 1, "logit_bias": {"1": -100}}
    sampling = Sampling(max_new_tokens=30, logit_bias=((1, -100.0),))
    with listening(service, admin_keys=["admin"]) as url, httpx.Client(base_url=url, timeout=30) as http:
        with http.stream("POST", "/v1/completions", json=asked | {"max_tokens": 30, "stream": True}) as begun:
            lines = begun.iter_lines()
            first = next(lines)
            told = http.post("/admin/deploy", json={"source": str(folder)}, headers=ADMIN).json()
            assert told["live"] == {"version": 2, "source": str(folder), "answers": 0}
            assert told["before"] == {"version": 1, "source": "first", "answers": 1}
            after = http.post("/v1/completions", json=asked | {"max_tokens": 30}).json()
            events = [json.loads(line[6:]) for line in [first, *lines] if line.startswith("data: {")]
        assert "".join(e["choices"][0]["text"] for e in events) == alone(lm, "the", sampling, seed=1).text
        assert {e["system_fingerprint"] for e in events} == {"v1"}
        assert after["choices"][0]["text"] == alone(new, "the", sampling, seed=1).text
        assert after["system_fingerprint"] == "v2"
        back = http.post("/admin/rollback", headers=ADMIN).json()
        assert (back["live"]["version"], back["before"]) == (1, None)
        twice = http.post("/admin/rollback", headers=ADMIN)  # is no way forward
        assert (twice.status_code, twice.json()["error"]["code"]) == (409, "not_deployed")
        again = http.post("/v1/completions", json=asked | {"max_tokens": 5}).json()
        assert [(each["did"], each["version"]) for each in back["history"]] == [("deployed", 2), ("rolled back", 2)]
        assert again["choices"][0]["text"] == alone(lm, "the", replace(sampling, max_new_tokens=5), seed=1).text
        assert "kedge_weights_version 1.0" in http.get("/metrics").text


def test_what_is_replaced_twice_is_let_go(lm, other):
    service, (folder, _) = service_of(lm), other
    first = service.live
    with listening(service, admin_keys=["admin"]) as url:
        for number in (2, 3):
            told = httpx.post(f"{url}/admin/deploy", json={"source": str(folder)}, headers=ADMIN, timeout=30).json()
            assert told["live"]["version"] == number
        assert told["before"]["version"] == 2
        first.driver._thread.join(10)
        assert not first.driver._thread.is_alive()
        assert service.versions.before.driver._thread.is_alive()


@pytest.mark.parametrize("fault", ["weights", "tokenizer", "template", "nothing"])
def test_what_must_not_answer_does_not(lm, tiny_lm, other, tmp_path, fault):
    service, (folder, new) = service_of(lm), other
    if fault == "weights":
        new.model.model.norm.weight.data[0] = math.nan
        new.save(folder)
    elif fault == "tokenizer":
        words = copy.deepcopy(new.tokenizer)
        words.add_tokens(["<more>"])
        new.model.resize_token_embeddings(len(words))
        replace(new, tokenizer=words).save(folder)
    elif fault == "template":
        (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    elif fault == "nothing":
        folder = tmp_path / "nowhere"
    with listening(service, admin_keys=["admin"]) as url:
        asked = {"model": "tiny", "prompt": "the", "max_tokens": 3, "seed": 1}
        before = httpx.post(f"{url}/v1/completions", json=asked).json()["choices"]
        answer = httpx.post(f"{url}/admin/deploy", json={"source": str(folder)}, headers=ADMIN, timeout=30)
        assert answer.status_code == 409
        said = {
            "weights": "norm.weight is not finite",
            "tokenizer": "its tokenizer is another",
            "template": "its chat template",
            "nothing": "nowhere",
        }
        message = answer.json()["error"]["message"]
        assert message.startswith("not deployed: ")
        assert said[fault] in message
        assert httpx.post(f"{url}/v1/completions", json=asked).json()["choices"] == before
        assert httpx.get(f"{url}/admin/versions", headers=ADMIN).json() == {
            "live": {"version": 1, "source": "first", "answers": 0}, "before": None, "canary": None, "history": [],
        }  # fmt: skip
        assert httpx.post(f"{url}/admin/rollback", headers=ADMIN).status_code == 409


PROMPT = [*range(5, 64), 9]


def told_of(http, **more):
    asked = {"model": "first", "prompt": PROMPT, "max_tokens": 8, "temperature": 0, "logprobs": 0} | more
    [choice] = http.post("/v1/completions", json=asked).json()["choices"]
    return choice["text"], choice["logprobs"]["token_logprobs"]


def reused_by(http):
    [line] = [x for x in http.get("/metrics").text.splitlines() if x.startswith("kedge_prefix_tokens_reused_total")]
    return float(line.split()[1])


def test_prompts_seen_before_are_answered_by_the_new_weights(lm, other, tmp_path):
    """And equal what a server says that never had others."""
    (folder, _), first = other, tmp_path / "first"
    lm.save(first)
    service, fresh = (load_service(str(at), name="first", held=Held(prefix_bytes=2**24)) for at in (first, folder))
    with listening(fresh) as url, httpx.Client(base_url=url, timeout=30) as http:
        want = told_of(http)
    with listening(service, admin_keys=["admin"]) as url, httpx.Client(base_url=url, timeout=30) as http:
        before = told_of(http)
        assert reused_by(http) == 0
        again = told_of(http)
        assert reused_by(http) == 48
        assert again[0] == before[0]
        assert again[1] == pytest.approx(before[1], abs=1e-4)
        http.post("/admin/deploy", json={"source": str(folder)}, headers=ADMIN)
        for _ in range(2):
            after = told_of(http)
            assert after[0] == want[0]
            assert after[1] == pytest.approx(want[1], abs=1e-4)
        assert want[1] != pytest.approx(before[1], abs=1e-4)
        http.post("/admin/rollback", headers=ADMIN)
        assert told_of(http)[1] == pytest.approx(before[1], abs=1e-4)


@pytest.mark.parametrize(
    ("held", "dtype"),
    [(Held(dtype="bfloat16"), torch.bfloat16), (Held(quantization="int8"), torch.int8)],
    ids=["bfloat16", "int8"],
)
def test_weights_that_take_less(lm, other, tmp_path, held, dtype):
    """Those that are deployed later are held as the first are."""
    lm.save(tmp_path / "first")
    service, (folder, _) = load_service(str(tmp_path / "first"), held=held), other
    with listening(service, admin_keys=["admin"]) as url, httpx.Client(base_url=url, timeout=30) as http:
        assert all(nats < 0 for nats in told_of(http)[1])
        told = http.post("/admin/deploy", json={"source": str(folder)}, headers=ADMIN).json()
        assert told["live"]["version"] == 2
        assert all(nats < 0 for nats in told_of(http)[1])
        for version in (service.versions.before, service.live):
            assert version.lm.model.model.layers[0].mlp.up_proj.weight.dtype == dtype


def test_a_version_that_is_let_go_stays_while_somebody_is_about_to_ask_it(lm):
    """The guard still looks at the prompt, say."""
    version = service_of(lm).live

    async def about_to_ask():
        async with version.kept():
            version.retired = True
            version.close_if_idle()
            assert version.driver.generate([[5, 6]], Sampling(max_new_tokens=2))

    asyncio.run(about_to_ask())
    version.driver._thread.join(10)
    assert not version.driver._thread.is_alive()
