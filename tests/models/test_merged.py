"""A model with an adapter, written as a plain one that plain transformers loads; and left as it was."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from kedge.models.adapters import adapter_weights, add_adapter

METHODS = {
    "lora": {"method": "lora", "r": 3, "target_modules": "all-linear"},
    "dora": {"method": "lora", "r": 3, "use_dora": True, "target_modules": "all-linear"},
    "rslora": {"method": "lora", "r": 3, "use_rslora": True},
    "adalora": {"method": "adalora", "init_r": 3, "target_r": 2, "target_modules": "all-linear"},
    "ia3": {"method": "ia3", "target_modules": ["k_proj", "v_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
    "loha": {"method": "loha", "r": 3, "target_modules": ["q_proj", "up_proj"]},
    "lokr": {"method": "lokr", "r": 3, "target_modules": ["q_proj", "up_proj"]},
}
TOKENS = torch.arange(2, 20).view(2, 9)


@torch.no_grad()
@pytest.mark.parametrize("arch", ["llama", "gpt2", "tied"])
@pytest.mark.parametrize("method", METHODS)
def test_it_gives_the_same(tiny_lm, tmp_path, arch, method):
    if arch == "gpt2" and method not in ("lora", "dora"):
        pytest.skip("other names of layers")
    lm = tiny_lm("llama", tie_word_embeddings=True) if arch == "tied" else tiny_lm(arch)
    plain = lm.model(TOKENS).logits
    add_adapter(lm.model, METHODS[method], seed=0)
    for weight in adapter_weights(lm.model):
        weight.add_(torch.rand(weight.shape, generator=torch.Generator().manual_seed(1)), alpha=0.1)
    before = {name: weight.clone() for name, weight in lm.model.state_dict().items()}
    want = lm.model(TOKENS).logits
    assert (want - plain).abs().max() > 1e-2
    lm.save_merged(tmp_path / "merged")
    again, info = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not (tmp_path / "merged" / "adapter_config.json").exists()
    assert torch.allclose(again(TOKENS).logits, want, atol=2e-4)
    assert all(torch.equal(before[name], weight) for name, weight in lm.model.state_dict().items())
