"""Models that bring code of their own, and how attention is computed."""

import json

import pytest
import torch

from kedge import PPO, RewardModeling, cli
from kedge.errors import ModelError
from kedge.evaluation import evaluate as evaluating
from kedge.inspection.plan import Plan
from kedge.models.language_model import load_language_model
from kedge.models.loading import load_config
from kedge.models.reward_loading import load_reward_model, new_reward_model
from kedge.recipes.fitting import plans
from kedge.recipes.jobs import Evaluating
from kedge.recipes.recipe import Recipe

CODE = """
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel
class OwnConfig(LlamaConfig):
    model_type = "own"
class OwnModel(LlamaModel):
    config_class = OwnConfig
class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""


@pytest.fixture
def own(tiny_lm, tmp_path):
    """A folder with a model that no transformers knows, and its code."""
    folder = tmp_path / "own"
    tiny_lm("llama").save(folder)
    (folder / "own.py").write_text(CODE)
    config = json.loads((folder / "config.json").read_text())
    names = {"AutoConfig": "OwnConfig", "AutoModel": "OwnModel", "AutoModelForCausalLM": "OwnForCausalLM"}
    config |= {"model_type": "own", "auto_map": {auto: f"own.{name}" for auto, name in names.items()}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("load", [load_language_model, load_config, new_reward_model])
def test_code_is_not_run_unbidden(own, load):
    with pytest.raises(ModelError, match=r"own: the model brings code of its own.* set trust_remote_code=true"):
        load(own)


def test_code_that_is_trusted(own, tmp_path, tiny_lm):
    lm = load_language_model(own, trust_remote_code=True, device="cpu")
    ids = torch.tensor([[5, 6, 7]])
    assert torch.equal(lm.model(ids).logits, tiny_lm("llama").model(ids).logits)
    job = RewardModeling(
        own, [{"chosen": "a", "rejected": "b"}] * 4,
        {"batch_size": 4, "trust_remote_code": True, "device": "cpu"}, run=tmp_path / "rm", progress=False,
    )  # fmt: skip
    job.train()
    scores = job.model.score(["the cat"])
    assert load_reward_model(tmp_path / "rm", trust_remote_code=True, device="cpu").score(["the cat"]) == scores
    with pytest.raises(ModelError, match="trust_remote_code"):
        load_reward_model(tmp_path / "rm")
    settings = {
        "steps": 2, "batch_size": 2, "mini_batch_size": 2, "response_length": 4, "critic": "separate",
        "trust_remote_code": True, "checkpoint_every": 1, "device": "cpu",
    }  # fmt: skip
    given = {"reward": str(tmp_path / "rm"), "prompts": ["a", "b"], "progress": False}
    run = tmp_path / "ppo"
    PPO(str(own), config=settings, run=run, **given).train()
    assert load_language_model(run, trust_remote_code=True).device is not None
    PPO.resume(run, steps=3, **given).train()  # a checkpoint's critic is of that code too


def test_attention(tiny_lm, tmp_path):
    tiny_lm("llama").save(tmp_path)
    assert load_language_model(tmp_path, attn_implementation="eager").model.config._attn_implementation == "eager"
    assert load_language_model(tmp_path).model.config._attn_implementation == "sdpa"
    reward_model = new_reward_model(tmp_path, attn_implementation="eager")
    assert reward_model.trunk.config._attn_implementation == "eager"
    with pytest.raises(ModelError, match=r"cannot load the model: .*nonsense"):
        load_language_model(tmp_path, attn_implementation="nonsense")


@pytest.mark.slow
def test_a_plan_knows_both(own, tmp_path, monkeypatch):
    (tmp_path / "p.jsonl").write_text('{"prompt": "the cat"}\n')
    (tmp_path / "d.jsonl").write_text('{"text": "the cat sat"}\n')
    (tmp_path / "r.toml").write_text(
        f'[sft]\nmodel = "{own}"\ndata = "{tmp_path}/d.jsonl"\nbatch_size = 1\n'
        f'[ppo]\npolicy = "{own}"\nprompts = "{tmp_path}/p.jsonl"\nreward = "a:b"\n'
    )
    for trusted in (True, False):
        words = [
            f"{table}.{key}"
            for table in ("sft", "ppo")
            for key in (f"trust_remote_code={str(trusted).lower()}", "attn_implementation=eager")
        ]
        found = dict(plans(Recipe(tmp_path / "r.toml", words)))
        assert [isinstance(plan, Plan) for plan in found.values()] == [trusted] * 2, found
    assert all("trust_remote_code" in str(error) for error in found.values())


def test_an_evaluation_knows_both(own, tmp_path, monkeypatch):
    (tmp_path / "p.jsonl").write_text('{"prompt": "the cat"}\n')
    (tmp_path / "lengths.py").write_text("def length(prompts, completions): return [len(text) for text in completions]")
    (tmp_path / "r.toml").write_text(
        f'[evaluate]\npolicy = "{own}"\nbaseline = "{own}"\nprompts = "{tmp_path}/p.jsonl"\nresponse_length = 3\n'
        f'reward = "lengths:length"\nrun = "{tmp_path}/run"\nattn_implementation = "eager"\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    loaded = []
    keep = lambda *args, **kwargs: loaded.append(load_language_model(*args, **kwargs)) or loaded[-1]  # noqa: E731
    monkeypatch.setattr(evaluating, "load_language_model", keep)
    with pytest.raises(ModelError, match="trust_remote_code"):
        Evaluating(Recipe(tmp_path / "r.toml", [])).train()
    Evaluating(Recipe(tmp_path / "r.toml", ["evaluate.trust_remote_code=true"])).train()
    assert {lm.model.config._attn_implementation for lm in loaded} == {"eager"}


def test_a_chat_trusts_code_when_told_to(own, monkeypatch):
    def leave(*_, **__):
        raise EOFError

    monkeypatch.setattr(cli.console, "input", leave)
    cli.program()(["chat", str(own), "--trust-remote-code"], standalone_mode=False)
    with pytest.raises(ModelError, match="trust_remote_code"):
        cli.program()(["chat", str(own)], standalone_mode=False)
