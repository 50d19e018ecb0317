"""What prompts begin with is computed once, and no answer knows of it."""

import pytest
import torch
from answers import random_prompts

from kedge.models.adapters import add_adapter
from kedge.sampling.local.engine import Engine
from kedge.sampling.local.prefixes import BLOCK, Prefixes
from kedge.sampling.settings import Sampling

ROOM = 2**24
SHARED, OTHER = random_prompts([50, 40], seed=4)
TAILS = random_prompts([1, 7, 30], seed=5)
PROMPTS = [
    [*SHARED, *TAILS[0]],
    SHARED,  # as long as one that is known
    SHARED[:32],  # at the end of a block
    SHARED[:20],  # shorter
    [*SHARED, *TAILS[2]],  # longer
    [*SHARED[:35], *TAILS[1]],  # leaves it in the middle of a block
    OTHER,
    TAILS[0],  # a single token
    [*OTHER[:17], *TAILS[1]],
]


def both(lm, prompts, sampling, **how):
    """Answers without and with a cache, all prompts at once behind the first one."""
    want = Engine(lm, **how).generate(prompts, sampling, seed=2)
    engine = Engine(lm, prefix_bytes=ROOM, **how)
    requests = []
    for some in (prompts[:1], prompts[1:]):
        requests += [engine.submit(p, sampling, seed=2, request=len(requests) + i) for i, p in enumerate(some)]
        while engine.step():
            pass
    return want, requests


def assert_same(want, found, close=1e-4):
    for a, b in zip(want, found, strict=True):
        assert b.ids == a.ids
        assert b.logprobs == pytest.approx(a.logprobs, abs=close)


@pytest.mark.parametrize("rows", [2, 9])
@pytest.mark.parametrize("name", ["llama", "mistral", "gemma3_text", "gpt2", "gpt_neox"])
def test_no_answer_knows_of_it(tiny_lm, name, rows):
    """Sliding windows, learnt positions; rows of all lengths together, which go on from what is known or do not."""
    want, found = both(tiny_lm(name), PROMPTS, Sampling(max_new_tokens=12), max_rows=rows)
    assert_same(want, found)
    assert sum(request.reused for request in found) > 50
    assert found[0].reused == 0


def test_a_prefix_that_was_learnt_stays_before_it(tiny_lm):
    lm = tiny_lm("llama")
    add_adapter(lm.model, {"method": "prefix_tuning", "num_virtual_tokens": 3}, seed=1)
    want, found = both(lm, PROMPTS, Sampling(max_new_tokens=8))
    assert_same(want, found)
    assert any(request.reused for request in found)


def test_in_half_precision(tiny_lm):
    """To the rounding of its products; and what was computed in one precision is not read in another."""
    lm, sampling = tiny_lm("llama"), Sampling(max_new_tokens=1, temperature=0, top_logprobs=5)
    want = Engine(lm).generate(PROMPTS, sampling)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow, found = both(lm, PROMPTS, sampling)
        assert any(request.reused for request in found)
        for a, b in zip(narrow, found, strict=True):
            first, second = dict(a.top_logprobs[0]), dict(b.top_logprobs[0])
            assert all(second[token] == pytest.approx(first[token], abs=0.1) for token in first.keys() & second.keys())
        engine = Engine(lm, prefix_bytes=ROOM)
        engine.generate(PROMPTS, sampling)
    wide = engine.generate(PROMPTS, sampling)
    for a, b in zip(want, wide, strict=True):
        assert [nats for _, nats in b.top_logprobs[0]] == pytest.approx([x for _, x in a.top_logprobs[0]], abs=1e-4)


def test_only_what_is_new_is_computed(tiny_lm):
    lm, fed = tiny_lm("llama"), []
    engine = Engine(lm, prefix_bytes=ROOM)
    engine.generate([[5]], Sampling(1))  # tries the model out
    lm.model.base_model.register_forward_pre_hook(
        lambda _, __, kwargs: fed.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    engine.generate([[*SHARED, 9]], Sampling(1))
    engine.generate([[*SHARED, 8]], Sampling(1))
    engine.generate([SHARED[:48]], Sampling(1))
    assert fed == [51, 51 - 48, 48 - 32]
    fed.clear()
    engine.generate([[*OTHER, i] for i in range(5, 10)], Sampling(1))  # one of them for all
    assert fed == [41, 4 * (41 - 32)]


def test_published_weights_forget_it(tiny_lm):
    lm, other = tiny_lm("llama"), tiny_lm("llama", seed=3)
    engine = Engine(lm, prefix_bytes=ROOM)
    engine.generate(PROMPTS, Sampling(4))
    engine.publish(other.weights(), 2)
    assert_same(Engine(other).generate(PROMPTS, Sampling(9)), engine.generate(PROMPTS, Sampling(9)))


def test_it_is_not_there_unless_asked_for(tiny_lm):
    engine = Engine(tiny_lm("llama"))
    engine.generate([SHARED], Sampling(1))
    assert engine._decoder.prefixes is None


def test_a_failure_leaves_nothing_behind(tiny_lm, monkeypatch):
    lm = tiny_lm("llama")
    engine = Engine(lm, prefix_bytes=ROOM)
    engine.generate([SHARED], Sampling(2))
    assert len(engine._decoder.prefixes)

    def broken(*_):
        raise RuntimeError("of the model")

    with monkeypatch.context() as patch:
        patch.setattr(engine, "_draw", broken)
        with pytest.raises(RuntimeError, match="of the model"):
            engine.generate([OTHER], Sampling(2))
    assert not len(engine._decoder.prefixes)
    assert_same(Engine(lm).generate(PROMPTS, Sampling(5)), engine.generate(PROMPTS, Sampling(5)))


class TestBlocks:
    def held(self, length, value=0.0):
        return [(torch.full((2, length, 4), value), torch.full((2, length, 4), value))] * 3

    def test_the_longest_common_beginning(self):
        prefixes = Prefixes(2**20, block=4)
        prefixes.keep(range(14), self.held(14))
        assert len(prefixes.find(range(20))) == 3
        assert len(prefixes.find(range(12))) == 2  # the last token is computed
        assert len(prefixes.find([0, 1, 2, 3, 4, 5, 6, 9, 8, 9, 10, 11, 12])) == 1
        assert prefixes.find([1, 2, 3, 4, 5]) == []
        assert prefixes.find([*range(4, 12), 1]) == []  # its tokens, behind others

    def test_what_was_used_longest_ago_goes_first_and_never_a_beginning_before_its_end(self):
        a_block = 3 * 2 * 2 * 4 * 4 * 4
        prefixes = Prefixes(5 * a_block, block=4)
        old, new = list(range(100, 109)), list(range(9))
        prefixes.keep(old, self.held(9))
        prefixes.keep(new, self.held(9))
        prefixes.keep(old, self.held(9))
        prefixes.keep([50, 51, 52, 53, *new], self.held(13))
        assert prefixes.bytes == 5 * a_block == sum(block.bytes for block in prefixes._blocks.values())
        assert [len(prefixes.find(tokens)) for tokens in (old, new, [50, 51, 52, 53, *new])] == [2, 0, 3]

    def test_the_end_of_a_prompt_goes_before_its_beginning(self):
        a_block = 3 * 2 * 2 * 4 * 4 * 4
        prefixes = Prefixes(5 * a_block, block=4)
        prefixes.keep(range(20), self.held(20))
        prefixes.keep(range(50, 54), self.held(4))
        assert len(prefixes.find(range(30))) == 4

    def test_more_than_there_is_room_for(self):
        a_block = 3 * 2 * 2 * 4 * 4 * 4
        prefixes = Prefixes(2 * a_block + 1, block=4)
        prefixes.keep(range(40), self.held(40))
        assert (len(prefixes), len(prefixes.find(range(40)))) == (2, 2)
        nothing = Prefixes(1, block=4)
        nothing.keep(range(40), self.held(40))
        assert (len(nothing), nothing.bytes) == (0, 0)

    def test_it_keeps_copies(self):
        prefixes, held = Prefixes(2**20, block=4), self.held(4, 1.0)
        prefixes.keep(range(4), held)
        held[0][0].zero_()
        [block] = prefixes.find(range(5))
        assert block.held[0][0].eq(1).all()
        assert BLOCK == 16
