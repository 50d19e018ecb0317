"""Gradient checkpointing: really on in evaluation mode, and without any effect but on memory."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from kedge.errors import ConfigError
from kedge.models.recompute import enable_recomputing, recomputing

TOKENS = torch.tensor([[5, 6, 7, 8, 9]])


def passes(model):
    """A list that grows by one with each forward pass of the first layer's MLP."""
    seen = []
    mlp = next(module for name, module in model.named_modules() if name.endswith("mlp"))
    mlp.register_forward_pre_hook(lambda *_: seen.append(1))  # recomputation stops inside the last one
    return seen


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "gpt_neox"])
def test_layers_run_again_in_the_backward_pass(tiny_lm, vector_of_gradients, name):
    dropout = {"resid_pdrop": 0.5, "attn_pdrop": 0.5, "embd_pdrop": 0.5} if name == "gpt2" else {}
    model = tiny_lm(name, **dropout).model
    seen = passes(model)
    model(TOKENS, use_cache=False).logits.square().sum().backward()
    want = vector_of_gradients(model)
    assert len(seen) == 1
    layers = enable_recomputing(model)
    with recomputing(layers):
        loss = model(TOKENS, use_cache=False).logits.square().sum()
    assert not any(module.training for module in model.modules())
    loss.backward()
    assert len(seen) == 3
    assert torch.allclose(vector_of_gradients(model), want, rtol=1e-5, atol=1e-5)
    model(TOKENS, use_cache=False).logits.sum().backward()
    assert len(seen) == 4  # outside nothing is recomputed


@pytest.fixture
def vector_of_gradients():
    def read(model):
        gradients = torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])
        model.zero_grad()
        return gradients

    return read


def test_a_model_that_cannot(tiny_lm):
    with pytest.raises(ConfigError, match="gradient_checkpointing: Linear cannot do it"):
        enable_recomputing(torch.nn.Linear(2, 2))


def test_a_model_whose_layers_would_turn_their_dropout_on(tiny_tokenizer):
    config = AutoConfig.for_model(
        "opt", vocab_size=99, hidden_size=32, ffn_dim=48, num_hidden_layers=1, num_attention_heads=4
    )
    with pytest.raises(ConfigError, match="OPTForCausalLM cannot do it with dropout off"):
        enable_recomputing(AutoModelForCausalLM.from_config(config))
