"""Completions: against model.generate, fresh forward passes and transformers' warpers, whatever the batch."""

from collections import Counter

import pytest
import torch
from answers import fresh, random_prompts

from kedge.errors import DataError
from kedge.sampling.local.engine import Engine
from kedge.sampling.local.request import Request
from kedge.sampling.local.slots import SlotDecoder
from kedge.sampling.settings import Sampling, random_stream


@pytest.fixture
def lm(arch, tiny_lm):
    return tiny_lm(arch)


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


def test_prompts_of_other_lengths_are_taken_in_apart(tiny_lm, monkeypatch):
    """And little of what is computed is padding; who asked for what stays as it was."""
    shapes = []
    admit = SlotDecoder.admit

    def seen(self, sequences):
        shapes.append([len(sequence) for sequence in sequences])
        return admit(self, sequences)

    monkeypatch.setattr(SlotDecoder, "admit", seen)
    engine, sampling = Engine(tiny_lm("llama")), Sampling(max_new_tokens=6)
    prompts = random_prompts([3, 60, 5, 61, 110, 4])
    engine.generate([[5, 6]], sampling)  # the model is tried out first
    shapes.clear()
    together = engine.generate(prompts, sampling, seed=5)
    assert shapes == [[3, 4, 5], [60, 61], [110]]
    for i, prompt in enumerate(prompts):
        [alone] = engine.generate([prompt], sampling, seed=5, first_request=i)
        assert (alone.prompt_ids, alone.ids) == (prompt, together[i].ids)


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
            ("sat", ("t", "a"), "s", "stop"),  # one token with both in it
            ("sat", ("a", "t"), "s", "stop"),
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


def test_an_error_while_an_answer_is_taken_up_costs_no_other_one(tiny_lm, monkeypatch):
    """The first request has its last token in that step, and is not written again; the other goes on where it was."""
    lm, take = tiny_lm("llama"), Request.take
    long, short = Sampling(max_new_tokens=6), Sampling(max_new_tokens=2)
    alone = Engine(lm).generate([[5, 6], [7, 8]], long, seed=1)
    engine = Engine(lm)
    first, second = (
        engine.submit(prompt, sampling, seed=1, request=i)
        for i, (prompt, sampling) in enumerate([([5, 6], short), ([7, 8], long)])
    )

    def raises(request, *drawn):
        if request is second and len(request.ids) == 1:
            monkeypatch.setattr(Request, "take", take)
            raise ZeroDivisionError
        take(request, *drawn)

    engine.step()
    monkeypatch.setattr(Request, "take", raises)
    with pytest.raises(ZeroDivisionError):
        engine.step()
    while second.finish_reason is None:
        engine.step()
    assert first.ids == alone[0].ids[:2]
    assert (second.ids, second.finish_reason) == (alone[1].ids, alone[1].finish_reason)
