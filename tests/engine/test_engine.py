"""Completions: against model.generate, fresh forward passes and transformers' warpers, whatever the batch."""

import warnings
from collections import Counter

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LogitsProcessorList,
    MinPLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from kedge.engine.columns import ColumnDecoder
from kedge.engine.engine import Engine
from kedge.engine.sampling import Sampling, random_stream
from kedge.engine.slots import SlotDecoder, slot_decoder
from kedge.errors import DataError, NumericsError
from kedge.models.language_model import LanguageModel

LENGTHS = [3, 5, 12, 1, 40, 60, 19, 20]  # some share a batch, some are far apart


@pytest.fixture
def lm(arch, tiny_lm):
    return tiny_lm(arch)


def random_prompts(lengths=LENGTHS, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(5, 300, (n,), generator=generator).tolist() for n in lengths]


@torch.no_grad()
def fresh(lm, completion, temperature, top_k=0, top_p=1.0, min_p=0.0):
    """Log-probabilities of a completion's tokens from one plain forward pass and transformers' own warpers."""
    start, ids = len(completion.prompt_ids), completion.prompt_ids + completion.ids
    logits = lm.model(torch.tensor([ids])).logits[0, start - 1 : -1].float() / temperature
    warpers = LogitsProcessorList()
    warpers += [TopKLogitsWarper(top_k)] if top_k else []
    warpers += [TopPLogitsWarper(top_p)] if top_p < 1 else []
    warpers += [MinPLogitsWarper(min_p)] if min_p else []
    distribution = warpers(None, logits).log_softmax(-1)
    return [distribution[t, token].item() for t, token in enumerate(completion.ids)]


def test_greedy_is_generate(lm):
    prompts = random_prompts()
    ours = Engine(lm).generate(prompts, Sampling(max_new_tokens=14, temperature=0))
    for prompt, completion in zip(prompts, ours, strict=True):
        ids = torch.tensor([prompt])
        theirs = lm.model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=14, eos_token_id=1, pad_token_id=0
        )
        assert completion.ids == theirs[0, len(prompt) :].tolist()
        assert completion.prompt_ids == prompt
        assert completion.logprobs == [0.0] * len(completion.ids)


def test_logprobs_are_those_of_a_fresh_pass(lm):
    for completion in Engine(lm).generate(random_prompts(), Sampling(max_new_tokens=14, temperature=0.7), seed=3):
        assert completion.logprobs == pytest.approx(fresh(lm, completion, 0.7), abs=1e-4)


@pytest.mark.parametrize(
    "settings", [{"top_k": 4}, {"top_p": 0.6}, {"min_p": 0.2}, {"top_k": 20, "top_p": 0.9, "min_p": 0.05}], ids=str
)
def test_logprobs_are_those_of_the_truncated_distribution(tiny_lm, settings):
    lm = tiny_lm("qwen3")
    sampling = Sampling(max_new_tokens=20, temperature=1.3, **settings)
    for completion in Engine(lm).generate(random_prompts(), sampling, seed=3):
        want = fresh(lm, completion, 1.3, **settings)
        assert min(want) > -torch.inf  # nothing outside the set was drawn
        assert completion.logprobs == pytest.approx(want, abs=1e-4)


def test_a_request_does_not_depend_on_its_companions(lm):
    engine, prompts = Engine(lm), random_prompts()
    sampling = Sampling(max_new_tokens=10)
    together = engine.generate(prompts, sampling, seed=5)
    for i in (0, 3, 5):
        [alone] = engine.generate([prompts[i]], sampling, seed=5, first_request=i)
        assert alone.ids == together[i].ids
        assert alone.logprobs == pytest.approx(together[i].logprobs, abs=1e-4)
    assert [c.ids for c in engine.generate(prompts[4:], sampling, seed=5, first_request=4)] == [
        c.ids for c in together[4:]
    ]


def test_same_seed_same_draws(tiny_lm):
    engine, prompts = Engine(tiny_lm("llama")), [[5, 6]] * 6
    first, again, other = (
        [c.ids for c in engine.generate(prompts, Sampling(max_new_tokens=12), seed=seed)] for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other
    assert len(set(map(tuple, first))) == 6  # equal prompts draw from streams of their own


def test_draws_follow_the_model(tiny_lm):
    """Two tokens deep: how often each first token comes, against the softmax of the model."""
    lm, n = tiny_lm("gpt2"), 6000
    drawn = [c.ids[0] for c in Engine(lm).generate([[9, 8, 7]] * n, Sampling(max_new_tokens=1, top_k=6), seed=1)]
    with torch.no_grad():
        logits = lm.model(torch.tensor([[9, 8, 7]])).logits[0, -1]
    top = logits.topk(6)
    expected = top.values.softmax(-1) * n
    counts = torch.bincount(torch.tensor(drawn), minlength=len(logits))[top.indices]
    assert counts.sum() == n
    assert ((counts - expected) ** 2 / expected).sum() < 20.5  # chi-square, 5 degrees of freedom, 1 in 1000


@torch.no_grad()
def test_every_token_is_drawn_by_its_own_random_number(tiny_lm):
    """The t-th number of a request's stream falls into the t-th token's share of the distribution, tokens in order."""
    lm = tiny_lm("llama")
    for i, completion in enumerate(Engine(lm).generate(random_prompts(), Sampling(max_new_tokens=9), seed=4)):
        ids = completion.prompt_ids + completion.ids
        ends = (
            lm.model(torch.tensor([ids])).logits[0, len(completion.prompt_ids) - 1 : -1].double().softmax(-1).cumsum(-1)
        )
        for t, (number, token) in enumerate(zip(random_stream(4, i, 9).tolist(), completion.ids, strict=False)):
            assert (ends[t, token - 1] if token else 0) - 1e-5 < number < ends[t, token] + 1e-5


def test_nothing_asked(tiny_lm):
    assert Engine(tiny_lm("llama")).generate([], Sampling()) == []


class TestEndings:
    PROMPT = (260, 261, 262)

    def answer(self, scripted, text, **settings):
        [completion] = Engine(scripted(list(self.PROMPT), text)).generate([list(self.PROMPT)], Sampling(**settings))
        return completion

    def test_eos(self, scripted, tiny_tokenizer):
        completion = self.answer(scripted, "the cat")
        assert (completion.text, completion.finish_reason) == ("the cat", "eos")
        assert completion.ids == [*tiny_tokenizer("the cat").input_ids, 1]
        assert completion.logprobs == [0.0] * len(completion.ids)

    @pytest.mark.shared
    def test_every_eos_id_ends(self, stories):
        assert stories.eos_ids == (2, 1)
        [completion] = Engine(stories).generate(
            [stories.tokenizer("The dog was happy. The end.").input_ids], Sampling(max_new_tokens=80, temperature=0)
        )
        assert completion.ids[-1] == 1
        assert 1 not in completion.ids[:-1]
        assert completion.finish_reason == "eos"
        assert completion.text.endswith("The end.")

    def test_length(self, scripted, tiny_tokenizer):
        ids = tiny_tokenizer("the cat sat on the mat").input_ids
        completion = self.answer(scripted, ids, max_new_tokens=3)
        assert (completion.ids, completion.finish_reason) == (ids[:3], "length")
        # An EOS as the very last token allowed is an end, not a cut.
        assert self.answer(scripted, ids, max_new_tokens=len(ids) + 1).finish_reason == "eos"
        assert self.answer(scripted, ids, max_new_tokens=len(ids)).finish_reason == "length"

    @pytest.mark.parametrize(
        ("text", "stops", "expected", "reason"),
        [
            ("the cat\nUser: hi", ("\nUser:",), "the cat", "stop"),
            ("the cat sat", ("sat", "cat"), "the ", "stop"),
            ("the cat sat", ("the",), "", "stop"),
            ("the cat sat", ("dog",), "the cat sat", "eos"),
            ("das 猫 sat", ("猫",), "das ", "stop"),
            ("the cat", ("at",), "the c", "stop"),
        ],
    )
    def test_stop_strings(self, scripted, text, stops, expected, reason):
        completion = self.answer(scripted, text, stop_strings=stops)
        assert (completion.text, completion.finish_reason) == (expected, reason)
        assert completion.ids[-1] != 1 or reason == "eos"
        assert len(completion.ids) == len(completion.logprobs)

    def test_rows_that_end_early_leave_the_others_alone(self, tiny_lm):
        lm = tiny_lm("llama")
        prompts = random_prompts([4, 6, 9, 4, 5, 7], seed=8)
        sampling = Sampling(max_new_tokens=30, temperature=1.5)
        free = Engine(lm).generate(prompts, sampling, seed=2)
        [(common, _)] = Counter(token for c in free for token in c.ids).most_common(1)
        enders = type(lm)(lm.model, lm.tokenizer, (1, common))
        ended = Engine(enders).generate(prompts, sampling, seed=2)
        assert len({len(c.ids) for c in ended}) > 1
        for a, b in zip(free, ended, strict=True):
            cut = a.ids[: a.ids.index(common) + 1] if common in a.ids else a.ids
            assert b.ids == cut
            assert b.logprobs == pytest.approx(a.logprobs[: len(cut)], abs=1e-4)


class TestLimits:
    def test_too_long(self, tiny_lm):
        engine = Engine(tiny_lm("llama"))
        engine.generate([[5] * 120], Sampling(max_new_tokens=8))
        with pytest.raises(DataError, match="prompt 2: 121 tokens and 8 new ones are more than the model's 128"):
            engine.generate([[5], [5] * 121], Sampling(max_new_tokens=8))
        with pytest.raises(DataError, match="prompt: 121 tokens"):
            list(engine.stream([5] * 121, Sampling(max_new_tokens=8)))

    def test_no_limit_without_positions(self, tiny_lm):
        [completion] = Engine(tiny_lm("mamba")).generate([[5] * 150], Sampling(max_new_tokens=2))
        assert len(completion.ids) <= 2

    def test_empty_prompt(self, tiny_lm):
        with pytest.raises(DataError, match="prompt 2: no tokens in it"):
            Engine(tiny_lm("llama")).generate([[5], []], Sampling())


class TestStream:
    @pytest.mark.parametrize("name", ["llama", "mamba"])
    def test_is_generate_in_pieces(self, tiny_lm, name):
        engine, sampling = Engine(tiny_lm(name)), Sampling(max_new_tokens=40, temperature=1.2)
        for seed in range(4):
            [whole] = engine.generate([[260, 261]], sampling, seed=seed)
            pieces = list(engine.stream([260, 261], sampling, seed=seed))
            assert "".join(pieces) == whole.text  # random bytes: half characters everywhere
            assert all(pieces)

    @pytest.mark.parametrize(
        ("text", "stops"),
        [
            ("the cat sat on the mat", ()),
            ("naïve 雪☃ 👩‍🚀 the", ()),
            ("the cat\nUser: hi", ("\nUser:",)),
            ("the cat\nUs and the cat", ("\nUser:",)),
            ("the caaat", ("aat",)),
            ("ends in a prefix \nUs", ("\nUser:",)),
            ("x雪", ("雪",)),
            ("the cat\n用户 hi", ("\n用户",)),  # half a character stands after the beginning of the stop string
        ],
    )
    def test_pieces_join_to_the_text(self, scripted, text, stops):
        engine, sampling = Engine(scripted([260], text)), Sampling(stop_strings=stops)
        [whole] = engine.generate([[260]], sampling)
        assert "".join(engine.stream([260], sampling)) == whole.text

    def test_pieces_come_while_the_text_is_written(self, scripted):
        stream = Engine(scripted([260], "the cat sat")).stream([260], Sampling())
        assert next(stream) == "the"
        assert len(list(stream)) > 1

    def test_nothing_uncertain_is_shown(self, scripted):
        shown = "".join(list(Engine(scripted([260], "the 雪")).stream([260], Sampling()))[:-1])
        assert "\N{REPLACEMENT CHARACTER}" not in shown

    @pytest.mark.shared
    def test_a_story(self, stories):
        prompt = stories.tokenizer("Once upon a time").input_ids
        sampling = Sampling(max_new_tokens=60)
        [whole] = Engine(stories).generate([prompt], sampling, seed=4)
        assert "".join(Engine(stories).stream(prompt, sampling, seed=4)) == whole.text
        assert whole.text.startswith((" ", ","))


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
    monkeypatch.setattr("kedge.engine.slots.sliding_windows", lambda model: [2, 2])
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
        engine.weights_changed()
        while engine.step():
            pass
        for prompt, start, request in zip(prompts, before, requests, strict=True):
            rest = Sampling(max_new_tokens=10 - len(start), temperature=0)
            [fresh] = Engine(lm).generate([prompt + start], rest)
            assert request.ids == start + fresh.ids
            assert request.version == engine.version == 1

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
