"""Models on paper: folders with a configuration and a tokenizer, and no weights."""

import json

import pytest

from kedge.config.settings import write_recipe
from kedge.recipes.recipe import Recipe


@pytest.fixture
def on_paper_model(tmp_path, tiny_lm, tiny_tokenizer):
    """``on_paper_model("llama")``: the folder, and the model it describes with weights."""

    def make(name, **settings):
        folder = tmp_path / name
        model = tiny_lm(name, **settings).model
        model.config.save_pretrained(folder)
        tiny_tokenizer.save_pretrained(folder)
        assert not list(folder.glob("*.safetensors"))
        return folder, model

    return make


@pytest.fixture
def recipe(tmp_path, on_paper_model):
    """``recipe(batch_size=8)``: a recipe with all three tables; its model has no weights."""

    def make(*overrides, arch="llama", layers=2, **ppo):
        folder, _ = on_paper_model(arch, **({} if layers == 2 else {"num_hidden_layers": layers}))

        def write(name, rows):
            (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
            return str(tmp_path / name)

        prompts = write("prompts.jsonl", [{"prompt": "the cat " * (1 + i % 3)} for i in range(40)])
        demos = write(
            "demos.jsonl", [{"prompt": "the cat", "completion": " sat on the mat" * (1 + i)} for i in range(9)]
        )
        pairs = write(
            "pairs.jsonl", [{"prompt": "the ", "chosen": "cat " * (1 + i), "rejected": "dog"} for i in range(9)]
        )
        common = {"model": str(folder), "batch_size": 4}
        sizes = {"batch_size": 8, "mini_batch_size": 8, "response_length": 16, "device": "cpu"}
        sources = {"policy": str(folder), "prompts": prompts, "reward": "never_imported:f"}
        path = tmp_path / "r.toml"
        tables = {"sft": common | {"data": demos}, "reward": common | {"data": pairs}, "ppo": sources | sizes | ppo}
        write_recipe(path, tables)
        return Recipe(path, list(overrides))

    return make
