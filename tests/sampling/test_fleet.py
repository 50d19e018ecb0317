"""Servers that write: the same distribution, the weights that were published, and what is done where one fails."""

import asyncio
import json
import platform
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace

import httpx
import pytest
import torch
from answers import random_prompts
from stand_in import StandIn, serving

import kedge.sampling.fleet.server as waits
import kedge.sampling.fleet.servers as watching
from kedge.errors import ConfigError, DataError, NumericsError, SamplerError
from kedge.models.adapters import adapter_weights, add_adapter
from kedge.models.forward import forward_tokens
from kedge.sampling.fleet.fleet import Fleet
from kedge.sampling.fleet.server import Server, ServerFailure
from kedge.sampling.fleet.spec import FleetSpec, sampler_of
from kedge.sampling.settings import Sampling
from kedge.storage.locking import HOLDER_FILE, LOCK_FILE, is_taken, take
from kedge.training.ppo import PPO

SAMPLING = Sampling(max_new_tokens=8, temperature=0.8)


@pytest.fixture
def lm(tiny_lm):
    return tiny_lm("llama")


@pytest.fixture
def start(tiny_lm, tmp_path, monkeypatch):
    """Starts servers of another model than the one whose answers are wanted."""
    monkeypatch.setattr(waits, "PAUSE", 0.01)
    monkeypatch.setattr(watching, "LOOKED_AT", 60.0)  # else who is asked first finds out what is wrong
    tiny_lm("llama", seed=5).save(tmp_path / "other")
    with ExitStack() as servers:

        def begin(count=1, **settings):
            stand_ins = [StandIn(tmp_path / "other") for _ in range(count)]
            urls = [servers.enter_context(serving(each)) for each in stand_ins]
            return stand_ins, Fleet(urls, weights=tmp_path / "weights", **{"timeout": 20.0, **settings})

        yield begin


def recomputed(lm, completion, temperature):
    ids = [*completion.prompt_ids, *completion.ids]
    mask = torch.tensor([[i >= len(completion.prompt_ids) for i in range(len(ids))]])
    found = forward_tokens(lm, torch.tensor([ids]), mask, temperature=temperature).logprobs[0]
    return found[len(completion.prompt_ids) :].detach()


def until(reached, seconds=20):
    """Wait for it."""
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.01)


def recomputed_biased(lm, completion, sampling):
    """The same with a bias on its logits."""
    ids = [*completion.prompt_ids, *completion.ids]
    with torch.no_grad():
        logits = lm.model(torch.tensor([ids])).logits[0, len(completion.prompt_ids) - 1 : -1]
    for token, bias in sampling.logit_bias:
        logits[:, token] += bias
    found = (logits / sampling.temperature).log_softmax(-1)
    return found.gather(-1, torch.tensor(completion.ids)[:, None])[:, 0]


def assert_of(lm, completions, temperature=SAMPLING.temperature, atol=1e-5):
    for each in completions:
        assert torch.allclose(torch.tensor(each.logprobs), recomputed(lm, each, temperature), atol=atol)


def test_answers_are_the_models_own_and_do_not_depend_on_who_is_beside(start, lm):
    stand_ins, fleet = start(2)
    prompts = random_prompts()
    with fleet(lm) as sampler:
        found = sampler.generate(prompts, SAMPLING, seed=3, first_request=10)
        assert [each.prompt_ids for each in found] == [list(prompt) for prompt in prompts]
        assert_of(lm, found)
        assert len({tuple(each.ids) for each in found}) > len(prompts) // 2
        again = sampler.generate(prompts[2:], SAMPLING, seed=3, first_request=12)
        assert [each.ids for each in again] == [each.ids for each in found[2:]]
        others = sampler.generate(prompts, SAMPLING, seed=4, first_request=10)
        assert [each.ids for each in others] != [each.ids for each in found]
    assert all(stand_in.asked > len(prompts) // 2 for stand_in in stand_ins)  # both had their part


def test_after_publishing_all_servers_have_the_new_weights(start, lm):
    stand_ins, fleet = start(2)
    with fleet(lm) as sampler:
        before = sampler.generate(random_prompts(), SAMPLING)
        with torch.no_grad():
            for weight in lm.model.parameters():
                weight.mul_(1.5)
        sampler.publish(lm.weights(), 7)
        after = sampler.generate(random_prompts(), SAMPLING)
        assert_of(lm, after)
        assert [each.ids for each in before] != [each.ids for each in after]
        assert {version for each in after for version in each.versions} == {7}
        assert {version for each in before for version in each.versions} == {0}
        for stand_in in stand_ins:
            assert len({*stand_in.salts}) == 2  # a salt a version: no cached keys of the old weights
        assert len(list(fleet.folder.glob("*/version-*"))) == 1
    assert not list(fleet.folder.glob("*"))


def test_what_is_being_written_goes_on_with_the_new_weights_and_says_so(start, lm):
    """Each token's log-probability is that of the weights whose version it carries, and all of them have their part."""
    stand_ins, fleet = start(2)
    long = replace(SAMPLING, max_new_tokens=110, logit_bias=tuple((token, -100.0) for token in lm.eos_ids))
    prompts = random_prompts([3, 5, 12, 1])
    with fleet(lm) as sampler:
        for stand_in in stand_ins:
            stand_in.slow = 0.01
        kept = {0: {name: weight.clone() for name, weight in lm.weights().items()}}
        with ThreadPoolExecutor() as pool:
            written = [pool.submit(sampler.generate, prompts, long, seed=seed) for seed in range(2)]
            for version in (1, 2):
                until(lambda: all(min(stand_in.written(), default=0) > 5 for stand_in in stand_ins))
                with torch.no_grad():
                    for weight in lm.model.parameters():
                        weight.mul_(1.2)
                kept[version] = {name: weight.clone() for name, weight in lm.weights().items()}
                sampler.publish(lm.weights(), version)
                assert not any(each.done() for each in written)
            answers = [answer for each in written for answer in each.result()]
        for answer in answers:
            assert [*answer.versions] == sorted(answer.versions)
            assert {*answer.versions} == {0, 1, 2}
        for version, weights in kept.items():
            lm.model.load_state_dict(weights, strict=False)
            for answer in answers:
                own = recomputed_biased(lm, answer, long)
                theirs = torch.tensor(answer.logprobs)
                mine = torch.tensor([each == version for each in answer.versions])
                assert torch.allclose(own[mine], theirs[mine], atol=1e-5)
                assert not torch.allclose(own[~mine], theirs[~mine], atol=1e-3)


LORA = {"method": "lora", "r": 4, "target_modules": "all-linear"}


def adapted(lm, **settings):
    """With an adapter that does something."""
    add_adapter(lm.model, LORA | settings, seed=1)
    with torch.no_grad():
        for weight in adapter_weights(lm.model):
            weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(2)))
    return lm


def files(fleet):
    """Of all versions that are there."""
    return {path.name for path in fleet.folder.glob("*/version-*/*")}


def test_an_adapter_goes_to_the_servers_by_itself(start, lm, capsys):
    """Its base once, then a few weights a publish; a server that was started again has both."""
    stand_ins, fleet = start(2)
    for stand_in in stand_ins:
        stand_in.rank = 16
    lm = adapted(lm, use_rslora=True, lora_alpha=3)
    with fleet(lm) as sampler:
        assert_of(lm, sampler.generate(random_prompts(), SAMPLING))
        assert files(fleet) == {"adapter_config.json", "adapter_model.safetensors"}
        with torch.no_grad():
            for weight in adapter_weights(lm.model):
                weight.mul_(1.5)
        stand_ins[0].knows_adapter = False
        sampler.publish(lm.weights(), 7)
        after = sampler.generate(random_prompts(), SAMPLING)
        assert_of(lm, after)
        assert {version for each in after for version in each.versions} == {7}
        assert len(list(fleet.folder.glob("*/version-*"))) == 1
        for stand_in in stand_ins:
            stand_in.forgets_adapter = True
        with pytest.raises(NumericsError, match="nats from the model's own"):
            sampler.publish(lm.weights(), 8)
    assert not list(fleet.folder.glob("*"))
    assert "a part of the weights" not in capsys.readouterr().err


def test_one_that_takes_no_adapters_any_more_is_left_out(start, lm):
    stand_ins, fleet = start(2)
    for stand_in in stand_ins:
        stand_in.rank = 16
    with fleet(adapted(lm)) as sampler:
        stand_ins[1].rank, stand_ins[1].knows_adapter = 0, False
        sampler.publish(lm.weights(), 1)
        assert "it takes no adapters" in fleet.down[fleet.servers[1].url]
        assert_of(lm, sampler.generate(random_prompts(), SAMPLING))


@pytest.mark.parametrize(
    ("ranks", "settings", "why"),
    [
        ((16, 0), {}, "how a server was started"),
        ((16, 16), {"r": 17}, "how a server was started"),
        ((16, 16), {"use_dora": True}, "its kind"),
        ((16, 16), {"target_modules": ["embed_tokens", "q_proj"]}, "its kind"),
    ],
)
def test_adapters_that_servers_do_not_load_are_merged(start, lm, capsys, ranks, settings, why):
    stand_ins, fleet = start(2)
    for stand_in, rank in zip(stand_ins, ranks, strict=True):
        stand_in.rank = rank
    lm = adapted(lm, **settings)
    with fleet(lm) as sampler:
        assert_of(lm, sampler.generate(random_prompts(), SAMPLING))
        assert "model.safetensors" in files(fleet)
    assert f"the adapter goes to the servers as a part of the weights, by {why}" in capsys.readouterr().err


def test_one_that_goes_on_writing_while_weights_are_loaded_is_no_matter(start, lm):
    """Its tokens say whose they are all the same, for it is the engine that counts."""
    [stand_in], fleet = start()
    with fleet(lm) as sampler:
        stand_in.forgets_pause = True
        sampler.publish(lm.weights(), 1)
        assert_of(lm, sampler.generate(random_prompts(), SAMPLING))


def test_ppo_whose_answers_run_ahead_of_it(start, tiny_lm):
    """Over HTTP, and while weights are published: every step's are at most two updates old."""
    stand_ins, fleet = start(2)
    prompts = [f"{word} {other}" for word in ("a", "b", "c", "d") for other in ("x", "y")]
    lm = tiny_lm("llama")
    settings = {"steps": 5, "batch_size": 8, "mini_batch_size": 4, "response_length": 60, "learning_rate": 3e-3,
                "stop_tokens": [], "max_staleness": 2}  # fmt: skip
    ppo = PPO(
        lm.model, prompts, lambda prompts, completions: [float(len(text)) for text in completions], settings,
        tokenizer=lm.tokenizer, eval_prompts=["e f"], progress=False, sampler=fleet,
    )  # fmt: skip
    write, taken, seen = ppo.answers.ahead._write, threading.Event(), []

    def late(step):  # as soon as the reference has the servers, if it takes them before
        if step == 3:
            taken.wait(1.0)
        return write(step)

    def of_another(lm):
        other = fleet(lm)
        if seen:
            taken.set()
            time.sleep(0.3)
        return other

    ppo.answers.ahead._write, ppo.answers.sampler_of = late, of_another
    with closing(ppo):
        for stand_in in stand_ins:
            stand_in.slow = 0.003
        for metrics in ppo:
            seen.append(metrics)
            if len(seen) == 2:  # what is being written is written to its end, and not by the reference
                ppo.evaluate(ppo.reference)
        assert_of(ppo.policy, ppo.sampler.generate(random_prompts(), SAMPLING))
    for metrics in seen:
        assert metrics["policy/first_drift_max"] < 1e-4
        assert metrics["sampler/agreement"] < 1e-4
        assert metrics["sampler/servers"] == 2
        assert metrics["sampler/dropped"] == 0
        assert metrics["sampler/staleness_max"] <= 2
    assert max(metrics["sampler/staleness_max"] for metrics in seen) >= 1
    assert "fleet" not in {thread.name for thread in threading.enumerate()}


def test_one_that_no_longer_says_it_is_well_is_noticed_while_it_writes(start, lm, monkeypatch):
    """Its prompts go elsewhere in the time for that, and not in that of an answer."""
    monkeypatch.setattr(watching, "LOOKED_AT", 0.1)
    stand_ins, fleet = start(2, health_timeout=0.3)
    with fleet(lm) as sampler:
        want = sampler.generate(random_prompts(), SAMPLING)
        stand_ins[1].paused = stand_ins[1].sick = True
        began = time.monotonic()
        found = sampler.generate(random_prompts(), SAMPLING)
        assert time.monotonic() - began < 3
        assert [each.ids for each in found] == [each.ids for each in want]
        assert "no answer to /health in 0.3 s" in fleet.down[fleet.servers[1].url]
        began = time.monotonic()
        sampler.publish(lm.weights(), 1)
        assert time.monotonic() - began < 3
        stand_ins[1].sick = False
        sampler.publish(lm.weights(), 2)
        until(lambda: not fleet.down)
        assert_of(lm, sampler.generate(random_prompts(), SAMPLING))


def test_one_whose_engine_hangs_behind_a_server_that_is_well_is_noticed(start, lm, monkeypatch):
    monkeypatch.setattr(watching, "LOOKED_AT", 0.1)
    stand_ins, fleet = start(2, stall_timeout=0.5)
    with fleet(lm) as sampler:
        want = sampler.generate(random_prompts(), SAMPLING)
        stand_ins[0].slow = stand_ins[1].slow = 0.1  # which takes longer than that, and is no fault
        stand_ins[1].paused = True
        found = sampler.generate(random_prompts(), replace(SAMPLING, max_new_tokens=12))
        assert [each.ids[: len(own.ids)] for each, own in zip(found, want, strict=True)] == [each.ids for each in want]
        assert [*fleet.down] == [fleet.servers[1].url]
        assert "no token of them in 0.5 s (stall_timeout); its engine hangs" in fleet.down[fleet.servers[1].url]


def test_what_ends_the_watch_is_no_secret(start, lm, monkeypatch):
    monkeypatch.setattr(watching, "LOOKED_AT", 0.05)
    _, fleet = start()
    sampler = fleet(lm)

    async def broken(_):
        raise ZeroDivisionError

    monkeypatch.setattr(Server, "healthy", broken)
    time.sleep(0.5)
    with pytest.raises(ZeroDivisionError):
        sampler.generate([[5]], SAMPLING)
    with pytest.raises(ZeroDivisionError):
        sampler.close()


def test_whoever_waits_when_it_is_closed_hears_of_it(start, lm):
    [stand_in], fleet = start()
    sampler = fleet(lm)
    stand_in.paused = True
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(sampler.generate, [[5]], SAMPLING)
        time.sleep(0.2)
        sampler.close()
        with pytest.raises(SamplerError, match="was closed before the answers were written"):
            waiting.result(5)
    with pytest.raises(SamplerError, match="the sampler is closed"):
        sampler.generate([[5]], SAMPLING)


def test_servers_with_too_little_room_are_refused_beforehand(start, tiny_lm):
    stand_ins, fleet = start(2)
    stand_ins[1].positions = 20
    lm = tiny_lm("llama")
    with pytest.raises(
        ConfigError, match=r"response_length: 30 and the longest prompt, 3 tokens, are more than the 20 "
    ):
        PPO(lm.model, ["a b"], lambda prompts, completions: [0.0], {"response_length": 30}, tokenizer=lm.tokenizer,
            progress=False, sampler=fleet)  # fmt: skip
    assert not list(fleet.folder.glob("*"))


def test_other_tensors_are_copied_and_strange_ones_refused(start, lm, tiny_lm):
    _, fleet = start()
    other = tiny_lm("llama", seed=1)
    with fleet(lm) as sampler:
        sampler.publish(other.weights(), 1)
        assert_of(other, sampler.generate(random_prompts(), SAMPLING))
        with pytest.raises(Exception, match="no weight 'nothing'"):
            sampler.publish({"nothing": torch.ones(1)}, 2)


def test_another_models_sampler_gives_the_servers_back(start, lm, tiny_lm):
    """As a reference's, whose answers are asked for while the policy is trained."""
    _, fleet = start()
    reference = tiny_lm("llama", seed=1)
    with fleet(lm) as sampler:
        with fleet(reference) as other:
            assert_of(reference, other.generate(random_prompts(), SAMPLING))
        assert_of(lm, sampler.generate(random_prompts(), SAMPLING))


def test_a_server_that_dies_is_left_out_until_weights_are_published(start, lm, capsys):
    stand_ins, fleet = start(2)
    with fleet(lm) as sampler:
        want = sampler.generate(random_prompts(), SAMPLING)
        stand_ins[1].dies_after = stand_ins[1].asked + 1
        found = sampler.generate(random_prompts(), SAMPLING)
        assert [each.ids for each in found] == [each.ids for each in want]  # nothing is lost, and nothing else drawn
        [(url, why)] = fleet.down.items()
        assert url == fleet.servers[1].url
        assert "/inference/v1/generate" in why
        assert capsys.readouterr().err.count(f"{why}; it is left out until the next weights\n") == 1
        stand_ins[1].dies_after = None
        sampler.publish(lm.weights(), 1)
        until(lambda: not fleet.down)
        stand_ins[1].dies_after = 0
        sampler.publish(lm.weights(), 2)
        assert [*fleet.down] == [url]
        stand_ins[0].dies_after = 0
        with pytest.raises(SamplerError, match=r"no server is left:\nhttp://127(.|\n)*\nhttp://127"):
            sampler.generate(random_prompts(), SAMPLING)


def test_one_that_ends_in_the_midst_of_an_answer_is_named_with_the_kind_of_error(start, lm, monkeypatch):
    _, fleet = start()
    with fleet(lm) as sampler:
        monkeypatch.setattr(sampler.fleet.servers[0]._client, "request", ends_in_the_midst)
        with pytest.raises(SamplerError, match=r"/inference/v1/generate: ReadError"):
            sampler.generate([[5]], SAMPLING)


async def ends_in_the_midst(*_, **__):
    """As httpx says it of a connection that is reset."""
    raise httpx.ReadError("")


def test_one_that_hangs_is_named_in_its_time(start, lm):
    [stand_in], fleet = start()
    with ExitStack() as stack:
        sampler = stack.enter_context(fleet(lm))
        stand_in.hangs = True
        fleet.servers[0].timeout = 0.5
        with pytest.raises(SamplerError, match=r"no answer to /inference/v1/generate in 0\.5 s; it hangs"):
            sampler.generate([[5]], SAMPLING)
        stand_in.hangs = False


def test_a_busy_one_is_asked_again(start, lm):
    [stand_in], fleet = start()
    with fleet(lm) as sampler:
        stand_in.busy = 2
        assert_of(lm, sampler.generate([[5]], SAMPLING))
        stand_in.busy = 3
        with pytest.raises(SamplerError, match="status 503"):
            sampler.generate([[5]], SAMPLING)


@pytest.mark.parametrize("fault", ["stale", "raw"])
def test_one_that_says_what_the_model_does_not_say_is_found_out(start, lm, fault):
    [stand_in], fleet = start()
    with ExitStack() as stack:
        sampler = stack.enter_context(fleet(lm))
        setattr(stand_in, fault, True)
        with torch.no_grad():
            for weight in lm.model.parameters():
                weight.mul_(1.5)
        with pytest.raises(NumericsError, match=r"up to .* nats from the model's own, and at most 0\.001 is rounding"):
            sampler.publish(lm.weights(), 1)


def test_one_that_was_started_again_or_has_another_jobs_weights_is_left_out(start, lm, tiny_lm, tmp_path):
    stand_ins, fleet = start(2)
    with fleet(lm) as sampler:
        stand_ins[0].label = "default"
        assert_of(lm, sampler.generate(random_prompts(), SAMPLING))
        assert "answers with weights default in place of" in fleet.down[fleet.servers[0].url]
        other = Fleet([server.url for server in fleet.servers], weights=tmp_path / "weights")
        with other(tiny_lm("llama", seed=1)), pytest.raises(SamplerError, match="another job has published to it"):
            sampler.generate(random_prompts(), SAMPLING)


def test_one_that_aborts_is_left_out(start, lm):
    stand_ins, fleet = start(2)
    with fleet(lm) as sampler:
        stand_ins[0].aborts = True
        assert_of(lm, sampler.generate(random_prompts(), SAMPLING))
        assert "no whole answer" in fleet.down[fleet.servers[0].url]


def test_a_sampler_that_is_not_made_leaves_nothing_behind(start, lm):
    [stand_in], fleet = start()
    stand_in.dies_after = 0
    with pytest.raises(SamplerError, match="start them again, then go on with --resume"):
        fleet(lm)
    assert not list(fleet.folder.glob("*"))
    assert not fleet.samplers


def test_weights_of_a_process_that_was_killed_are_deleted_by_the_next_one(start, lm):
    _, fleet = start()
    here = platform.node()
    for name, host in (("killed", here), ("elsewhere", "other"), ("alive", here), ("run", here)):
        (fleet.folder / name / "version-000003").mkdir(parents=True)
        (fleet.folder / name / LOCK_FILE).touch()
        (fleet.folder / name / HOLDER_FILE).write_text(json.dumps({"pid": 1, "host": host, "since": 0.0}))
    (fleet.folder / "run/recipe.toml").touch()
    (fleet.folder / "servers").mkdir()
    free = take(fleet.folder / "alive")
    with fleet(lm) as sampler:
        names = {path.name for path in fleet.folder.iterdir()}
        assert names == {"elsewhere", "alive", "run", "servers", sampler.folder.name}
        assert is_taken(sampler.folder)
    free()


def test_one_that_keeps_old_keys_is_left_out(start, lm):
    [stand_in], fleet = start()
    stand_in.keeps_keys = True
    with pytest.raises(SamplerError, match="keeps keys of old weights"):
        fleet(lm)


def test_what_cannot_be_asked_of_it(start, lm):
    [stand_in], fleet = start()
    with fleet(lm) as sampler:
        with pytest.raises(DataError, match="prompt 2 is empty"):
            sampler.generate([[5], []], SAMPLING)
        with pytest.raises(DataError, match=r"prompt 2: http.*: status 400: .*Token id 99999 is out of vocabulary"):
            sampler.generate([[5], [99999]], SAMPLING)
        assert not fleet.down  # it is the prompt's fault
        for name, value in (("top_logprobs", 2), ("json_schema", "{}")):
            with pytest.raises(ConfigError, match=f"{name}: not with a fleet"):
                sampler.generate([[5]], replace(SAMPLING, **{name: value}))
        stand_in.positions = 4
        endless = replace(SAMPLING, logit_bias=tuple((token, -100.0) for token in lm.eos_ids))
        with pytest.raises(DataError, match=r"after 3 tokens .* is its --max-model-len too short"):
            sampler.generate([[5]], replace(endless, max_new_tokens=20))


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"urls": []}, "urls: a list of servers"),
        ({"urls": ["here"]}, "'here' is no URL of a server; write http://host:port"),
        ({"urls": ["http://h:port"]}, "'http://h:port' is no URL of a server; write http://host:port, such as"),
        ({"urls": ["http://:8000"]}, "'http://:8000' is no URL"),
        ({"health_timeout": 0}, "health_timeout"),
        ({"urls": ["http://a", "http://a"]}, "a server stands in it twice"),
        ({"tries": 0}, "tries"),
        ({"kind": "sglang"}, "kind"),
        ({"weight": "x"}, "weight"),
    ],
)
def test_settings_that_do_not_fit(tmp_path, settings, error):
    with pytest.raises(ConfigError, match=error):
        sampler_of({"kind": "vllm", "urls": ["http://127.0.0.1:1"], "weights": str(tmp_path), **settings})


def test_nobody_there(lm, tmp_path, monkeypatch):
    monkeypatch.setattr(waits, "PAUSE", 0.01)
    fleet = FleetSpec(kind="vllm", urls="http://127.0.0.1:9", weights=str(tmp_path)).fleet()
    with pytest.raises(SamplerError, match=r"no server is left:\nhttp://127.0.0.1:9: takes no connection"):
        fleet(lm)


@pytest.mark.parametrize("said", [b"{}", b"[]", b"text", b'{"choices": []}', b'{"choices": [{"token_ids": null}]}'])
def test_an_answer_of_another_form(said, monkeypatch):
    class Reply:
        is_success, content, text = True, said, said.decode()

        def json(self):
            return json.loads(said)

    server = Server("http://127.0.0.1:9", timeout=1.0, tries=1)

    async def request(*_, **__):
        return Reply()

    monkeypatch.setattr(server._client, "request", request)
    with pytest.raises(ServerFailure, match=r"^http://127.0.0.1:9: (an answer of another form|.*no JSON)"):
        asyncio.run(server.generate([5], {}, "a"))


def test_ppo_trains_as_with_answers_of_its_own(start, tiny_lm):
    """Log-probabilities agree at every step, and what is evaluated is each model's own."""
    stand_ins, fleet = start(2)
    prompts = [f"{word} {other}" for word in ("a", "b", "c", "d") for other in ("x", "y")]
    lm = tiny_lm("llama")
    settings = {"steps": 3, "batch_size": 8, "mini_batch_size": 4, "response_length": 6, "learning_rate": 3e-3,
                "stop_tokens": []}  # fmt: skip
    ppo = PPO(
        lm.model, prompts, lambda prompts, completions: [float(len(text)) for text in completions], settings,
        tokenizer=lm.tokenizer, eval_prompts=["e f"], progress=False, sampler=fleet,
    )  # fmt: skip
    for metrics in ppo:
        assert metrics["policy/first_drift_max"] < 1e-4
    assert ppo.sampler.version == 3
    assert all(len({*stand_in.salts}) >= 4 for stand_in in stand_ins)
    assert_of(ppo.policy, ppo.sampler.generate(random_prompts(), SAMPLING))
    ppo.close()


def test_a_recipe_names_them_and_goes_on_with_them(start, lm, kedge, tmp_path):
    stand_ins, fleet = start(2)
    lm.save(tmp_path / "policy")
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": f"{word} b"}) + "\n" for word in "acde"))
    urls = json.dumps([server.url for server in fleet.servers])
    (tmp_path / "recipe.toml").write_text(f"""
name = "fleet"
[ppo]
policy = "{tmp_path}/policy"
prompts = "{tmp_path}/prompts.jsonl"
reward = {{ kind = "regex", pattern = "e" }}
sampler = {{ kind = "vllm", urls = {urls}, weights = "{tmp_path}/weights" }}
run = "{tmp_path}/run"
steps = 2
batch_size = 4
mini_batch_size = 4
response_length = 4
checkpoint_every = 1
""")
    status, _, err = kedge("ppo", tmp_path / "recipe.toml")
    assert status == 0, err
    assert not list((tmp_path / "weights").glob("*"))  # nothing is left behind
    assert {len(stand_in.loaded) for stand_in in stand_ins} == {5}  # the policy, a look at the reference, two updates
    assert all("version-000002" in stand_in.loaded[-1] for stand_in in stand_ins)
    moved = {"kind": "vllm", "urls": [fleet.servers[1].url], "weights": str(tmp_path / "elsewhere"), "timeout": 9.0}
    ppo = PPO.resume(tmp_path / "run", steps=3, sampler=moved, progress=False)
    with closing(ppo):
        [metrics] = list(ppo)
        assert metrics["policy/first_drift_max"] < 1e-4
        assert_of(ppo.policy, ppo.sampler.generate(random_prompts(), SAMPLING))
    assert [stand_in.loaded[-1][-14:] for stand_in in stand_ins] == ["version-000002", "version-000003"]
