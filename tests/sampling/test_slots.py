"""Slots, requests that come and go, and the slower way: none of them changes an answer."""

import warnings

import pytest
import torch
from answers import fresh, random_prompts
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
)

from kedge.errors import NumericsError
from kedge.models.language_model import LanguageModel
from kedge.sampling.local.columns import ColumnDecoder
from kedge.sampling.local.engine import Engine
from kedge.sampling.local.slots import SlotDecoder, slot_decoder
from kedge.sampling.settings import Sampling

IN_SLOTS = ["llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3_text", "gpt2", "gpt_neox", "phi3", "olmo2"]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_usual_architectures_are_written_in_slots(tiny_lm, arch, attention):
    lm = tiny_lm(arch, **({"attn_implementation": attention} if arch in IN_SLOTS else {}))
    engine = Engine(lm)
    greedy = Sampling(max_new_tokens=5, temperature=0)
    ours = [c.ids for c in engine.generate(random_prompts(), greedy)]
    assert isinstance(engine._decoder, SlotDecoder) == (arch in IN_SLOTS)
    slow = Engine(lm)
    slow._decoder = ColumnDecoder(lm.model)
    assert [c.ids for c in slow.generate(random_prompts(), greedy)] == ours
    assert lm.model.config._attn_implementation == attention or arch not in IN_SLOTS


def test_the_slower_way_is_said_once(tiny_lm, recwarn):
    lm = tiny_lm("mamba")
    warnings.simplefilter("default")
    for _ in range(2):
        Engine(lm).generate([[5, 6]], Sampling(max_new_tokens=2))
    assert [str(w.message) for w in recwarn if "slower way" in str(w.message)] == [
        "MambaForCausalLM: answers are written the slower way; its cache is not the usual one"
    ]


def test_a_cache_that_does_not_fit_is_found_out(tiny_lm, monkeypatch):
    """A window of 6 that the decoder takes for 2: on the trial's five tokens it shows."""
    monkeypatch.setattr("kedge.sampling.local.slots.sliding_windows", lambda model: [2, 2])
    assert slot_decoder(tiny_lm("mistral")) is None


@pytest.mark.parametrize(
    "settings", [{"max_rows": 1}, {"max_rows": 3}, {"max_rows": 8}, {"burst": 4}, {"max_rows": 5, "burst": 3}], ids=str
)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("name", ["llama", "gemma3_text", "gpt2", "mamba"])
def test_neither_slots_nor_bursts_change_an_answer(tiny_lm, name, temperature, settings):
    """More prompts than slots, answers of unlike lengths, prompts that come in while others are written."""
    lm = tiny_lm(name)
    lm = type(lm)(lm.model, lm.tokenizer, tuple(range(0, 320, 9)))  # ends now and then
    prompts = random_prompts([3, 9, 4, 20, 1, 7, 7, 12, 30, 2, 5, 6])
    sampling = Sampling(max_new_tokens=25, temperature=temperature)
    want = Engine(lm).generate(prompts, sampling, seed=2)
    got = Engine(lm, **settings).generate(prompts, sampling, seed=2)
    if temperature:
        assert len({len(c.ids) for c in want}) > 4
    for a, b in zip(want, got, strict=True):
        assert (a.ids, a.finish_reason) == (b.ids, b.finish_reason)
        assert b.logprobs == pytest.approx(a.logprobs, abs=1e-4)


def test_nothing_is_computed_for_a_finished_row(tiny_lm):
    lm = tiny_lm("llama")
    assert lm.head is not None
    prompts, lengths = random_prompts([4, 4, 4, 4, 4]), [2, 9, 5, 5, 1]
    engine, fed = Engine(lm, max_rows=3), []
    engine.generate([[5]], Sampling(1))  # tries the model out
    lm.model.base_model.register_forward_pre_hook(
        lambda _, __, kwargs: fed.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    for i, (prompt, length) in enumerate(zip(prompts, lengths, strict=True)):
        engine.submit(prompt, Sampling(length), request=i)
    while engine.step():
        pass
    # Each prompt once; each answer's tokens but the last, which nothing follows.
    assert sum(fed) == 5 * 4 + sum(length - 1 for length in lengths)


def test_the_cache_is_kept_and_grows(tiny_lm):
    engine = Engine(tiny_lm("llama"))
    sampling = Sampling(max_new_tokens=6)
    engine.generate(random_prompts([4, 5]), sampling)
    keys = engine._decoder._layers[0].keys
    engine.generate(random_prompts([9, 5]), sampling)
    assert engine._decoder._layers[0].keys is keys
    engine.generate(random_prompts([4] * 3 + [100]), sampling)
    assert engine._decoder._layers[0].keys.shape[:3] == (4, 2, 128)


class TestRequests:
    def test_each_with_its_own_sampling(self, tiny_lm):
        lm = tiny_lm("llama")
        kinds = [
            Sampling(6),
            Sampling(9, temperature=0),
            Sampling(4, top_k=3),
            Sampling(6),
            Sampling(8, temperature=0.5),
        ]
        prompts = random_prompts([3, 8, 5, 2, 9])
        engine = Engine(lm)
        requests = [engine.submit(p, s, seed=1, request=i) for i, (p, s) in enumerate(zip(prompts, kinds, strict=True))]
        while engine.step():
            pass
        for i, (prompt, sampling, request) in enumerate(zip(prompts, kinds, requests, strict=True)):
            [alone] = Engine(lm).generate([prompt], sampling, seed=1, first_request=i)
            assert request.completion().ids == alone.ids
            assert request.logprobs == pytest.approx(alone.logprobs, abs=1e-4)

    @pytest.mark.parametrize("name", ["llama", "mamba"])
    def test_a_cancelled_one_leaves_the_others_alone(self, tiny_lm, name):
        lm, sampling = tiny_lm(name), Sampling(max_new_tokens=12)
        prompts = random_prompts([4, 6, 5, 3])
        want = Engine(lm).generate(prompts, sampling, seed=3)
        engine = Engine(lm, max_rows=3)
        requests = [engine.submit(p, sampling, seed=3, request=i) for i, p in enumerate(prompts)]
        for _ in range(4):
            engine.step()
        engine.cancel(requests[0])  # the first row: another takes its slot
        written = len(requests[0].ids)
        assert requests[0].finish_reason == "cancelled"
        while engine.step():
            pass
        assert len(requests[0].ids) == written > 0
        for i in (1, 2, 3):
            assert requests[i].completion().ids == want[i].ids
        engine.cancel(*requests)
        assert requests[1].finish_reason != "cancelled"  # what is finished stays as it is

    def test_a_waiting_one_is_cancelled_too(self, tiny_lm):
        engine = Engine(tiny_lm("llama"), max_rows=1)
        first, second = (engine.submit([5, 6], Sampling(3), request=i) for i in range(2))
        engine.step()
        engine.cancel(second)
        while engine.step():
            pass
        assert (first.finish_reason, second.finish_reason, second.ids) == ("length", "cancelled", [])

    def test_a_stream_that_is_left_is_cancelled(self, scripted):
        engine = Engine(scripted([260], "the cat sat on the mat"))
        stream = engine.stream([260], Sampling())
        next(stream)
        stream.close()
        assert engine.step() == []

    def test_generate_after_an_error_begins_anew(self, tiny_lm):
        lm = tiny_lm("llama")
        engine = Engine(lm)
        want = [c.ids for c in Engine(lm).generate(random_prompts([3, 4]), Sampling(5))]
        weight = lm.model.model.norm.weight
        kept = weight.detach().clone()
        with torch.no_grad():
            weight.fill_(float("nan"))
        with pytest.raises(NumericsError, match="NaN or infinite"):
            engine.generate(random_prompts([3, 4]), Sampling(5))
        with torch.no_grad():
            weight.copy_(kept)
        assert engine.step() == []
        assert [c.ids for c in engine.generate(random_prompts([3, 4]), Sampling(5))] == want

    @pytest.mark.parametrize("name", ["llama", "mamba"])
    def test_what_is_cached_dies_with_the_weights(self, tiny_lm, name):
        """Weights change in the middle of an answer: the rest is the new model's, given the tokens so far."""
        lm, sampling = tiny_lm(name), Sampling(max_new_tokens=10, temperature=0)
        prompts = random_prompts([4, 9, 6])
        engine = Engine(lm, max_rows=2)
        requests = [engine.submit(prompt, sampling) for prompt in prompts]
        for _ in range(4):
            engine.step()
        before = [list(request.ids) for request in requests]
        assert max(map(len, before)) == 4
        assert min(map(len, before)) < 4
        with torch.no_grad():
            for weight in lm.model.parameters():
                weight.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.numel())))
        engine.publish(lm.weights(), 1)
        while engine.step():
            pass
        for prompt, start, request in zip(prompts, before, requests, strict=True):
            rest = Sampling(max_new_tokens=10 - len(start), temperature=0)
            [fresh] = Engine(lm).generate([prompt + start], rest)
            assert request.ids == start + fresh.ids
            assert request.versions == [0] * len(start) + [1] * len(fresh.ids)

    @pytest.mark.parametrize("name", ["llama", "mamba"])
    @pytest.mark.parametrize("at", [0, 3, 5])
    def test_an_interruption_anywhere_changes_no_answer(self, tiny_lm, monkeypatch, name, at):
        """The model is interrupted in the middle of a pass, twice; the requests go on as if nothing had been."""
        lm, sampling = tiny_lm(name), Sampling(max_new_tokens=8)
        prompts = random_prompts([4, 6, 5, 3])
        want = Engine(lm).generate(prompts, sampling, seed=3)
        engine, passes = Engine(lm, max_rows=3), []
        engine.generate([[5]], Sampling(1))  # tries the model out

        def interrupted(*_):
            passes.append(1)
            if len(passes) in (at + 1, at + 3):
                raise KeyboardInterrupt

        hook = lm.model.base_model.layers[1].register_forward_pre_hook(interrupted)
        requests = [engine.submit(p, sampling, seed=3, request=i) for i, p in enumerate(prompts)]
        stops = 0
        while any(request.finish_reason is None for request in requests):
            try:
                engine.step()
            except KeyboardInterrupt:
                stops += 1
        hook.remove()
        assert stops == 2
        for request, completion in zip(requests, want, strict=True):
            assert request.ids == completion.ids
            assert request.logprobs == pytest.approx(completion.logprobs, abs=1e-4)


_TINY = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
_TINY |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
UNUSUAL = {
    "gpt_neo": {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": 8},
    "falcon": {"alibi": True},
    "bloom": {"n_layer": 2, "n_head": 4},
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_what_does_not_fit_slots_is_written_the_slower_way(tiny_tokenizer, name):
    """GPT-Neo masks by the width of the batch, ALiBi by a mask of its own: found out before anything is written."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **(_TINY | UNUSUAL[name]))).eval()
    lm = LanguageModel(model, tiny_tokenizer, (1,))
    engine = Engine(lm)
    prompts = [[i % 90 + 5 for i in range(n)] for n in (3, 30, 12, 7)]
    for completion in engine.generate(prompts, Sampling(max_new_tokens=20)):
        assert completion.logprobs == pytest.approx(fresh(lm, completion, 1.0), abs=1e-4)
    assert isinstance(engine._decoder, ColumnDecoder)
