"""What an export is held against the model that it was made of, in every way that it will be asked."""

import json
import os
import shutil

import pytest
import torch

from kedge.cli.export import prompts_of
from kedge.errors import ConfigError, KedgeError
from kedge.models.adapters import add_adapter, merge
from kedge.models.gguf import FILE as GGUF
from kedge.models.gguf import refuse_unwritable, write_gguf
from kedge.models.language_model import load_language_model, wrap
from kedge.models.reward_loading import load_reward_model, new_reward_model
from kedge.serving.certificate import (
    LLAMA_SERVER,
    _by_token,
    certify_policy,
    certify_reward_model,
    hash_of,
    is_equal,
)

PROMPTS = ["the cat", "Once upon a time", [{"role": "user", "content": "a dog"}], "ab  c\n\n12"]


@pytest.fixture
def folder(tiny_lm, tmp_path):
    tiny_lm("llama").save(tmp_path / "base")
    return tmp_path / "base"


def stirred(lm):
    with torch.no_grad():
        for weight in lm.trained():
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(7)), alpha=0.1)
    return lm


@pytest.mark.parametrize("name", ["llama", "gpt2", "mamba"])
def test_a_whole_model(tiny_lm, tmp_path, name):
    lm = tiny_lm(name)
    lm.save(tmp_path / "out")
    certificate = certify_policy(lm, tmp_path / "out", PROMPTS, 8)
    assert is_equal(certificate)
    assert set(certificate["ways"]) == {"memory", "transformers", "http"}
    assert certificate["weights_sha256"] == hash_of(tmp_path / "out")
    assert certificate["versions"]["torch"] == torch.__version__
    json.dumps(certificate, allow_nan=False)


@pytest.mark.parametrize("merged", [False, True])
def test_an_adapter(folder, tmp_path, merged):
    lm = load_language_model(folder, device="cpu")
    add_adapter(lm.model, {"method": "lora", "r": 4}, seed=1)
    stirred(lm).save(tmp_path / "trained")
    written = load_language_model(tmp_path / "trained", device="cpu", merged=False)
    if merged:
        merge(written.model)
    written.save(tmp_path / "out")
    assert is_equal(certify_policy(lm, tmp_path / "out", PROMPTS, 8))


def test_what_differs_is_named(tiny_lm, folder):
    certificate = certify_policy(tiny_lm("llama", seed=3), folder, PROMPTS, 8)
    assert not is_equal(certificate)
    for way, place in (("transformers", "token"), ("http", "character")):
        [first, *_] = certificate["ways"][way]["differences"]
        assert first["prompt"] == 0
        assert first[place] < 8
    assert certificate["ways"]["transformers"]["differences"][0]["margin"] > 0


def test_a_single_token_shows(tiny_lm, folder):
    """Weights that are the trained ones but for the head's row of one token, which some answer has."""
    lm = tiny_lm("llama")
    spoiled = wrap(load_language_model(folder, device="cpu").model, lm.tokenizer)
    [written] = [spoiled.model.generate(torch.tensor([[9, 8, 7]]), do_sample=False, max_new_tokens=8)[0, 3:].tolist()]
    with torch.no_grad():
        spoiled.model.lm_head.weight[written[-1]] -= 0.5
    spoiled.save(folder)
    assert not is_equal(certify_policy(lm, folder, [lm.tokenizer.decode([9, 8, 7])], 8))


def test_where_answers_part(tiny_lm):
    """Also in the last token, and where one ends before the other."""
    lm, ours = tiny_lm("llama"), [5, 6, 7, 8]
    for theirs, place in (([5, 6, 7, 9], 3), ([5, 6, 7], 3), ([5, 6, 7, 8, 9], 4), ([9, 6, 7, 8], 0)):
        [told] = _by_token(lm, [[3], [4]], [ours, ours], [ours, theirs])
        assert (told["prompt"], told["token"]) == (1, place)


def test_a_reward_model(folder, tmp_path):
    trained = new_reward_model(folder, device="cpu")
    trained.save(tmp_path / "out")
    certificate = certify_reward_model(trained, tmp_path / "out", PROMPTS)
    assert is_equal(certificate)
    assert set(certificate["ways"]) == {"memory", "folder", "transformers"}
    with torch.no_grad():
        trained.model.score.weight += 0.1
    ways = certify_reward_model(trained, tmp_path / "out", PROMPTS)["ways"]
    assert [len(ways[name]["differences"]) for name in ("memory", "folder", "transformers")] == [0, 4, 4]
    assert load_reward_model(tmp_path / "out", device="cpu").score(["the cat"])


def test_the_prompts_of_a_run(tmp_path):
    with pytest.raises(KedgeError, match="has kept no samples; name a file"):
        prompts_of(tmp_path, "samples")
    rows = [{"step": i, "prompt": f"p{i % 3}", "completion": "x"} for i in range(9)]
    (tmp_path / "samples.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert prompts_of(tmp_path, "samples") == ["p0", "p1", "p2"]


class TestOfLlamaCpp:
    @pytest.fixture(autouse=True)
    def library(self):
        pytest.importorskip("gguf")

    def test_every_weight_has_its_place(self, tiny_lm, tmp_path):
        from gguf import GGUFReader

        lm = tiny_lm("llama")
        write_gguf(lm, tmp_path / GGUF)
        there = {each.name: torch.tensor(each.data) for each in GGUFReader(tmp_path / GGUF).tensors}
        ours = lm.model.state_dict()
        assert len(there) == len(ours)
        assert torch.equal(there["blk.1.ffn_gate.weight"], ours["model.layers.1.mlp.gate_proj.weight"])
        keys = ours["model.layers.0.self_attn.k_proj.weight"]
        assert torch.equal(there["blk.0.attn_k.weight"][:4], keys[[0, 4, 1, 5]])  # a head is 8 wide

    @pytest.mark.parametrize("name", ["qwen2", "gpt2", "mamba"])
    def test_others_are_refused_by_name(self, tiny_lm, name):
        lm = tiny_lm(name)
        with pytest.raises(ConfigError, match=f"{type(lm.model).__name__} is not written here"):
            refuse_unwritable(lm)

    def test_and_what_was_not_tried(self, tiny_lm):
        lm = tiny_lm("llama", attention_bias=True)
        with pytest.raises(ConfigError, match="with biases or scaled"):
            refuse_unwritable(lm)
        lm = tiny_lm("llama")
        add_adapter(lm.model, {"method": "lora", "r": 4}, seed=1)
        with pytest.raises(ConfigError, match="add --merge"):
            refuse_unwritable(lm)

    @pytest.mark.shared
    @pytest.mark.parametrize("name", ["stories260K", "stories3M", "tiny"])
    def test_it_writes_the_same(self, tiny_lm, shared, tmp_path, name):
        """And reads the same tokens in a text."""
        if not (os.environ.get(LLAMA_SERVER) or shutil.which("llama-server")):
            pytest.skip("there is no llama-server")
        lm = tiny_lm("llama") if name == "tiny" else load_language_model(shared / "models" / name, device="cpu")
        write_gguf(lm, tmp_path / GGUF)
        prompts = [prompt for prompt in PROMPTS if name == "tiny" or isinstance(prompt, str)]
        assert is_equal(certify_policy(lm, tmp_path, prompts, 24))
