"""Frozen bottoms: run once, what they give in every later pass is what the whole model gives, gradients too."""

import copy
from dataclasses import replace

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from kedge.errors import ConfigError
from kedge.models.bottom import bottom_of, copy_of_trained, freeze_bottom, layers_of
from kedge.models.critic import new_critic
from kedge.models.forward import forward_tokens
from kedge.models.head import trunk_of
from kedge.models.language_model import wrap

TOKENS = torch.randint(5, 300, (3, 9), generator=torch.Generator().manual_seed(0))
MASK = torch.arange(9).expand(3, -1) > 3


def frozen(lm, unfrozen=1):
    """With all layers frozen but one."""
    bottom = freeze_bottom(lm.model, unfrozen)
    assert bottom is not None
    return type(lm)(lm.model, lm.tokenizer, lm.eos_ids, bottom)


@pytest.fixture
def layered(arch):
    """Every tiny architecture that has a list of layers."""
    if arch == "kedge_lstm":
        pytest.skip("has none")
    return arch


@pytest.mark.parametrize("critic", ["shared", "separate"])
def test_passes_and_gradients_are_those_of_the_plain_way(layered, tiny_lm, critic):
    lm = frozen(tiny_lm(layered))
    values = new_critic(critic, lm)
    with torch.no_grad():
        states = lm.bottom_states(TOKENS)
        values.module.head.linear.weight.fill_(0.1) if critic == "separate" else values.linear.weight.fill_(0.1)
    found = []
    for given in (None, states):
        lm.model.zero_grad(), values.module.zero_grad()
        head = values.value_head
        out = forward_tokens(lm, TOKENS, MASK, states=given, value_head=head, temperature=0.8, with_entropy=True)
        if head is None:
            out = replace(out, values=values.values(TOKENS, MASK, given))
        weights = torch.linspace(-1, 1, 27).view(3, 9)
        ((out.logprobs + out.entropy.square() + out.values.square()) * weights).sum().backward()
        gradients = {n: w.grad for n, w in [*lm.model.named_parameters(), *values.module.named_parameters("critic")]}
        found.append((out, gradients))
    (plain, want), (ours, got) = found
    for name in ("logprobs", "entropy", "values"):
        assert torch.allclose(getattr(ours, name), getattr(plain, name), rtol=1e-5, atol=1e-6), name
    assert {n for n, g in got.items() if g is not None} == {n for n, g in want.items() if g is not None}
    for name, gradient in want.items():
        assert gradient is None or torch.allclose(got[name], gradient, rtol=1e-4, atol=1e-6), name
    trained = {name for name, weight in lm.model.named_parameters() if weight.requires_grad}
    assert {n for n, g in got.items() if g is not None and not n.startswith("critic")} == trained


def test_what_is_trained(tiny_lm):
    lm = tiny_lm("llama", num_hidden_layers=3, tie_word_embeddings=False)
    freeze_bottom(lm.model, 1)
    trained = {name for name, weight in lm.model.named_parameters() if weight.requires_grad}
    top = {name for name, _ in lm.model.named_parameters() if name.startswith("model.layers.2.")}
    assert trained == top | {"model.norm.weight", "lm_head.weight"}
    tied = tiny_lm("gpt2")
    freeze_bottom(tied.model, 1)
    trained = {name.rpartition(".h.1.")[0] or name for name, w in tied.model.named_parameters() if w.requires_grad}
    assert trained == {"transformer", "transformer.ln_f.weight", "transformer.ln_f.bias"}


def test_a_norm_that_is_registered_before_the_layers_is_behind_them(tiny_tokenizer):
    """OPT's; and what an earlier training has frozen of the layers above is trained."""
    config = AutoConfig.for_model(
        "opt", vocab_size=320, hidden_size=32, ffn_dim=64, num_hidden_layers=3, num_attention_heads=4,
        word_embed_proj_dim=32, max_position_embeddings=64,
    )  # fmt: skip
    lm = wrap(AutoModelForCausalLM.from_config(config), tiny_tokenizer)
    for unfrozen in (1, 2):
        assert freeze_bottom(lm.model, unfrozen) is not None
        trained = [name for name, weight in lm.model.named_parameters() if weight.requires_grad]
        layers = {int(name.split(".layers.")[1].split(".")[0]) for name in trained if ".layers." in name}
        assert layers == set(range(3 - unfrozen, 3))
        others = {name.removeprefix("model.decoder.") for name in trained if ".layers." not in name}
        assert others == {"final_layer_norm.weight", "final_layer_norm.bias"}


def test_the_bottom_is_not_run_again(tiny_lm):
    lm = frozen(tiny_lm("llama", num_hidden_layers=4), 1)
    with torch.no_grad():
        states = lm.bottom_states(TOKENS)
        want = lm.hidden(TOKENS)
        for layer in layers_of(trunk_of(lm.model))[:3]:
            for weight in layer.parameters():
                weight.fill_(torch.nan)
        assert torch.equal(lm.hidden(TOKENS, states), want)
        assert lm.hidden(TOKENS).isnan().any()


def test_the_top_is_not_run_for_the_states(tiny_lm):
    lm = frozen(tiny_lm("gemma3_text"))
    want = trunk_of(lm.model)(input_ids=TOKENS, use_cache=False, output_hidden_states=True).hidden_states[1]
    with torch.no_grad():
        for weight in layers_of(trunk_of(lm.model))[1].parameters():
            weight.fill_(torch.nan)
        assert torch.equal(lm.bottom_states(TOKENS), want)


def test_copies_share_what_is_frozen_and_nothing_else(tiny_lm):
    lm = frozen(tiny_lm("llama", tie_word_embeddings=True))
    reference, critic = lm.frozen_copy(), new_critic("separate", lm)
    places = {weight.data_ptr() for weight in lm.model.parameters() if not weight.requires_grad}
    trained = {weight.data_ptr() for weight in lm.model.parameters() if weight.requires_grad}
    for module in (reference.model, critic):
        there = {weight.data_ptr() for weight in module.parameters()}
        assert places <= there
        assert not trained & there
    assert not any(weight.requires_grad for weight in reference.model.parameters())
    assert {weight.requires_grad for weight in lm.model.parameters()} == {True, False}  # the copy's is its own affair
    whole = copy_of_trained(tiny_lm("llama").model.requires_grad_(True))
    assert all(weight.requires_grad for weight in whole.parameters())


def test_an_error_in_a_pass_leaves_the_layers_as_they_were(tiny_lm):
    lm = frozen(tiny_lm("llama"))
    states = lm.bottom_states(TOKENS).detach()
    with pytest.raises(RuntimeError):
        lm.hidden(TOKENS, states[:, :4])
    assert not any("forward" in vars(layer) for layer in layers_of(trunk_of(lm.model)))
    assert torch.allclose(lm.hidden(TOKENS, states), lm.hidden(TOKENS), atol=1e-6)


def test_layers_that_cannot_be_answered_for(tiny_lm):
    """One that reads what another has left behind; embeddings that are trained; a layer that gives something else."""
    lm = tiny_lm("llama", num_hidden_layers=3)
    freeze_bottom(lm.model, 1)
    assert bottom_of(lm.model, 1) is not None
    first, _, last = layers_of(trunk_of(lm.model))
    plain = type(last).forward
    left = []
    first.forward = lambda hidden, *a, **k: left.append(plain(first, hidden, *a, **k)) or left[-1]
    last.forward = lambda hidden, *a, **k: plain(last, hidden, *a, **k) + left.pop()
    assert bottom_of(lm.model, 1) is None
    del first.forward, last.forward
    lm.model.get_input_embeddings().weight.requires_grad_(True)
    assert bottom_of(lm.model, 1) is None


def test_what_cannot_be_frozen_is_named(tiny_lm):
    with pytest.raises(ConfigError, match=r"num_layers_unfrozen: 2 leaves none of the 2 layers .* at most 1"):
        freeze_bottom(tiny_lm("llama").model, 2)
    with pytest.raises(ConfigError, match=r"num_layers_unfrozen: .* has no list of layers"):
        freeze_bottom(tiny_lm("kedge_lstm").model, 1)


def test_logprobs_without_a_head_of_its_own(tiny_lm, monkeypatch):
    """A model that is run as a whole takes no states, and needs none."""
    lm = frozen(tiny_lm("llama"))
    states = lm.bottom_states(TOKENS).detach()
    want = forward_tokens(lm, TOKENS, MASK, temperature=1.0, states=states).logprobs
    monkeypatch.setitem(vars(lm), "head", None)
    assert torch.allclose(forward_tokens(lm, TOKENS, MASK, temperature=1.0, states=states).logprobs, want, atol=1e-5)


def test_a_deep_copy_is_a_model_of_its_own(tiny_lm):
    lm = frozen(tiny_lm("llama"))
    other = copy.deepcopy(lm.model)
    assert not {w.data_ptr() for w in lm.model.parameters()} & {w.data_ptr() for w in other.parameters()}
