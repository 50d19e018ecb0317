"""`kedge export`."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from kedge.models.language_model import LanguageModel, load_language_model
from kedge.models.reward_loading import load_reward_model


def test_an_adapters_run_exported(kedge, world):
    """As it was trained, or merged: then plain transformers gives what the run's own model gives."""
    adapter = 'adapter={method="lora",target_modules="all-linear"}'
    for stage in ("sft", "reward"):
        assert kedge(stage, "r.toml", f"{stage}.{adapter}", f"{stage}.learning_rate=1e-2")[0] == 0
    status, out, _ = kedge("export", "runs/r-sft", "alone")
    assert (status, out.strip()) == (0, "alone: the adapter alone; --merge makes it a whole model")
    assert not (world / "alone/config.json").exists()
    assert kedge("export", "runs/r-sft", "whole", "--merge")[1].strip() == "whole: a whole model"
    trained = load_language_model("runs/r-sft", device="cpu", merged=False)
    tokens = torch.arange(5, 15)[None]
    with torch.no_grad():
        plain = AutoModelForCausalLM.from_pretrained("whole")(tokens).logits
        assert torch.allclose(plain, trained.model(tokens).logits, atol=1e-4)
        assert not torch.allclose(plain, AutoModelForCausalLM.from_pretrained("model")(tokens).logits, atol=1e-2)
    status, _, err = kedge("export", "runs/r-sft", "whole", "--merge")
    assert (status, "whole: there is something already" in err) == (2, True)
    assert kedge("export", "runs/r-reward", "whole", "--merge", "--overwrite")[0] == 0
    text = ["the cat"]
    assert load_reward_model("whole", device="cpu").score(text) == pytest.approx(
        load_reward_model("runs/r-reward", device="cpu").score(text), abs=1e-4
    )


def test_an_export_is_certified(kedge, world, monkeypatch):
    """And what differs is an exit code of 1."""
    words = ["export", "model", "out", "--overwrite", "--certify"]
    status, out, _ = kedge(*words, "prompts.jsonl")
    assert (status, out.splitlines()) == (0, ["out: a whole model", "transformers: the same", "http: the same"])
    assert json.loads((world / "out/certificate.json").read_text())["prompts"] == 12
    assert kedge("export", "out", "again", "--to", "onnx")[0] == 2
    assert "model has kept no samples" in kedge(*words, "samples")[2]
    write = LanguageModel.write

    def spoiled(lm, folder, weights):
        write(lm, folder, weights | {"model.norm.weight": -weights["model.norm.weight"]})

    monkeypatch.setattr(LanguageModel, "write", spoiled)
    status, out, _ = kedge(*words, "prompts.jsonl")
    assert (status, "http: differs for 12 prompts" in out) == (1, True)
    ways = json.loads((world / "out/certificate.json").read_text())["ways"]
    assert [ways[name]["equal"] for name in ("memory", "transformers", "http")] == [True, False, False]


def test_a_prefix_is_exported_as_it_is(kedge, world):
    assert kedge("sft", "r.toml", 'sft.adapter={method="prefix_tuning",num_virtual_tokens=2}')[0] == 0
    status, _, err = kedge("export", "runs/r-sft", "whole", "--merge")
    assert (status, "--merge: a prefix is no part of any weight" in err) == (2, True)
    assert not (world / "whole").exists()
    assert kedge("export", "runs/r-sft", "alone")[1].startswith("alone: the adapter alone")
