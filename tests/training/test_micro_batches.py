"""How many tokens go through a model at a time, where nobody says it."""

import tomllib

import pytest
from transformers import AutoConfig

from kedge import SFT, SFTConfig
from kedge.training.micro_batches import choose_micro_batch

GIB = 2**30
STORIES = AutoConfig.for_model("llama", num_hidden_layers=6, hidden_size=192)
QWEN = AutoConfig.for_model("qwen3", num_hidden_layers=28, hidden_size=1024)


@pytest.mark.parametrize(
    ("config", "device", "memory", "longest", "tokens"),
    [
        (STORIES, "cpu", 24 * GIB, 80, 1280),
        (STORIES, "cuda", 24 * GIB, 80, 8192),
        (QWEN, "cuda", 24 * GIB, 80, 1652),  # 28 layers keep 1.95 MB a token, of 3 GiB
        (QWEN, "cuda", 24 * GIB, 4000, 4000),  # never less than one sequence
        (QWEN, "cuda", 80 * GIB, 80, 5507),
        (QWEN, "cpu", 8 * GIB, 80, 550),
        (AutoConfig.for_model("gpt2"), "mps", 16 * GIB, 80, 3426),  # its names for layers and width are others
    ],
)
def test_by_machine_and_model(config, device, memory, longest, tokens):
    assert choose_micro_batch(config, device, memory, longest) == tokens


def test_it_is_said_and_stands_in_the_recipe(make_ppo, tiny_lm, tmp_path, capsys):
    ppo = make_ppo(settings={"micro_batch_tokens": "auto"}, run=tmp_path / "ppo")
    assert ppo.config.micro_batch_tokens == 1280
    ppo.train()
    rows = [{"prompt": "the cat", "completion": " sat"}, {"prompt": "a dog", "completion": " ran"}]
    SFT(tiny_lm("llama"), rows, SFTConfig(batch_size=2), run=tmp_path / "sft").train()
    for stage in ("ppo", "sft"):
        assert tomllib.loads((tmp_path / stage / "recipe.toml").read_text())[stage]["micro_batch_tokens"] == 1280
    assert "micro_batch_tokens = 1280, chosen for this machine and model" in capsys.readouterr().err


def test_a_number_is_taken_as_it_is(make_ppo, tmp_path, capsys):
    ppo = make_ppo(settings={"micro_batch_tokens": 77}, run=tmp_path / "ppo")
    assert ppo.config.tokens_at_a_time == 77
    assert "micro_batch_tokens" not in capsys.readouterr().err
