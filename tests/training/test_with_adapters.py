"""SFT, reward models and PPO with adapters: what is trained, kept, resumed, and what the step says of itself."""

import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from kedge import PPO, SFT, RewardModeling
from kedge.errors import ConfigError
from kedge.models.adapters import adapter_of
from kedge.models.language_model import load_language_model
from kedge.models.reward_loading import load_reward_model

PROMPTS = ["the cat", "a dog ran", "Once upon", "red house", "the mat and", "a little ship"]
SMALL = {
    "steps": 2,
    "batch_size": 4,
    "mini_batch_size": 2,
    "num_ppo_epochs": 2,
    "response_length": 6,
    "learning_rate": 3e-3,
}
LORA = {"method": "lora", "r": 4, "target_modules": "all-linear"}
WAYS = {
    "shared": {"critic": "shared"},
    "separate": {"critic": "separate"},
    "grpo": {"advantage_estimator": "grpo", "num_generations": 2, "kl_in": "loss", "mini_batch_size": 4},
    "on the top": {"num_layers_unfrozen": 1, "critic": "separate"},
    "checkpointing": {"gradient_checkpointing": True, "micro_batch_tokens": 20},
    "autocast": {"autocast": "bfloat16"},
}
DEMONSTRATIONS = [{"prompt": text, "completion": " and so on"} for text in PROMPTS]
PAIRS = [{"chosen": text + " good", "rejected": text + " bad day"} for text in PROMPTS]


def reward(prompts, completions, completion_ids):
    return [sum(i < 150 for i in ids) / len(ids) for ids in completion_ids]


@pytest.fixture
def base(tiny_lm, tmp_path):
    """The folder of a tiny model."""
    tiny_lm("llama").save(tmp_path / "base")
    return tmp_path / "base"


def ppo(policy, reward=reward, **settings):
    how = {"run": settings.pop("run", None), "resume": settings.pop("resume", False)}
    return PPO(policy, PROMPTS, reward, SMALL | {"adapter": LORA, "device": "cpu"} | settings, progress=False, **how)


def untimed(rows):
    return [{k: v for k, v in row.items() if not k.startswith(("time/", "throughput/"))} for row in rows]


@pytest.mark.parametrize("way", WAYS)
def test_ppo_trains_the_adapter_alone(base, way):
    trainer = ppo(base, **WAYS[way])
    weights = {name: weight.clone() for name, weight in trainer.policy.model.named_parameters()}
    reference = [weight.clone() for weight in trainer.reference.model.parameters()]
    first, _ = trainer
    assert first["policy/first_drift_max"] < (0.5 if way == "autocast" else 1e-4)
    assert first["policy/first_clipfrac"] == 0 or way == "autocast"
    moved = {n for n, weight in trainer.policy.model.named_parameters() if not torch.equal(weight, weights[n])}
    assert moved == {name for name in weights if "lora_" in name}
    assert ("layers.0" in "".join(moved)) == (way != "on the top")
    for weight, before in zip(trainer.reference.model.parameters(), reference, strict=True):
        assert torch.equal(weight, before)


@pytest.mark.parametrize("way", ["shared", pytest.param("separate", marks=pytest.mark.slow), "on the top"])
def test_resumed_is_uninterrupted(base, tmp_path, vector, way):
    settings = WAYS[way] | {"steps": 4, "checkpoint_every": 2}
    whole = ppo(base, run=tmp_path / "whole", **settings)
    want = untimed(whole)
    for _, _metrics in zip(range(3), ppo(base, run=tmp_path / "broken", **settings), strict=False):
        pass
    resumed = ppo(base, run=tmp_path / "broken", resume=True, **settings)
    assert resumed.step_done == 2
    assert untimed(resumed) == want[2:]
    assert torch.equal(vector(resumed.policy.model), vector(whole.policy.model))
    assert torch.equal(vector(resumed.critic), vector(whole.critic))
    there = {path.name for path in (tmp_path / "broken/checkpoints/step-000002/policy").iterdir()}
    assert "adapter_model.safetensors" in there
    assert not there & {"model.safetensors", "config.json"}


def test_from_demonstrations_to_a_merged_model(base, tmp_path):
    """Each stage's adapter is the next one's beginning; the reference is what SFT has made."""
    settings = {"batch_size": 3, "learning_rate": 1e-2, "device": "cpu", "adapter": LORA}
    sft = SFT(base, DEMONSTRATIONS, settings, run=tmp_path / "sft", progress=False)
    begun = sft.loss(range(6), sft.weigh(range(6)))[0].item()
    sft.train()
    assert sft.loss(range(6), sft.weigh(range(6)))[0].item() < begun
    RewardModeling(base, PAIRS, settings, run=tmp_path / "reward", progress=False).train()
    trainer = ppo(tmp_path / "sft", str(tmp_path / "reward"), run=tmp_path / "ppo", critic="separate")
    tokens = torch.arange(5, 15)[None]
    with torch.no_grad():
        assert torch.equal(trainer.reference.model(tokens).logits, sft.lm.model(tokens).logits)
    [scorer] = trainer.reward.models()
    trainer.train()

    places = {w.data_ptr() for w in trainer.policy.model.parameters() if not w.requires_grad}
    for module in (trainer.reference.model, trainer.critic, scorer.module):
        own = sum(w.numel() for w in module.parameters() if w.data_ptr() not in places)
        assert own < 0.4 * sum(w.numel() for w in module.parameters())
    policy, folder = trainer.policy.model, tmp_path / "ppo/policy"
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder).eval()
    merged = load_language_model(tmp_path / "ppo", device="cpu").model
    with torch.no_grad():
        for model in (theirs, merged):
            assert torch.allclose(model(tokens).logits, policy(tokens).logits, atol=1e-4)
    assert load_reward_model(tmp_path / "reward", device="cpu").score(["the cat"]) == pytest.approx(
        scorer.score(["the cat"]), abs=1e-5
    )


def test_a_reward_model_goes_on_from_what_sft_has_taught(base, tmp_path):
    """Its folder names the same base, so the adapter in it holds both."""
    settings = {"batch_size": 3, "learning_rate": 1e-2, "device": "cpu", "adapter": LORA}
    SFT(base, DEMONSTRATIONS, settings, run=tmp_path / "sft", progress=False).train()
    modeling = RewardModeling(tmp_path / "sft", PAIRS, settings, run=tmp_path / "reward", progress=False)
    taught = load_language_model(tmp_path / "sft", device="cpu", merged=False).model.model
    tokens = torch.arange(5, 15)[None]
    with torch.no_grad():
        begun = modeling.model.trunk(tokens).last_hidden_state
        assert torch.equal(begun, taught(tokens).last_hidden_state)
    modeling.train()
    assert load_reward_model(tmp_path / "reward", device="cpu").score(PROMPTS) == modeling.model.score(PROMPTS)
    with pytest.raises(ConfigError, match=r"adapter.r: 8, but the model has an adapter already"):
        RewardModeling(tmp_path / "sft", PAIRS, settings | {"adapter": {"method": "lora", "r": 8}}, progress=False)


def test_without_a_table_an_adapter_becomes_a_part_of_the_model(base, tmp_path):
    SFT(base, DEMONSTRATIONS, {"batch_size": 3, "device": "cpu", "adapter": LORA}, run=tmp_path / "sft",
        progress=False).train()  # fmt: skip
    trainer = ppo(tmp_path / "sft", adapter={})
    assert adapter_of(trainer.policy.model) is None
    assert all(weight.requires_grad for weight in trainer.policy.model.parameters())


def test_a_peft_model_brought_along(base, tmp_path):
    lm = load_language_model(base, device="cpu")
    model = get_peft_model(lm.model, LoraConfig(r=2, task_type="CAUSAL_LM"), adapter_name="mine")
    trainer = PPO(model, PROMPTS, reward, SMALL, tokenizer=lm.tokenizer, progress=False)
    trainer.train()
    trainer.save(tmp_path)
    again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "policy").eval()
    tokens = torch.arange(5, 15)[None]
    with torch.no_grad():
        assert torch.allclose(again(tokens).logits, model.eval()(tokens).logits, atol=1e-5)
        with model.disable_adapter():
            assert torch.allclose(model(tokens).logits, trainer.reference.model(tokens).logits, atol=1e-5)


@pytest.mark.parametrize("on_top", [False, True])
def test_every_architecture(arch, tiny_lm, on_top):
    """First ratio 1; gradients of what is trained are the plain way's, and there are no others."""
    if arch == "kedge_lstm":
        pytest.skip("has no linear layers")
    lm = tiny_lm(arch)
    lora = LORA | ({"target_modules": ["in_proj", "x_proj"]} if arch == "mamba" else {})  # its others take none
    settings = SMALL | {"steps": 1, "adapter": lora, "learning_rate": 1e-6, "target_kl": "none"}
    settings |= {"num_layers_unfrozen": 1} if on_top else {}
    trainer = PPO(lm.model, PROMPTS, reward, settings, tokenizer=lm.tokenizer, progress=False)
    batch = trainer.collect().batch
    rows, found = list(range(len(batch.tokens))), []
    for part in (batch, vars(batch) | {"states": None}):
        part = part if part is batch else type(batch)(**part)
        metrics = trainer.update._accumulate(part, rows, 0.05, True)
        assert metrics["worst"] < 1e-4
        found.append({n: w.grad.clone() for n, w in trainer.policy.model.named_parameters() if w.grad is not None})
        trainer.optimizer.zero_grad()
    ours, plain = found
    assert ours.keys() == {name for name, weight in lm.model.named_parameters() if weight.requires_grad}
    assert all("lora_" in name for name in ours)
    for name, gradient in plain.items():
        assert torch.allclose(ours[name], gradient, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"adapter": {"method": "lora", "rank": 8}}, "adapter.rank: lora has no such setting"),
        ({"adapter": {"target_modules": ["nothing"]}}, "adapter.target_modules: .*nothing"),
        ({"critic": "separate", "critic_init": "reward"}, "adapter: not used with critic_init='reward'"),
        (
            {"adapter": LORA | {"exclude_modules": ".*up.*"}, "num_layers_unfrozen": 1},
            "adapter.exclude_modules: a list",
        ),
    ],
)
def test_settings_that_do_not_go_together(base, settings, said):
    with pytest.raises(ConfigError, match=said):
        ppo(base, **settings)


def test_another_adapter_than_the_one_that_is_there(base, tmp_path):
    settings = {"batch_size": 3, "device": "cpu", "adapter": LORA}
    SFT(base, DEMONSTRATIONS, settings, run=tmp_path / "sft", progress=False).train()
    with pytest.raises(ConfigError, match=r"adapter.r: 8, but the model has an adapter already, whose is 4"):
        ppo(tmp_path / "sft", adapter=LORA | {"r": 8})
    with pytest.raises(ConfigError, match=r"adapter.target_modules: .*q_proj"):
        ppo(tmp_path / "sft", adapter={"target_modules": ".*q_proj"})
    with pytest.raises(ConfigError, match="num_layers_unfrozen: not used with a policy that has an adapter already"):
        ppo(tmp_path / "sft", num_layers_unfrozen=1)
    recipe = json.dumps(ppo(tmp_path / "sft").config.resolved())
    assert '"adapter": {"method": "lora"' in recipe


@pytest.mark.parametrize(
    ("how", "said"),
    [({"bias": "all"}, r"trains parts of the base too \(bias\)"), ({"modules_to_save": ["norm"]}, "modules_to_save")],
    ids=str,
)
def test_a_peft_model_that_could_not_be_loaded_again_is_refused(base, how, said):
    lm = load_language_model(base)
    model = get_peft_model(lm.model, LoraConfig(r=2, task_type="CAUSAL_LM", **how))
    with pytest.raises(ConfigError, match=said):
        PPO(model, ["the cat"], lambda completions, **_: [1.0] * len(completions), tokenizer=lm.tokenizer)
