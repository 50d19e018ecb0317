"""Recorded decode steps, on the CPU with a tape in place of a CUDA graph: buckets, places, what makes them stale."""

import pytest
import torch
from answers import random_prompts

import tape
from kedge.sampling.local import graphs
from kedge.sampling.local.engine import Engine
from kedge.sampling.local.graphs import StepGraphs, rows_bucket, width_bucket
from kedge.sampling.local.slots import SlotDecoder
from kedge.sampling.settings import Sampling
from pretend import pretending, put

CPU = torch.device("cpu")


@pytest.fixture
def recorded(monkeypatch):
    """How often a step was recorded."""
    count = []

    def record(compute, pool):
        count.append(1)
        return tape.record(compute, pool)

    monkeypatch.setattr(graphs, "record", record)
    return count


def recording(lm, **how):
    """An engine whose steps are recorded."""
    engine = Engine(lm, **how)
    engine.generate([[5]], Sampling(1))
    engine._decoder.graphs = StepGraphs(CPU)
    engine._decoder.graphs.clear(engine._decoder._layers[0].slots)
    return engine


def test_buckets():
    assert [rows_bucket(n) for n in (1, 2, 3, 4, 5, 8, 9, 15, 16, 17, 32, 33, 64, 65, 100, 200, 256)] == [
        1, 2, 4, 4, 8, 8, 16, 16, 16, 32, 32, 48, 64, 96, 128, 256, 256,
    ]  # fmt: skip
    assert [width_bucket(n) for n in (1, 64, 65, 190, 200, 257, 385, 513, 800)] == [
        64, 64, 128, 192, 256, 384, 512, 768, 1024,
    ]  # fmt: skip


def test_a_step_is_recorded_once_a_shape(recorded):
    compute = lambda tokens, positions, width: (tokens * 10 + positions)[:, None].float() + width  # noqa: E731
    steps = StepGraphs(CPU)
    steps.clear(4)
    for n in (3, 4, 3, 2):
        tokens, positions = torch.arange(n) + n, torch.arange(n) * 2
        assert steps(compute, tokens, positions, 64).tolist() == (tokens * 10 + positions + 64)[:, None].tolist()
    assert len(recorded) == 2  # of 4 rows, and of 2
    steps(compute, torch.arange(4), torch.arange(4), 128)
    steps.clear(4)
    steps(compute, torch.arange(4), torch.arange(4), 128)
    assert len(recorded) == 4


def test_a_step_is_recorded_once_a_precision(recorded):
    weight = torch.full((8, 8), 1.001)
    compute = lambda tokens, positions, width: tokens[:, None].float().expand(-1, 8) @ weight  # noqa: E731
    steps, rows = StepGraphs(CPU), torch.tensor([1, 1])
    steps.clear(2)
    assert steps(compute, rows, rows, 64)[0, 0] == pytest.approx(8.008)
    with torch.autocast("cpu", torch.bfloat16):
        assert steps(compute, rows, rows, 64)[0, 0] == 8.0
    assert steps(compute, rows, rows, 64)[0, 0] == pytest.approx(8.008)
    assert len(recorded) == 2


def test_the_tape_knows_what_no_graph_may_do():
    for compute in (
        lambda: torch.ones(3).sum().item(),
        lambda: torch.tensor([1, 2]),
        lambda: torch.ones(3)[torch.ones(3) > 0],
        lambda: bool(torch.ones(3).all()),
    ):
        with pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
            tape.record(compute, None)
    there = torch.zeros(2)
    replay = tape.record(lambda: there.add_(torch.arange(2.0) + 1.0), None)
    there.zero_()
    replay(), replay()
    assert there.tolist() == [2.0, 4.0]


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma2", "gemma3_text", "gpt2", "gpt_neox", "phi3", "olmo2"])
def test_answers_are_the_same(tiny_lm, recorded, name):
    lm = tiny_lm(name)
    lm = type(lm)(lm.model, lm.tokenizer, tuple(range(0, 320, 9)))  # ends now and then
    generator = torch.Generator().manual_seed(1)
    prompts = [torch.randint(5, 300, (n,), generator=generator).tolist() for n in (3, 9, 4, 20, 1, 7, 50, 12, 30, 2)]
    sampling = Sampling(max_new_tokens=25)
    want = Engine(lm).generate(prompts, sampling, seed=2)
    for a, b in zip(want, recording(lm, max_rows=5, burst=3).generate(prompts, sampling, seed=2), strict=True):
        assert a.ids == b.ids
        assert b.logprobs == pytest.approx(a.logprobs, abs=1e-4)
    assert 0 < len(recorded) < 12


def test_weights_that_change_in_place_are_those_that_are_replayed(tiny_lm, recorded):
    """Under autocast too, where the low-precision copies of the weights before must not have been recorded."""
    for precision in (torch.autocast("cpu", torch.bfloat16), torch.autocast("cpu", enabled=False)):
        lm = tiny_lm("llama")
        engine, sampling = recording(lm), Sampling(max_new_tokens=9)
        with precision:
            before = engine.generate([[5, 6, 7]], sampling, seed=1)
            count = len(recorded)
            with torch.no_grad():
                for weight in lm.model.parameters():
                    weight.mul_(1.3)
            torch.clear_autocast_cache()
            engine.publish(lm.weights(), 1)
            [after] = engine.generate([[5, 6, 7]], sampling, seed=1)
            [want] = Engine(lm).generate([[5, 6, 7]], sampling, seed=1)
        assert len(recorded) == count
        assert (after.ids, after.logprobs) == (want.ids, pytest.approx(want.logprobs, abs=1e-4))
        assert after.logprobs != before[0].logprobs


def test_a_change_of_precision(tiny_lm, recorded):
    """A cache keeps what it was given in the precision that it was given in."""
    lm = tiny_lm("qwen3")  # whose norms leave keys wide under autocast
    engine, sampling = recording(lm), Sampling(max_new_tokens=9)
    for enabled in (True, False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            [found] = engine.generate([[5, 6, 7]], sampling, seed=1)
            [want] = Engine(lm).generate([[5, 6, 7]], sampling, seed=1)
        assert (found.ids, found.logprobs) == (want.ids, pytest.approx(want.logprobs, abs=1e-4))
    assert len(recorded) == 3


def test_a_cache_that_moves_takes_its_recorded_steps_with_it(tiny_lm, recorded):
    engine, sampling = recording(tiny_lm("llama"), burst=1), Sampling(max_new_tokens=3, temperature=0)
    want = engine.generate([[5, 6, 7]], sampling)
    engine.generate([[5, 6, 7]], sampling)
    assert len(recorded) == 1
    engine.generate([[5] * 100], sampling)  # more columns: the cache is a new one
    assert len(recorded) == 2
    assert engine.generate([[5, 6, 7]], sampling) == want
    assert len(recorded) == 3


def test_few_are_recorded_and_the_second_rollout_finds_all_of_them(tiny_lm, recorded, monkeypatch):
    """100 prompts whose answers end anywhere; on an accelerator the cache has its last size at once."""
    monkeypatch.setattr(SlotDecoder, "reserve", SlotDecoder._make_room)  # as there
    lm = tiny_lm("llama")
    lm = type(lm)(lm.model, lm.tokenizer, tuple(range(0, 320, 40)))
    engine, prompts = recording(lm, max_rows=64, burst=4), random_prompts([3 + i % 29 for i in range(100)])
    sizes = []
    resize = type(engine._decoder._layers[0]).resize
    monkeypatch.setattr(
        "kedge.sampling.local.slot_layers.SlotLayer.resize", lambda *a: sizes.append(a[1:]) or resize(*a)
    )
    engine.generate(prompts, Sampling(max_new_tokens=90), seed=1)
    assert sizes == [(64, 128)] * 2  # once, in both layers
    first = len(recorded)
    assert first <= 16
    engine.publish(lm.weights(), 1)
    engine.generate(prompts, Sampling(max_new_tokens=90), seed=2)
    assert len(recorded) - first <= 4  # where the answers end otherwise


def test_a_step_that_cannot_be_recorded_is_computed(tiny_lm, monkeypatch):
    """In slots all the same, and never recorded again."""
    lm = tiny_lm("llama")
    want = Engine(lm).generate([[5, 6], [7]], Sampling(6), seed=1)

    def refuse(compute, pool):
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nand more")

    monkeypatch.setattr(graphs, "record", refuse)
    engine = recording(lm)
    with pytest.warns(UserWarning, match="LlamaForCausalLM: a step cannot be recorded, .* stream is capturing$"):
        found = engine.generate([[5, 6], [7]], Sampling(6), seed=1)
    assert [c.ids for c in found] == [c.ids for c in want]
    assert engine._decoder.graphs is None
    engine.publish(lm.weights(), 1)
    assert isinstance(engine._decoder.fresh(), SlotDecoder)
    assert engine._decoder.fresh().graphs is None


def test_out_of_memory_is_no_reason_for_another_way(tiny_lm, monkeypatch):
    def full(compute, pool):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(graphs, "record", full)
    engine = recording(tiny_lm("llama"))
    with pytest.raises(torch.OutOfMemoryError):
        engine.generate([[5, 6], [7]], Sampling(6))
    assert engine._decoder._layers[0].keys is None  # what was held is given back

    monkeypatch.setattr(SlotDecoder, "admit", lambda *_: full(None, None))
    with pytest.raises(torch.OutOfMemoryError):  # in the trial too
        Engine(tiny_lm("llama")).generate([[5, 6]], Sampling(6))


@pytest.mark.parametrize(("kind", "can"), [("longrope", False), ("dynamic", False), ("linear", True)])
def test_embeddings_that_ask_how_far_a_row_is_are_not_recorded(tiny_lm, kind, can):
    lm = tiny_lm("llama")
    lm.model.config.rope_parameters = {"rope_type": kind, "rope_theta": 1e4, "factor": 2.0}
    with pretending("cuda"):
        put(lm.model)
        assert (SlotDecoder(lm.model, lm.head, [None, None]).graphs is not None) == can
