"""Weights cast once: what autocast gives, to the bit, with nothing cast and the model itself left alone."""

import copy

import pytest
import torch
from torch.nn.utils import parametrizations
from torch.utils._python_dispatch import TorchDispatchMode

from kedge.models.narrow import NarrowCopy
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
    narrow = NarrowCopy(model, torch.bfloat16)
    with BFLOAT16:
        want = model(input_ids=TOKENS, use_cache=False).logits
        assert torch.equal(narrow.model(input_ids=TOKENS, use_cache=False).logits, want)


@torch.no_grad()
def test_no_weight_is_cast(tiny_lm):
    model = tiny_lm("gpt2").model  # whose layers lie the other way round, and whose embeddings are its head
    counts = []
    for each in (model, NarrowCopy(model, torch.bfloat16).model):
        with BFLOAT16, Casts(model) as casts:
            each(input_ids=TOKENS, use_cache=False)
        counts.append(casts.count)
    assert counts == [9, 0]  # four a layer, and the head


def test_only_the_linear_layers_are_its_own(tiny_lm):
    model = tiny_lm("gpt2").model
    whole = copy.deepcopy(model)
    narrow = NarrowCopy(model, torch.bfloat16)
    own = {weight.data_ptr() for weight in narrow.copies}
    theirs = {weight.data_ptr() for weight in model.parameters()}
    assert {weight.data_ptr() for weight in narrow.model.parameters()} - theirs == own
    assert narrow.model.lm_head.weight.dtype == torch.bfloat16
    assert narrow.model.transformer.wte.weight is model.transformer.wte.weight
    assert model.lm_head.weight is model.transformer.wte.weight
    for weight, before in zip(model.parameters(), whole.parameters(), strict=True):
        assert torch.equal(weight, before)
        assert weight.requires_grad
    assert not any(weight.requires_grad for weight in narrow.copies)


def test_copies_stay_where_they_are_and_follow_the_weights(tiny_lm):
    model = tiny_lm("llama").model
    narrow = NarrowCopy(model, torch.bfloat16)
    places = [weight.data_ptr() for weight in narrow.copies]
    with torch.no_grad():
        model.lm_head.weight.fill_(2.5)
    narrow.refresh()
    assert [weight.data_ptr() for weight in narrow.copies] == places
    assert (narrow.model.lm_head.weight == 2.5).all()
    assert not NarrowCopy(model.bfloat16(), torch.bfloat16).copies  # it is narrow as it is


def test_a_layer_that_somebody_has_changed_is_left_as_it_is(tiny_lm):
    model = tiny_lm("llama").model
    first, second = model.model.layers
    parametrizations.weight_norm(first.mlp.up_proj)
    second.mlp.up_proj.register_forward_hook(lambda layer, given, out: out * layer.weight.mean())
    with torch.no_grad(), BFLOAT16:
        want = model(input_ids=TOKENS, use_cache=False).logits
        narrow = NarrowCopy(model, torch.bfloat16)
        assert len(narrow.copies) == 2 * 7 + 1 - 2
        assert torch.equal(narrow.model(input_ids=TOKENS, use_cache=False).logits, want)


def triple(lm):
    with torch.no_grad():
        lm.model.lm_head.weight.mul_(3)


@pytest.mark.parametrize("busy", [False, True])
def test_weights_that_nobody_published_are_heard_with_the_next_prompts(tiny_lm, busy):
    """Also while another answer is being written."""
    lm = tiny_lm("llama")
    engine, sampling = Engine(lm), Sampling(max_new_tokens=5)
    with BFLOAT16:
        [before] = engine.generate([[5, 6]], sampling, seed=1)
        if busy:
            engine.submit([7, 8, 9], Sampling(max_new_tokens=60))
            engine.step()
        triple(lm)
        [found] = engine.generate([[5, 6]], sampling, seed=1)
        [want] = Engine(lm).generate([[5, 6]], sampling, seed=1)
    assert found.ids == want.ids
    assert found.logprobs == pytest.approx(want.logprobs, abs=1e-2)
    assert found.logprobs != before.logprobs


def test_rows_of_one_precision_go_on_in_another(tiny_lm):
    engine = Engine(tiny_lm("llama"))
    with BFLOAT16:
        stream = engine.stream([5, 6], Sampling(max_new_tokens=30))
        next(stream)
    assert "".join(stream)
