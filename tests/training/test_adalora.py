"""AdaLoRA: ranks that come down to their budget as PEFT's own model has them, whatever becomes of the steps."""

import json

import pytest
import torch
from peft import AdaLoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from kedge import PPO, SFT, PPOConfig, RewardModeling
from kedge.errors import ConfigError
from kedge.models.adapters import adapter_of, add_adapter
from kedge.models.language_model import load_language_model
from kedge.models.reward_loading import load_reward_model
from kedge.training.adalora import Ranks

PROMPTS = ["the cat", "a dog ran", "Once upon", "red house", "the mat and", "a little ship"]
DEMONSTRATIONS = [{"prompt": text, "completion": " and so on"} for text in PROMPTS]
PAIRS = [{"chosen": text + " good", "rejected": text + " bad day"} for text in PROMPTS]
TARGETS = ["q_proj", "up_proj"]
ADALORA = {"method": "adalora", "init_r": 4, "target_r": 2, "tinit": 1, "tfinal": 2, "target_modules": TARGETS}
LAYERS = 4
"""Those of the tiny Llama."""
SMALL = {
    "steps": 2, "batch_size": 4, "mini_batch_size": 2, "num_ppo_epochs": 2, "response_length": 6,
    "learning_rate": 3e-3, "device": "cpu", "adapter": ADALORA,
}  # fmt: skip
SUPERVISED = {"batch_size": 3, "epochs": 3, "learning_rate": 1e-2, "device": "cpu", "adapter": ADALORA}
TOKENS = torch.arange(5, 15)[None]


@pytest.fixture(autouse=True)
def _peak(monkeypatch):
    """What the machine could do is no matter here, and takes long to be measured."""
    monkeypatch.setattr("kedge.training.ppo.trainer.peak_flops", lambda *where: 1e9)


def reward(prompts, completions, completion_ids):
    return [sum(i < 150 for i in ids) / len(ids) for ids in completion_ids]


@pytest.fixture
def base(tiny_lm, tmp_path):
    """The folder of a tiny model."""
    tiny_lm("llama").save(tmp_path / "base")
    return tmp_path / "base"


def ppo(policy, reward=reward, **settings):
    how = {"run": settings.pop("run", None), "resume": settings.pop("resume", False)}
    return PPO(policy, PROMPTS, reward, SMALL | settings, progress=False, **how)


def sft(base, run=None, resume=False, **settings):
    return SFT(base, DEMONSTRATIONS, SUPERVISED | settings, run=run, resume=resume, progress=False)


def values(module, kind="lora_E"):
    return {name: weight for name, weight in module.named_parameters() if f".{kind}." in name}


def ranks(module):
    """How many triplets are left, in all layers."""
    return sum(int(value.count_nonzero()) for value in values(module).values())


def logits(model):
    with torch.no_grad():
        return model(input_ids=TOKENS, use_cache=False).logits


def stirred(module):
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for weight in module.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn(weight.shape, generator=generator) * 0.2)
    return module


def untimed(rows):
    return [{k: v for k, v in row.items() if not k.startswith(("time/", "throughput/"))} for row in rows]


@pytest.mark.parametrize(("tinit", "tfinal", "every"), [(2, 3, 1), (1, 4, 3), (0, 0, 2)])
def test_ranks_are_those_of_peft(tiny_lm, tinit, tfinal, every):
    """Its own model takes the same steps: weights and masks, one step after another."""
    settings = ADALORA | {"tinit": tinit, "tfinal": tfinal, "deltaT": every, "orth_reg_weight": 0.3}
    lm, steps = tiny_lm("llama"), 12
    add_adapter(lm.model, settings, seed=1)
    said = {name: value for name, value in settings.items() if name != "method"}
    theirs = get_peft_model(
        tiny_lm("llama").model, AdaLoraConfig(**said, total_step=steps, task_type="CAUSAL_LM")
    ).eval()
    theirs.base_model.model.load_state_dict(lm.model.state_dict())
    optimizer = torch.optim.AdamW([weight for weight in lm.model.parameters() if weight.requires_grad], lr=0.02)
    other = torch.optim.AdamW([weight for weight in theirs.parameters() if weight.requires_grad], lr=0.02)
    driven, seen = Ranks({"policy": lm}, steps), []
    for step in range(1, steps + 1):
        lm.model(TOKENS, labels=TOKENS).loss.backward()
        driven.before_step()
        optimizer.step()
        driven.after_step()
        optimizer.zero_grad()
        theirs(TOKENS, labels=TOKENS).loss.backward()
        other.step()
        theirs.base_model.update_and_allocate(step)
        other.zero_grad()
        for kind in ("lora_A", "lora_B", "lora_E"):
            for mine, its in zip(values(lm.model, kind).values(), values(theirs, kind).values(), strict=True):
                assert torch.allclose(mine, its, atol=1e-5)
                assert torch.equal(mine == 0, its == 0)
        seen.append(ranks(lm.model))
    assert seen[max(tinit, 1) - 1] == 4 * LAYERS
    assert seen[-tfinal - 1 :] == [2 * LAYERS] * (tfinal + 1)
    assert len(set(seen)) > 2


WAYS = {
    "shared": {"critic_warmup_steps": 1},
    "separate": {"critic": "separate", "critic_warmup_steps": 1, "steps": 3},
    "on the top": {"num_layers_unfrozen": 1, "gradient_checkpointing": True},
    "grpo": {"advantage_estimator": "grpo", "num_generations": 2, "optimizer": "muon", "weight_decay": 0.1},
}


@pytest.mark.parametrize("way", WAYS)
def test_ppo(base, way):
    trainer = ppo(base, **WAYS[way])
    frozen = {name: w.clone() for name, w in trainer.policy.model.named_parameters() if not w.requires_grad}
    seen = list(trainer)
    assert seen[0]["policy/first_drift_max"] < 1e-4
    layers = LAYERS // 2 if way == "on the top" else LAYERS
    assert len(values(trainer.policy.model)) == layers
    assert ranks(trainer.policy.model) == 2 * layers
    assert seen[-1]["policy/adapter_rank"] == 2
    if "critic_warmup_steps" in WAYS[way]:
        assert seen[0]["policy/adapter_rank"] == 4  # its schedule begins with its own first step
    if way == "separate":
        assert ranks(trainer.critic) == 2 * LAYERS
        assert 2 < seen[0]["critic/adapter_rank"] < 4
    for name, weight in trainer.policy.model.named_parameters():
        assert name not in frozen or torch.equal(weight, frozen[name])


def test_ppo_resumed_is_uninterrupted(base, tmp_path, vector):
    settings = {"critic": "separate", "steps": 3, "checkpoint_every": 1, "adapter": ADALORA | {"deltaT": 3}}
    whole = ppo(base, run=tmp_path / "whole", **settings)
    want = untimed(whole)
    broken = ppo(base, run=tmp_path / "broken", **settings)
    for _, _metrics in zip(range(1), broken, strict=False):
        pass
    resumed = ppo(base, run=tmp_path / "broken", resume=True, **settings)
    assert resumed.step_done == 1
    for name in ("policy", "critic"):
        there, then = (trainer.ranks.state_dict()[name]["exp_avg_unc"] for trainer in (resumed, broken))
        assert len(there) == 3 * LAYERS
        assert all(torch.equal(there[weight], then[weight]) for weight in then)
    assert untimed(resumed) == want[1:]
    assert torch.equal(vector(resumed.policy.model), vector(whole.policy.model))
    assert torch.equal(vector(resumed.critic), vector(whole.critic))


@pytest.mark.parametrize("done", [2, 4])  # while ranks come down, and when they are down
def test_sft_resumed_is_uninterrupted(base, tmp_path, vector, done):
    settings = {"checkpoint_every": 2, "adapter": ADALORA | {"deltaT": 2, "lora_dropout": 0.2}}
    whole = sft(base, run=tmp_path / "whole", **settings)
    want = untimed(whole)
    for _, _metrics in zip(range(done + 1), sft(base, run=tmp_path / "broken", **settings), strict=False):
        pass
    resumed = sft(base, run=tmp_path / "broken", resume=True, **settings)
    assert resumed.step_done == done
    assert untimed(resumed) == want[done:]
    assert torch.equal(vector(resumed.module), vector(whole.module))


def test_micro_batches_do_not_change_the_result(base):
    """The regularisation is added once a step."""
    adapter = ADALORA | {"orth_reg_weight": 5.0}
    whole, parts = (
        sft(base, adapter=adapter, epochs=6, batch_size=6, micro_batch_tokens=tokens) for tokens in (512, 12)
    )
    rows = list(range(6))
    found = []
    for trainer in (whole, parts):
        trainer.module.train()
        trainer._accumulate(rows)
        plain = {name: weight.grad.clone() for name, weight in values(trainer.module, "lora_A").items()}
        trainer.ranks.before_step()
        gradients = {
            n: weight.grad.clone() for n, weight in trainer.module.named_parameters() if weight.grad is not None
        }
        assert all(not torch.allclose(gradients[name], plain[name]) for name in plain)
        found.append(gradients)
        trainer.optimizer.zero_grad()
        trainer.train()
    for name, gradient in found[0].items():
        assert torch.allclose(gradient, found[1][name], atol=1e-6)
    for mine, other in zip(values(whole.module).values(), values(parts.module).values(), strict=True):
        assert torch.equal(mine == 0, other == 0)
        assert torch.allclose(mine, other, atol=1e-4)


def test_from_demonstrations_to_a_merged_model(base, tmp_path):
    trained = sft(base, run=tmp_path / "sft")
    trained.train()
    assert ranks(trained.module) == 2 * LAYERS
    modeling = RewardModeling(base, PAIRS, SUPERVISED, run=tmp_path / "reward", progress=False)
    modeling.train()
    assert ranks(modeling.module) == 2 * LAYERS
    scores = load_reward_model(tmp_path / "reward", device="cpu").score(PROMPTS)
    assert scores == pytest.approx(modeling.model.score(PROMPTS), abs=1e-5)
    adapter = {"method": "adalora", "tfinal": 3, "orth_reg_weight": 0.1}  # the rest is SFT's
    trainer = ppo(tmp_path / "sft", str(tmp_path / "reward"), run=tmp_path / "ppo", critic="separate", adapter=adapter)
    assert torch.equal(logits(trainer.reference.model), logits(trained.module))
    config = adapter_of(trainer.policy.model)
    assert (config.init_r, config.target_r, config.tinit, config.tfinal, config.total_step) == (4, 2, 0, 3, 8)
    [scorer] = trainer.reward.models()
    places = {w.data_ptr() for w in trainer.policy.model.parameters() if not w.requires_grad}
    for module in (trainer.reference.model, trainer.critic, scorer.module):
        own = sum(w.numel() for w in module.parameters() if w.data_ptr() not in places)
        assert own < 0.4 * sum(w.numel() for w in module.parameters())
    trainer.train()
    policy, folder = trainer.policy.model, tmp_path / "ppo/policy"
    assert ranks(policy) == 2 * LAYERS
    said = json.loads((folder / "adapter_config.json").read_text())
    assert said["total_step"] == 8
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder).eval()
    apart = load_language_model(tmp_path / "ppo", device="cpu", merged=False).model
    merged = load_language_model(tmp_path / "ppo", device="cpu").model
    assert torch.equal(logits(apart), logits(policy))
    assert torch.allclose(logits(theirs), logits(policy), atol=1e-5)
    assert torch.allclose(logits(merged), logits(policy), atol=1e-4)
    assert torch.allclose(logits(theirs.merge_and_unload()), logits(policy), atol=1e-4)


def test_gpt2_merged(tiny_lm, tmp_path):
    """Whose layers lie the other way round."""
    tiny_lm("gpt2").save(tmp_path / "base")
    lm = load_language_model(tmp_path / "base", device="cpu")
    plain = logits(lm.model)
    add_adapter(lm.model, ADALORA | {"target_modules": "all-linear"}, seed=1)
    assert torch.allclose(logits(lm.model), plain, atol=1e-5)
    stirred(lm.model)
    lm.save(tmp_path / "adapter")
    merged = load_language_model(tmp_path / "adapter", device="cpu").model
    assert torch.allclose(logits(merged), logits(lm.model), atol=1e-4)


def trained_by_peft(base):
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base),
        AdaLoraConfig(init_r=4, target_r=2, total_step=3, target_modules=TARGETS, task_type="CAUSAL_LM"),
        adapter_name="mine",
    ).eval()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    for step in (1, 2, 3):
        model(TOKENS, labels=TOKENS).loss.backward()
        optimizer.step()
        model.base_model.update_and_allocate(step)
        optimizer.zero_grad()
    return model


@pytest.mark.parametrize("loaded", [False, True])
def test_what_peft_has_trained_goes_on(base, tmp_path, loaded):
    """It saves what it has not masked alone."""
    model = trained_by_peft(base)
    want = logits(model)
    model.save_pretrained(tmp_path / "theirs")
    folder = tmp_path / "theirs/mine"
    assert any(len(weight) < 4 for name, weight in load_file(folder / "adapter_model.safetensors").items())
    lm = load_language_model(folder, tokenizer=base, device="cpu", merged=False)
    assert torch.allclose(logits(lm.model), want, atol=1e-5)
    whole = load_language_model(folder, tokenizer=base, device="cpu")
    assert torch.allclose(logits(whole.model), want, atol=1e-4)
    if loaded:
        plain = AutoModelForCausalLM.from_pretrained(base)
        model = PeftModel.from_pretrained(plain, folder, adapter_name="mine", is_trainable=True)
    settings = {name: value for name, value in SMALL.items() if name not in ("adapter", "device")}
    trainer = PPO(model, PROMPTS, reward, settings, tokenizer=lm.tokenizer, progress=False)
    assert torch.allclose(logits(trainer.policy.model), want, atol=1e-5)
    trainer.train()
    assert ranks(trainer.policy.model) == 2 * LAYERS
    trainer.save(tmp_path)
    again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "policy").eval()
    assert torch.allclose(logits(again), logits(trainer.policy.model), atol=1e-5)


def driven(lm, steps, *, planned, settings=ADALORA, beyond=None):
    """After which steps how many ranks are left; where only these are taken of so many planned."""
    add_adapter(lm.model, settings, seed=1)
    optimizer = torch.optim.AdamW([weight for weight in lm.model.parameters() if weight.requires_grad], lr=0.02)
    of, left = Ranks({"policy": lm}, planned), {}
    for step in steps:
        of.begin(step - 1)
        lm.model(TOKENS, labels=TOKENS).loss.backward()
        of.before_step()
        optimizer.step()
        of.after_step()
        optimizer.zero_grad()
        left[step] = ranks(lm.model)
    if beyond is not None:
        of.end(beyond)
        left[beyond] = ranks(lm.model)
    return left


def test_steps_that_are_not_taken(tiny_lm):
    """What fell due with them comes with the next; and the budget is held in the end."""
    settings = ADALORA | {"tinit": 1, "tfinal": 2, "deltaT": 3}
    found = driven(tiny_lm("llama"), [1, 2, 4, 8, 9], planned=10, settings=settings)
    assert found[1] == found[2] == 4 * LAYERS
    assert 2 * LAYERS < found[4] < 4 * LAYERS  # that of step 3
    assert found[8] == found[9] == 2 * LAYERS
    assert driven(tiny_lm("llama"), [1, 9, 10], planned=10, settings=settings)[9] == 2 * LAYERS  # the mask's own step
    assert driven(tiny_lm("llama"), [9], planned=10, settings=settings)[9] == 2 * LAYERS  # the first of all
    assert driven(tiny_lm("llama"), [1, 2], planned=10, settings=settings, beyond=8)[8] == 2 * LAYERS
    assert driven(tiny_lm("llama"), [1, 2], planned=10, settings=settings, beyond=7)[7] == 4 * LAYERS
    assert driven(tiny_lm("llama"), [], planned=10, settings=settings, beyond=10)[10] == 0  # nothing was ever trained


@pytest.mark.parametrize(("optimizer", "rate"), [("adamw", 0.05), ("sgd", 5.0)])
def test_updates_that_end_early(base, optimizer, rate):
    """A step that is taken again leaves masked what was masked, and the ranks are down in the end."""
    settings = {"target_kl": 1e-6, "learning_rate": rate, "optimizer": optimizer, "num_ppo_epochs": 8}
    trainer = ppo(base, **settings, adapter=ADALORA | {"tfinal": 0, "deltaT": 32})  # all of them at the last step
    hold, held = trainer.region.retaken, []

    def retaken():
        there = {name: (value != 0).flatten().tolist() for name, value in values(trainer.policy.model).items()}
        hold()
        now = {name: (value != 0).flatten().tolist() for name, value in values(trainer.policy.model).items()}
        held.append(ranks(trainer.policy.model) / LAYERS <= trainer.ranks.metrics()["policy/adapter_rank"])
        held.append(now != there)

    trainer.region.retaken = retaken
    *_, last = trainer
    assert last["policy/updates"] < 16
    assert any(held[1::2])  # it would not have been so by itself
    assert all(held[::2])
    assert last["policy/adapter_rank"] == 2


def test_a_step_that_is_left_out(base):
    """The last one, with whose gradient something is wrong."""
    trainer = sft(base, adapter=ADALORA | {"tfinal": 0})
    accumulate = trainer._accumulate

    def broken(rows):
        metrics = accumulate(rows)
        if trainer.step_done == trainer.total_steps - 1:
            next(iter(values(trainer.module).values())).grad.fill_(torch.nan)
        return metrics

    trainer._accumulate = broken
    seen = list(trainer)
    assert "train/left_out" in seen[-1]
    assert ranks(trainer.module) == 2 * LAYERS


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"r": 8}, "adapter.r: adalora begins with init_r and comes down to target_r"),
        ({"total_step": 8}, "adapter.total_step: is counted from the training's own steps; take it out"),
        ({"rank_pattern": {}}, "adapter.rank_pattern: is what the training finds; take it out"),
        ({"target_r": 4}, "adapter.target_r: 4 is not below init_r=4"),
        ({"init_r": "8"}, "adapter.init_r: must be a whole number and at least 1, not '8'"),
        ({"deltaT": 0}, "adapter.deltaT: must be a whole number and at least 1, not 0"),
        ({"beta1": 1}, "adapter.beta1: must be a number between 0 and 1, not 1"),
        ({"orth_reg_weight": -1}, "adapter.orth_reg_weight: must be a number and at least 0"),
        ({"delta_t": 3}, "adapter.delta_t: adalora has no such setting; did you mean 'deltaT'"),
        ({"use_dora": True}, "adapter.use_dora: adalora has no such setting"),
        ({"bias": "all"}, "adapter.bias: not used here"),
        ({"tfinal": 7}, "adapter.tfinal: tinit=1 and tfinal=7 leave none of the 8 optimizer steps .* at most 7"),
        ({"tinit": 9}, "adapter.tinit: tinit=9 and tfinal=2 leave none"),
    ],
)
def test_wrong_settings(settings, said):
    with pytest.raises(ConfigError, match=said):
        PPOConfig(**SMALL | {"adapter": ADALORA | settings})


def test_too_few_steps(base, tmp_path):
    with pytest.raises(ConfigError, match=r"adapter.tfinal: tinit=1 and tfinal=2 leave none of the 2 optimizer steps"):
        sft(base, epochs=1)
    with pytest.raises(ConfigError, match=r"adapter.tfinal: .* leave none of the 4 optimizer steps"):
        PPOConfig(**SMALL | {"critic_warmup_steps": 1, "adapter": ADALORA | {"tfinal": 3}})
    sft(base, run=tmp_path / "sft").train()
    with pytest.raises(ConfigError, match=r"adapter.target_r: 9 is not below init_r=4"):
        ppo(tmp_path / "sft", adapter={"method": "adalora", "target_r": 9})
    with pytest.raises(ConfigError, match=r"adapter.method: 'lora', but the model has an adapter already"):
        ppo(tmp_path / "sft", adapter={"method": "lora"})
    with pytest.raises(ConfigError, match=r"adapter.init_r: 8, but the model has an adapter already, whose is 4"):
        ppo(tmp_path / "sft", adapter={"method": "adalora", "init_r": 8, "target_r": 2})


@pytest.mark.parametrize("method", ["prompt_tuning", "p_tuning"])
def test_beginnings_of_the_input_are_no_adapters(method):
    with pytest.raises(ConfigError, match=rf"adapter.method: must be one of .*prefix_tuning, not '{method}'"):
        PPOConfig(adapter={"method": method, "num_virtual_tokens": 4})


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_on_a_quantised_base(base, tmp_path, kind):
    pytest.importorskip("bitsandbytes")
    trainer = ppo(base, quantization=kind, steps=1)
    [first] = trainer
    trainer.save(tmp_path / "ppo")
    assert first["policy/first_drift_max"] < 1e-4
    assert ranks(trainer.policy.model) == 2 * LAYERS
    merged = load_language_model(tmp_path / "ppo", device="cpu").model
    assert adapter_of(merged) is None
    assert torch.allclose(logits(merged), logits(trainer.policy.model), atol=1e-3)
