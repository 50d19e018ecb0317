"""Loading strictly, saving so that plain transformers loads it, and errors that name the fix."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, LlamaConfig

from kedge.errors import ModelError
from kedge.models.language_model import load_language_model, wrap
from kedge.models.loading import find
from kedge.models.positions import max_positions
from kedge.sampling.local.engine import Engine
from kedge.sampling.settings import Sampling


def load(folder, **settings):
    return load_language_model(folder, device="cpu", **settings)


@pytest.mark.shared
def test_eos_ids_come_from_settings_model_tokenizer_and_stop_tokens(stories):
    assert stories.eos_ids == (2, 1)  # </s> of the model, then the <s> asked for
    assert stories.positions == 512
    assert stories.pad_id == 0
    assert not stories.model.training


@pytest.mark.shared
def test_pad_falls_back_to_eos(tiny_lm, gpt2_tokenizer):
    lm = tiny_lm("gpt2", tokenizer=gpt2_tokenizer, vocab_size=50257, pad_token_id=None, eos_token_id=50256)
    assert lm.eos_ids == (50256,)
    assert lm.pad_id == 50256


@pytest.mark.shared
def test_saved_policy_answers_the_same_in_plain_transformers(stories, tmp_path):
    stories.save(tmp_path)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    ids = tokenizer("Once upon a time", return_tensors="pt").input_ids
    theirs = model.generate(ids, do_sample=False, max_new_tokens=400)[0, ids.shape[1] :].tolist()
    [ours] = Engine(stories).generate([ids[0].tolist()], Sampling(max_new_tokens=400, temperature=0))
    assert ours.ids == theirs
    assert ours.ids[-1] == 1  # the stop token travels: without it the story would not end
    assert ours.finish_reason == "eos"
    again = load(tmp_path)
    assert again.eos_ids == (2, 1)


def test_save_keeps_the_chat_template_and_every_weight(tiny_lm, tmp_path):
    lm = tiny_lm("qwen3")
    lm.save(tmp_path)
    again = load(tmp_path)
    chat = [{"role": "user", "content": "the cat"}]
    want = lm.tokenizer.apply_chat_template(chat, tokenize=False)
    assert want == "<|user|>the cat<eos>"
    assert again.tokenizer.apply_chat_template(chat, tokenize=False) == want
    for name, weight in lm.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], weight), name


def test_load_weights_goes_back_in_place(tiny_lm, tmp_path):
    lm, other = tiny_lm("llama"), tiny_lm("llama", seed=1)
    lm.save(tmp_path)
    kept = other.model.get_input_embeddings().weight
    assert not torch.equal(kept, lm.model.get_input_embeddings().weight)
    other.load_weights(tmp_path)
    assert kept is other.model.get_input_embeddings().weight
    for name, weight in lm.model.state_dict().items():
        assert torch.equal(other.model.state_dict()[name], weight), name


@pytest.mark.parametrize(("dtype", "expected"), [("auto", torch.float32), ("bfloat16", torch.bfloat16)])
def test_dtype_auto_is_float32(tiny_lm, tmp_path, dtype, expected):
    lm = tiny_lm("llama")
    lm.model.bfloat16()
    lm.save(tmp_path)
    assert load(tmp_path, dtype=dtype).model.dtype == expected


def test_a_run_folder_stands_for_its_policy(tiny_lm, tmp_path):
    tiny_lm("llama").save(tmp_path / "run" / "policy")
    assert find(tmp_path / "run", "policy") == str(tmp_path / "run" / "policy")
    assert load(tmp_path / "run").model.config.model_type == "llama"


def test_stop_tokens(tiny_lm, tmp_path):
    tiny_lm("llama").save(tmp_path)
    assert load(tmp_path, stop_tokens=["<|user|>", "<eos>"]).eos_ids == (1, 3)
    assert load(tmp_path, stop_tokens="<|user|>").eos_ids == (1, 3)
    with pytest.raises(ModelError, match=r"'\\nUser:' is not one token of this tokenizer; use stop_strings"):
        load(tmp_path, stop_tokens=["\nUser:"])


def drop_weight(folder):
    state = load_file(folder / "model.safetensors")
    del state["model.layers.1.mlp.up_proj.weight"]
    save_file(state, folder / "model.safetensors", {"format": "pt"})


def reshape_weight(folder):
    state = load_file(folder / "model.safetensors")
    state["model.norm.weight"] = torch.ones(7)
    save_file(state, folder / "model.safetensors", {"format": "pt"})


def remove_tokenizer(folder):
    for file in folder.glob("token*"):
        file.unlink()


def remove_weights(folder):
    (folder / "model.safetensors").unlink()


def unknown_architecture(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "warp-drive"}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop_weight, r"weights missing: model\.layers\.1\.mlp\.up_proj\.weight"),
        (reshape_weight, "another shape"),
        (remove_tokenizer, r"no tokenizer in this folder.*tokenizer="),
        (remove_weights, "cannot load the model"),
        (unknown_architecture, "cannot read the model's configuration"),
    ],
)
def test_damaged_folders(tiny_lm, tmp_path, damage, message):
    tiny_lm("llama").save(tmp_path)
    load(tmp_path)
    damage(tmp_path)
    with pytest.raises(ModelError, match=message) as error:
        load(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_a_reward_model_is_no_policy(tiny_lm, tmp_path):
    lm = tiny_lm("llama")
    lm.save(tmp_path)
    AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=1).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"weights missing: lm_head\.weight; it is no causal language model"):
        load(tmp_path)


def test_missing_folders_and_ids(tmp_path):
    with pytest.raises(ModelError, match="no such folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"no config\.json"):
        load(tmp_path)
    with pytest.raises(ModelError, match=r"nobody/no-model: .*hub id: check the name and the network"):
        load("nobody/no-model")


@pytest.mark.shared
def test_tokenizer_of_another_vocabulary(tiny_lm, tiny_tokenizer, gpt2_tokenizer):
    with pytest.raises(ModelError, match="50,257 tokens and the model 320; they do not belong together"):
        tiny_lm("llama", tokenizer=gpt2_tokenizer)
    with pytest.raises(ModelError, match="300 tokens and the model 5,000"):
        tiny_lm("llama", vocab_size=5000)
    assert wrap(tiny_lm("llama").model, tiny_tokenizer).eos_ids == (1,)  # 20 spare rows are padding


def test_tokenizer_from_elsewhere(tiny_lm, tiny_tokenizer, tmp_path):
    tiny_lm("llama").save(tmp_path / "model")
    remove_tokenizer(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "words")
    assert len(load(tmp_path / "model", tokenizer=tmp_path / "words").tokenizer) == 300


def test_positions(tiny_lm):
    assert {name: max_positions(tiny_lm(name).model.config) for name in ("llama", "gpt2", "mamba")} == {
        "llama": 128,
        "gpt2": 128,
        "mamba": None,
    }


@pytest.mark.parametrize(("kind", "limit"), [("longrope", 32), ("dynamic", 32), ("linear", 128), (None, 128)])
def test_positions_that_depend_on_the_longest_row_are_not_used(kind, limit):
    """Beyond the original positions these kinds turn every row's embeddings by the batch's longest."""
    rope = {"rope_type": kind, "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 32}
    config = LlamaConfig(max_position_embeddings=128, **({"rope_parameters": rope} if kind == "dynamic" else {}))
    if kind != "dynamic":
        config.rope_parameters = rope if kind else {"rope_type": "default", "rope_theta": 1e4}
    assert max_positions(config) == limit


def test_a_result_that_a_kill_left_under_its_other_name(tiny_lm, tmp_path):
    tiny_lm("llama").save(tmp_path / "run/.policy.old")
    assert find(tmp_path / "run", "policy") == str(tmp_path / "run/.policy.old")
    tiny_lm("llama").save(tmp_path / "run/policy")
    assert find(tmp_path / "run", "policy") == str(tmp_path / "run/policy")
