"""Weights cast once: what autocast gives, to the bit, with nothing cast and nothing left behind."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kedge.models.narrow import NarrowWeights
from kedge.sampling.local.engine import Engine
from kedge.sampling.settings import Sampling

TOKENS = torch.arange(12).view(2, 6) + 5
BFLOAT16 = torch.autocast("cpu", torch.bfloat16)


class Casts(TorchDispatchMode):
    """How many matrices of a model's shapes were cast."""

    def __init__(self, model):
        super().__init__()
        self.count, self.shapes = 0, {weight.shape for weight in model.parameters()}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func._schema.name == "aten::_to_copy" and args[0].dim() == 2 and args[0].shape in self.shapes
        return func(*args, **(kwargs or {}))


@torch.inference_mode()
def test_as_autocast_computes(arch, tiny_lm):
    model = tiny_lm(arch).model
    narrow = NarrowWeights(model)
    with BFLOAT16:
        want = model(input_ids=TOKENS, use_cache=False).logits
        narrow.refresh(torch.bfloat16)
        with narrow.in_use():
            found = model(input_ids=TOKENS, use_cache=False).logits
    assert torch.equal(found, want)


@torch.no_grad()
def test_no_weight_is_cast(tiny_lm):
    model = tiny_lm("gpt2").model  # whose layers lie the other way round, and whose embeddings are its head
    narrow = NarrowWeights(model)
    counts = []
    for dtype in (None, torch.bfloat16):
        narrow.refresh(dtype)
        with BFLOAT16, narrow.in_use(), Casts(model) as casts:
            model(input_ids=TOKENS, use_cache=False)
        counts.append(casts.count)
    assert counts == [9, 0]  # four a layer, and the head


def test_the_model_is_as_it_was(tiny_lm):
    model = tiny_lm("gpt2").model
    before = {name: vars(module).keys() for name, module in model.named_modules()}
    narrow = NarrowWeights(model)
    narrow.refresh(torch.bfloat16)

    def fail():
        assert model.lm_head.weight.dtype == torch.bfloat16
        assert model.transformer.wte.weight.dtype == torch.float32
        assert all(weight.dtype == torch.float32 for weight in model.state_dict().values())
        raise RuntimeError("on the way")

    with pytest.raises(RuntimeError, match="on the way"), narrow.in_use():
        fail()
    assert {name: vars(module).keys() for name, module in model.named_modules()} == before
    assert model.lm_head.weight is model.transformer.wte.weight


def test_copies_stay_where_they_are_and_follow_the_weights(tiny_lm):
    model = tiny_lm("llama").model
    narrow = NarrowWeights(model)
    narrow.refresh(torch.bfloat16)
    places = [copy.data_ptr() for copy in narrow.tensors]
    with torch.no_grad():
        model.lm_head.weight.fill_(2.5)
    narrow.refresh(torch.bfloat16)
    assert [copy.data_ptr() for copy in narrow.tensors] == places
    assert (narrow._copies[-1]["weight"] == 2.5).all()
    narrow.refresh(None)
    assert not narrow.tensors
    model.bfloat16()
    narrow.refresh(torch.bfloat16)
    assert not narrow.tensors  # it is narrow as it is


def test_answers_after_weights_that_nobody_published(tiny_lm):
    """Who changes them in place is heard with the next prompts."""
    lm = tiny_lm("llama")
    engine, sampling = Engine(lm), Sampling(max_new_tokens=5)
    with BFLOAT16:
        [before] = engine.generate([[5, 6]], sampling, seed=1)
        with torch.no_grad():
            lm.model.lm_head.weight.mul_(1.5)
        [found] = engine.generate([[5, 6]], sampling, seed=1)
        [want] = Engine(lm).generate([[5, 6]], sampling, seed=1)
    assert found == want
    assert found.logprobs != before.logprobs
