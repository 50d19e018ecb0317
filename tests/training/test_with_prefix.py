"""SFT, reward models and PPO with prefix tuning: what is trained, kept and resumed, and what does not go with it."""

import pytest
import torch
from peft import PeftModel, PrefixTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM

from kedge import PPO, SFT, RewardModeling
from kedge.errors import ConfigError, DataError
from kedge.models.adapters import adapter_of
from kedge.models.language_model import load_language_model
from kedge.models.prefix import prefix_length
from kedge.models.reward_loading import load_reward_model
from kedge.sampling.local.engine import Engine
from kedge.sampling.settings import Sampling

PROMPTS = ["the cat", "a dog ran", "Once upon", "red house", "the mat and", "a little ship"]
PREFIX = {"method": "prefix_tuning", "num_virtual_tokens": 3}
SMALL = {
    "steps": 2, "batch_size": 4, "mini_batch_size": 2, "num_ppo_epochs": 2, "response_length": 6, "learning_rate": 1e-2,
    "adapter": PREFIX, "device": "cpu",
}  # fmt: skip
SUPERVISED = {"batch_size": 3, "learning_rate": 0.05, "epochs": 4, "adapter": PREFIX, "device": "cpu"}
WAYS = {
    "shared": {"critic": "shared"},
    "separate": {"critic": "separate"},
    "grpo": {"advantage_estimator": "grpo", "num_generations": 2, "kl_in": "loss", "mini_batch_size": 4},
    "checkpointing": {"gradient_checkpointing": True, "micro_batch_tokens": 20},
    "autocast": {"autocast": "bfloat16"},
    "int8": {"quantization": "int8"},
    "bfloat16": {"dtype": "bfloat16"},
}


@pytest.fixture
def base(tiny_lm, tmp_path):
    """The folder of a tiny model."""
    tiny_lm("llama").save(tmp_path / "base")
    return tmp_path / "base"


def reward(prompts, completions, completion_ids):
    return [sum(i < 150 for i in ids) / len(ids) for ids in completion_ids]


def ppo(policy, reward=reward, run=None, resume=False, **settings):
    return PPO(policy, PROMPTS, reward, SMALL | settings, progress=False, run=run, resume=resume)


def greedy(lm):
    return [each.ids for each in Engine(lm).generate([[5, 6, 7], [9]], Sampling(max_new_tokens=8, temperature=0))]


@pytest.mark.parametrize("way", WAYS)
def test_ppo_trains_the_prefix_alone(base, way):
    trainer = ppo(base, **WAYS[way])
    weights = {name: weight.clone() for name, weight in trainer.policy.model.named_parameters()}
    first, _ = trainer
    low = way in ("autocast", "bfloat16")
    assert first["policy/first_drift_max"] < (0.5 if low else 1e-4)
    moved = {n for n, weight in trainer.policy.model.named_parameters() if not torch.equal(weight, weights[n])}
    assert moved == {name for name in weights if ".prefix." in name}
    assert prefix_length(trainer.reference.model) == 0


def test_checkpointing_gives_the_same(base, vector):
    plain, again = ppo(base), ppo(base, gradient_checkpointing=True)
    plain.train()
    again.train()
    assert torch.allclose(vector(plain.policy.model), vector(again.policy.model), atol=1e-6)


def test_resumed_is_uninterrupted(base, tmp_path, vector):
    settings = {"steps": 4, "checkpoint_every": 2, "critic": "separate"}
    whole = ppo(base, run=tmp_path / "whole", **settings)
    whole.train()
    for _ in zip(range(3), ppo(base, run=tmp_path / "broken", **settings), strict=False):
        pass
    resumed = ppo(base, run=tmp_path / "broken", resume=True, **settings)
    resumed.train()
    assert torch.equal(vector(resumed.policy.model), vector(whole.policy.model))
    assert torch.equal(vector(resumed.critic.module), vector(whole.critic.module))
    files = {path.name for path in (tmp_path / "whole/checkpoints").rglob("*.safetensors")}
    assert "model.safetensors" not in files  # checkpoints hold the prefix alone


def test_from_demonstrations_to_an_answer(base, tmp_path):
    """Each stage goes on with the prefix of the one before, and PEFT's class answers as the trained policy does."""
    demonstrations = [{"prompt": text, "completion": " and so on"} for text in PROMPTS]
    sft = SFT(base, demonstrations, SUPERVISED, run=tmp_path / "sft", progress=False)
    begun = sft.loss(range(6), sft.weigh(range(6)))[0].item()
    sft.train()
    assert sft.loss(range(6), sft.weigh(range(6)))[0].item() < begun
    trainer = ppo(tmp_path / "sft", run=tmp_path / "ppo")
    assert prefix_length(trainer.reference.model) == 3  # what SFT has made
    trainer.train()
    want = greedy(trainer.policy)
    loaded = load_language_model(tmp_path / "ppo", device="cpu")
    assert greedy(loaded) == want
    assert greedy(load_language_model(tmp_path / "sft", device="cpu")) == greedy(trainer.reference)
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "ppo/policy").eval()
    for prompt, answer in zip([[5, 6, 7], [9]], want, strict=True):
        ids = torch.tensor([prompt])
        with torch.no_grad():
            found = theirs.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False
            )
        assert found[0, len(prompt) :].tolist() == answer


def test_another_number_than_the_one_that_is_there(base, tmp_path):
    ppo(base, run=tmp_path / "first").train()
    with pytest.raises(ConfigError, match=r"adapter.num_virtual_tokens: 4, but the model has an adapter already"):
        ppo(tmp_path / "first", adapter=PREFIX | {"num_virtual_tokens": 4})
    with pytest.raises(ConfigError, match=r"adapter.method: 'lora', but"):
        ppo(tmp_path / "first", adapter={"method": "lora"})


def test_without_a_table_the_prefix_is_trained_further(base, tmp_path):
    """It is no part of any weight, so the whole model cannot be what is trained."""
    ppo(base, run=tmp_path / "first").train()
    trainer = ppo(tmp_path / "first", adapter={})
    assert adapter_of(trainer.policy.model) is not None
    assert all(".prefix." in n for n, w in trainer.policy.model.named_parameters() if w.requires_grad)


def test_a_reward_model_with_one(base, tmp_path):
    pairs = [{"chosen": text + " good", "rejected": text + " bad day"} for text in PROMPTS]
    trainer = RewardModeling(base, pairs, SUPERVISED, run=tmp_path / "reward", progress=False)
    begun = trainer.loss(range(6), trainer.weigh(range(6)))[0].item()
    trainer.train()
    assert trainer.loss(range(6), trainer.weigh(range(6)))[0].item() < begun
    texts = ["the cat good", "a dog ran bad day"]
    want = trainer.model.score(texts)
    assert load_reward_model(tmp_path / "reward", device="cpu").score(texts) == pytest.approx(want, abs=1e-5)
    ppo(base, reward=tmp_path / "reward").train()
    with pytest.raises(ConfigError, match="critic_init='reward'"):
        ppo(base, reward=tmp_path / "reward", critic="separate", critic_init="reward")


def test_one_that_peft_has_made(base, tiny_tokenizer):
    theirs = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base), PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    )
    settings = {key: value for key, value in SMALL.items() if key not in ("adapter", "device")}
    trainer = PPO(theirs, PROMPTS, reward, settings, tokenizer=tiny_tokenizer, progress=False)
    assert prefix_length(trainer.reference.model) == prefix_length(trainer.policy.model) == 2
    before = [weight.clone() for weight in trainer.policy.trained()]
    trainer.train()
    assert len(before) == 4
    assert not any(torch.equal(a, b) for a, b in zip(before, trainer.policy.trained(), strict=True))


def test_frozen_layers_do_not_go_with_it(base):
    with pytest.raises(ConfigError, match="num_layers_unfrozen: prefix_tuning reaches every layer"):
        ppo(base, num_layers_unfrozen=1)


def test_prompts_have_the_positions_that_are_left(tiny_lm, tmp_path):
    lm = tiny_lm("gpt2", n_positions=16)
    lm.save(tmp_path)
    fits = lm.tokenizer.decode([7] * 7)
    assert len(lm.tokenizer(fits).input_ids) == 7  # 7 + 6 of the answer + 3 of the prefix
    PPO(tmp_path, [fits, "a"], reward, SMALL, progress=False).train()
    with pytest.raises(DataError, match="the model's 13 positions less"):
        PPO(tmp_path, [fits + fits[0], "a"], reward, SMALL | {"too_long": "error"}, progress=False)
