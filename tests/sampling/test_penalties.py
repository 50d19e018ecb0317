"""Biases and penalties, by hand."""

from dataclasses import replace

import pytest
import torch

from kedge.errors import ConfigError, DataError
from kedge.sampling.local.engine import Engine
from kedge.sampling.local.penalties import penalised
from kedge.sampling.local.request import Request
from kedge.sampling.settings import Sampling


def written(ids, **sampling):
    request = Request([1], Sampling(**sampling), [], None)
    request.ids.extend(ids)
    return request


def test_by_hand():
    logits = torch.tensor([[1.0, 2.0, 3.0, 4.0]] * 4)
    requests = [
        written([2, 2, 3], presence_penalty=0.5, frequency_penalty=0.25),
        written([2, 2, 3]),
        written([0], logit_bias=((3, -100.0), (0, 2.0)), presence_penalty=1.0),
        written([], frequency_penalty=2.0),
    ]
    found = penalised(logits, requests)
    assert found.tolist() == [
        [1.0, 2.0, 3.0 - 0.5 - 2 * 0.25, 4.0 - 0.5 - 0.25],
        [1.0, 2.0, 3.0, 4.0],
        [1.0 + 2.0 - 1.0, 2.0, 3.0, -96.0],
        [1.0, 2.0, 3.0, 4.0],
    ]
    assert logits.tolist() == [[1.0, 2.0, 3.0, 4.0]] * 4
    assert penalised(logits, requests[1:2]) is logits


@pytest.mark.parametrize("burst", [1, 8])
@pytest.mark.parametrize("arch", ["llama", "mamba"])
def test_an_engine_draws_from_what_is_left(tiny_lm, arch, burst):
    """Greedy, step by step against the model's own logits; and beside a row that has none."""
    lm = tiny_lm(arch)
    prompt, sampling = (
        [5, 6, 7],
        Sampling(max_new_tokens=10, temperature=0, frequency_penalty=1.5, presence_penalty=0.5),
    )
    engine = Engine(lm, burst=burst)
    engine.enqueue(other := engine.request([8, 9, 10], Sampling(max_new_tokens=10, temperature=0), 0, 1, "other"))
    [completion] = engine.generate([prompt], sampling)
    ids = []
    with torch.no_grad():
        for _ in completion.ids:
            logits = lm.model(torch.tensor([prompt + ids])).logits[0, -1].float()
            for token in set(ids):
                logits[token] -= 0.5 + 1.5 * ids.count(token)
            ids.append(int(logits.argmax()))
    assert completion.ids == ids
    while other.finish_reason is None:
        engine.step()
    [plain] = Engine(lm).generate([[8, 9, 10]], Sampling(max_new_tokens=10, temperature=0))
    assert other.ids == plain.ids


def test_log_probabilities_are_those_that_were_drawn_from(tiny_lm):
    lm = tiny_lm("llama")
    sampling = Sampling(max_new_tokens=1, temperature=0.5, logit_bias=((4, 3.0),), top_logprobs=2)
    [completion] = Engine(lm).generate([[5, 6, 7]], sampling)
    with torch.no_grad():
        logits = lm.model(torch.tensor([[5, 6, 7]])).logits[0, -1]
    logits[4] += 3.0
    want = torch.log_softmax(logits / 0.5, -1)
    assert completion.logprobs[0] == pytest.approx(want[completion.ids[0]].item(), abs=1e-5)
    assert [nats for _, nats in completion.top_logprobs[0]] == pytest.approx(want.topk(2).values.tolist(), abs=1e-5)


def test_what_is_refused(tiny_lm):
    for name, value in (("presence_penalty", float("nan")), ("logit_bias", ((1, float("inf")),))):
        with pytest.raises(ConfigError, match=f"{name}: must be"):
            Sampling(**{name: value})
    with pytest.raises(DataError, match="logit_bias: names tokens outside 0 to"):
        Engine(tiny_lm("llama")).generate([[5]], Sampling(logit_bias=((10_000, 1.0),)))


def test_whole_is_only_what_nothing_is_added_to():
    assert Sampling().is_whole
    for name, value in (("presence_penalty", 0.1), ("frequency_penalty", -0.1), ("logit_bias", ((1, 1.0),))):
        assert not replace(Sampling(), **{name: value}).is_whole
