"""What every sampler promises, of the engine; and what one that knows nothing of models needs."""

import json

import pytest
import torch
from answers import random_prompts

from kedge.errors import ConfigError, ModelError
from kedge.sampling.completion import Completion
from kedge.sampling.local.engine import Engine
from kedge.sampling.sampler import Sampler
from kedge.sampling.settings import Sampling


class Recorded(Sampler):
    """Answers from a file."""

    def __init__(self, path):
        self.answers = json.loads(path.read_text())
        self.version, self.closed = 0, False

    def generate(self, prompts, sampling, *, seed=0, first_request=0):
        found = [self.answers[first_request + i] for i in range(len(prompts))]
        return [
            Completion(list(ids), answer["ids"], answer["logprobs"], answer["text"], "eos")
            for ids, answer in zip(prompts, found, strict=True)
        ]

    def publish(self, weights, version):
        self.version = version

    def close(self):
        self.closed = True


def test_one_that_answers_at_once_streams_in_one_piece(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([{"ids": [7, 1], "logprobs": [-0.5, 0.0], "text": " cat"}] * 3))
    with Recorded(tmp_path / "a.json") as sampler:
        assert list(sampler.stream([5], Sampling(), request=2)) == [" cat"]
    assert sampler.closed


@pytest.mark.parametrize("arch", ["llama", "mamba"])
def test_publishing_other_tensors_is_having_other_weights(tiny_lm, arch):
    """The engine's own model gets them; a new engine of a model that has them writes the same."""
    lm, other = tiny_lm(arch), tiny_lm(arch, seed=1)
    sampling, prompts = Sampling(max_new_tokens=9), random_prompts()
    engine = Engine(lm)
    before = engine.generate(prompts, sampling, seed=3)
    weights = other.weights()
    engine.publish(weights, 5)
    after, want = engine.generate(prompts, sampling, seed=3), Engine(other).generate(prompts, sampling, seed=3)
    assert [c.ids for c in after] == [c.ids for c in want] != [c.ids for c in before]
    assert all(c.versions == [5] * len(c.ids) for c in after)
    with torch.no_grad():
        next(other.model.parameters()).zero_()  # copied, and not the same tensors
    assert [c.ids for c in engine.generate(prompts, sampling, seed=3)] == [c.ids for c in after]


def test_publishing_its_own_tensors_copies_nothing(tiny_lm, monkeypatch):
    lm = tiny_lm("llama")
    engine = Engine(lm)
    monkeypatch.setattr(torch.Tensor, "copy_", lambda *_: pytest.fail("a weight is copied"))
    engine.publish(lm.weights(), 1)


def test_weights_of_another_model_are_refused(tiny_lm):
    wider = tiny_lm("llama", intermediate_size=64)
    with pytest.raises(ModelError, match=r"no weight '.*mlp.*' of shape"):
        Engine(tiny_lm("llama")).publish(wider.weights(), 1)


@pytest.mark.parametrize(
    "settings",
    [{}, {"temperature": 0.7}, {"top_k": 3}, {"top_p": 0.5, "temperature": 1.4}, {"temperature": 0}],
    ids=str,
)
@torch.no_grad()
def test_the_likeliest_tokens_are_those_of_a_fresh_pass(tiny_lm, settings):
    lm = tiny_lm("qwen3")
    sampling = Sampling(max_new_tokens=6, top_logprobs=4, **settings)
    for completion in Engine(lm).generate(random_prompts(), sampling, seed=2):
        tokens = torch.tensor([completion.prompt_ids + completion.ids])
        logits = lm.model(tokens).logits[0, len(completion.prompt_ids) - 1 : -1] / (sampling.temperature or 1.0)
        for t, (row, top) in enumerate(zip(logits, completion.top_logprobs, strict=True)):
            kept = torch.full_like(row, -torch.inf)
            order = row.sort(descending=True).indices
            if sampling.top_k:
                order = order[:3]
            if sampling.top_p < 1:
                order = order[: int((row[order].softmax(-1).cumsum(-1) < sampling.top_p).sum()) + 1]
            kept[order] = row[order]
            want = kept.log_softmax(-1)
            assert [token for token, _ in top] == order[:4].tolist()
            assert [x for _, x in top] == pytest.approx(want[order[:4]].tolist(), abs=1e-4)
            if sampling.temperature:
                drawn = dict(top).get(completion.ids[t])
                assert drawn is None or drawn == pytest.approx(completion.logprobs[t], abs=1e-4)


def test_each_request_gets_as_many_as_it_asks_for_and_draws_what_it_drew(tiny_lm):
    lm, prompts = tiny_lm("llama"), random_prompts([4, 6, 9, 4, 5, 7])
    plain = Engine(lm).generate(prompts, Sampling(max_new_tokens=8), seed=1)
    engine = Engine(lm)
    asked = [0, 2, 1000, 0, 5, 1]
    settings = [Sampling(8, temperature=1.0 if n != 5 else 0.5, top_logprobs=n) for n in asked]
    requests = [
        engine.submit(prompt, sampling, seed=1, request=i)
        for i, (prompt, sampling) in enumerate(zip(prompts, settings, strict=True))
    ]
    while engine.step():
        pass
    for n, request, alone in zip(asked, requests, plain, strict=True):
        completion = request.completion()
        assert n == 5 or completion.ids == alone.ids
        counts = {len(top) for top in completion.top_logprobs or []}
        assert counts == (set() if n == 0 else {min(n, 320)})
        assert (completion.top_logprobs is None) == (n == 0)
    for i, request in enumerate(requests):
        [alone] = Engine(lm).generate([request.prompt_ids], request.sampling, seed=1, first_request=i)
        for ours, theirs in zip(request.top_logprobs, alone.top_logprobs or [], strict=True):
            assert [token for token, _ in ours[:5]] == [token for token, _ in theirs[:5]]
            assert [x for _, x in ours] == pytest.approx([x for _, x in theirs], abs=1e-3)


def test_a_negative_number_of_them_is_refused():
    with pytest.raises(ConfigError, match="top_logprobs: must be 0"):
        Sampling(top_logprobs=-1)
