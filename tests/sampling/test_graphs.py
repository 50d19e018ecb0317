"""Recorded decode steps, on the CPU with a recorder that repeats the computation: buckets, places, what clears them."""

import pytest
import torch

from kedge.sampling.local import graphs
from kedge.sampling.local.engine import Engine
from kedge.sampling.local.graphs import StepGraphs, rows_bucket
from kedge.sampling.settings import Sampling


@pytest.fixture
def recorded(monkeypatch):
    """How often a step was recorded. Like a CUDA graph, a replay sees only what stands in the places recorded."""
    count = []

    def record(compute):
        count.append(1)
        first = compute()

        def replay():
            first.copy_(compute())  # into the same memory, as a graph does
            return first

        return replay

    monkeypatch.setattr(graphs, "record", record)
    return count


def test_buckets():
    assert [rows_bucket(n) for n in (1, 2, 3, 4, 5, 8, 9, 15, 16, 17, 32, 33, 100)] == [
        1, 2, 4, 4, 8, 8, 16, 16, 16, 32, 32, 48, 112,
    ]  # fmt: skip


def test_a_step_is_recorded_once_a_shape(recorded):
    compute = lambda tokens, positions, width: (tokens * 10 + positions)[:, None].float() + width  # noqa: E731
    steps = StepGraphs()
    for n in (3, 4, 3, 2):
        tokens, positions = torch.arange(n) + n, torch.arange(n) * 2
        assert steps(compute, tokens, positions, 64).tolist() == (tokens * 10 + positions + 64)[:, None].tolist()
    assert len(recorded) == 2  # of 4 rows, and of 2
    steps(compute, torch.arange(4), torch.arange(4), 128)
    steps.clear()
    steps(compute, torch.arange(4), torch.arange(4), 128)
    assert len(recorded) == 4


def test_logits_outlive_the_next_replay(recorded):
    compute = lambda tokens, positions, width: tokens[:, None].float()  # noqa: E731
    steps = StepGraphs()
    first = steps(compute, torch.tensor([1, 2]), torch.tensor([0, 0]), 64)
    steps(compute, torch.tensor([7, 8]), torch.tensor([0, 0]), 64)
    assert first.tolist() == [[1], [2]]


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "gpt2"])
def test_answers_are_the_same(tiny_lm, recorded, name):
    lm = tiny_lm(name)
    lm = type(lm)(lm.model, lm.tokenizer, tuple(range(0, 320, 9)))  # ends now and then
    generator = torch.Generator().manual_seed(1)
    prompts = [torch.randint(5, 300, (n,), generator=generator).tolist() for n in (3, 9, 4, 20, 1, 7, 50, 12, 30, 2)]
    sampling = Sampling(max_new_tokens=25)
    want = Engine(lm).generate(prompts, sampling, seed=2)
    engine = Engine(lm, max_rows=5, burst=3)
    engine.generate(prompts[:1], Sampling(1))
    decoder = engine._decoder
    decoder.graphs = StepGraphs()
    for a, b in zip(want, engine.generate(prompts, sampling, seed=2), strict=True):
        assert a.ids == b.ids
        assert b.logprobs == pytest.approx(a.logprobs, abs=1e-4)
    assert 0 < len(recorded) < 12


def test_a_cache_that_moves_takes_its_recorded_steps_with_it(tiny_lm, recorded):
    engine, sampling = Engine(tiny_lm("llama"), burst=1), Sampling(max_new_tokens=3, temperature=0)
    engine.generate([[5]], Sampling(1))
    engine._decoder.graphs = StepGraphs()
    want = engine.generate([[5, 6, 7]], sampling)
    engine.generate([[5, 6, 7]], sampling)
    assert len(recorded) == 1
    engine.generate([[5] * 100], sampling)  # more columns: the cache is a new one
    assert len(recorded) == 2
    assert engine.generate([[5, 6, 7]], sampling) == want
    assert len(recorded) == 3
