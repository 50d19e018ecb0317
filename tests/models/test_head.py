"""The output head by itself: the model's own logits, or nothing."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from kedge.models.head import agree, last_hidden, output_head, trunk_of

TAKEN_APART = ["llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3_text", "gpt2", "gpt_neox", "phi3", "olmo2"]
TAKEN_APART += ["mamba", "lfm2", "kedge_lstm"]
_SMALL = {"vocab_size": 99, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
_SMALL |= {"num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}


def make(name, **settings):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **(_SMALL | settings))).eval()


@torch.no_grad()
def gives_the_models_logits(model):
    tokens = torch.tensor([[5, 9, 3, 3, 20, 7]])
    head = output_head(model)
    assert head is not None
    theirs = model(tokens).logits
    assert theirs.std() > 0.01
    assert torch.allclose(head(last_hidden(trunk_of(model), tokens)), theirs, atol=1e-5)
    return head


@pytest.mark.parametrize("name", TAKEN_APART)
def test_architectures(tiny_lm, name):
    gives_the_models_logits(tiny_lm(name).model)


def test_every_tiny_architecture_is_here(arch):
    assert arch in TAKEN_APART


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("cohere", {"logit_scale": 0.3}),
        ("granite", {"logits_scaling": 7.0}),
        ("gemma2", {"final_logit_softcapping": 0.1}),
    ],
)
def test_scaled_and_capped_logits(name, settings):
    head = gives_the_models_logits(make(name, **settings))
    assert head.scale != 1.0 or head.soft_cap is not None


def test_a_head_that_is_not_known_is_not_taken_apart():
    model = make("llama")
    forward = model.forward

    def shifted(*args, **kwargs):
        output = forward(*args, **kwargs)
        output.logits = output.logits + torch.arange(99) / 99
        return output

    model.forward = shifted
    assert output_head(model) is None


def test_the_trial_uses_no_random_numbers_and_no_dropout():
    model = make("gpt2", resid_pdrop=0.5)
    model.train()
    state = torch.random.get_rng_state()
    assert output_head(model) is not None
    assert torch.equal(torch.random.get_rng_state(), state)
    assert model.training
    assert all(module.training for module in model.modules())


def test_agree():
    logits = torch.tensor([1.0, -8.0])
    assert agree(logits, logits + 0.007)
    assert not agree(logits, logits + 0.009)
    assert not agree(logits, logits[:1])
    assert not agree(logits * float("nan"), logits)
    assert not agree(logits.double() + 1e-4, logits.double())
    assert agree(logits.bfloat16() + 0.2, logits.bfloat16())
    assert not agree(logits.bfloat16() + 0.5, logits.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        assert agree(logits + 0.2, logits)
        assert not agree(logits + 0.5, logits)
