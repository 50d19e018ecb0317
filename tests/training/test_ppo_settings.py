"""Every setting does something: a run with it ends elsewhere than one without. Those that must not, do not."""

import pytest
import torch

from kedge import PPO, PPOConfig

BASE = {
    "steps": 3,
    "batch_size": 8,
    "mini_batch_size": 4,
    "num_ppo_epochs": 2,
    "response_length": 6,
    "learning_rate": 5e-3,
    "device": "cpu",
}
# {setting: what else must be set for it to count, and its value}
CHANGES = {
    "seed": {"seed": 1},
    "dtype": {"dtype": "bfloat16"},
    "autocast": {"autocast": "bfloat16"},
    "steps": {"steps": 2},
    "batch_size": {"batch_size": 4},
    "num_generations": {"num_generations": 2},
    "mini_batch_size": {"mini_batch_size": 8},
    "num_layers_unfrozen": {"num_layers_unfrozen": 1},
    "optimizer": {"optimizer": "rmsprop"},
    "optimizer_args": {"optimizer_args": {"betas": [0.5, 0.9]}},
    "adapter": {"adapter": {"r": 4}},
    "quantization": {"quantization": "int8", "adapter": {"r": 4}},
    "advantage_estimator": {"num_generations": 2, "advantage_estimator": "grpo"},
    "num_ppo_epochs": {"num_ppo_epochs": 3},
    "response_length": {"response_length": 5},
    "temperature": {"temperature": 0.8},
    "stop_tokens": {"stop_tokens": ("a", "b", "e", "i", "o", "u", "s", "t", "Ġthe")},
    "stop_strings": {"stop_strings": ("a", "b", "e", "i", "o", "u", "s", "t")},
    "max_prompt_length": {"max_prompt_length": 4},
    "too_long": {"max_prompt_length": 4, "too_long": "truncate"},
    "learning_rate": {"learning_rate": 4e-3},
    "lr_scheduler_type": {"lr_scheduler_type": "constant"},
    "warmup_steps": {"warmup_steps": 2},
    "weight_decay": {"weight_decay": 0.1},
    "max_grad_norm": {"max_grad_norm": 0.01},
    "critic_learning_rate": {"critic_learning_rate": 1e-2},
    "gamma": {"gamma": 0.9},
    "lam": {"lam": 0.5},
    "whiten_advantages": {"whiten_advantages": False},
    "cliprange": {"cliprange": 0.01},
    "cliprange_high": {"cliprange_high": 0.9},
    "dual_clip": {"dual_clip": 1.01},
    "cliprange_value": {"cliprange_value": 0.001},
    "vf_coef": {"vf_coef": 0.5},
    "entropy_coef": {"entropy_coef": 0.1},
    "target_kl": {"target_kl": 1e-3},
    "kl_coef": {"kl_coef": 0.5},
    "kl_in": {"kl_in": "loss"},
    "kl_controller": {"kl_controller": "adaptive"},
    "kl_target": {"kl_controller": "adaptive", "kl_target": 0.01, "kl_horizon": 9.0, "steps": 4},
    "kl_horizon": {"kl_controller": "adaptive", "kl_horizon": 9.0},
    "cutoff": {"cutoff": "mask"},
    "missing_eos_penalty": {"cutoff": "penalty", "missing_eos_penalty": 2.0},
    "scale_rewards": {"scale_rewards": True},
    "clip_rewards": {"clip_rewards": 0.5},
    "whiten_rewards": {"whiten_rewards": True},
    "critic": {"critic": "separate"},
    "critic_warmup_steps": {"critic_warmup_steps": 1},
}
NOTHING_CHANGES = {
    "eval_every": {"eval_every": 1},
    "checkpoint_every": {"checkpoint_every": 1},
    "keep_last": {"checkpoint_every": 1, "keep_last": 1},
    "samples_per_step": {"samples_per_step": 0},
    "best_metric": {"checkpoint_every": 1, "best_metric": "-length"},
    "max_left_out": {"max_left_out": 1},
    "guards": {"guards": {"kl": "off", "patience": 9}},
}
TESTED_ELSEWHERE = {
    "report_to", "device", "gradient_checkpointing", "micro_batch_tokens", "critic_init", "trust_remote_code",
    "attn_implementation", "warmup_ratio", "lr_scheduler_kwargs", "max_staleness", "importance", "importance_cap",
    "shard",
}  # fmt: skip


def reward(prompts, completions, completion_ids):
    return [2.0 * sum(i < 150 for i in ids) / len(ids) for ids in completion_ids]


@pytest.fixture(scope="module")
def trained(tiny_lm, vector, tmp_path_factory):
    """``trained(settings)``: all weights after training so; of the tiny model that ends an answer now and then."""
    lm = tiny_lm("llama")
    with torch.no_grad():
        lm.model.lm_head.weight[1] = lm.model.lm_head.weight[2:200].mean(0) * 8
    base = tmp_path_factory.mktemp("base")
    lm.save(base)
    prompts = ["the cat", "a dog ran", "Once upon", "red house", "the mat and the dog", "a little ship"]

    def train(settings):
        run = tmp_path_factory.mktemp("runs") / "run"
        ppo = PPO(base, prompts, reward, PPOConfig(**(BASE | settings)), eval_size=1, run=run, progress=False)
        ppo.train()
        return torch.cat([vector(model) for model in (ppo.policy.model, ppo.critic) if model is not None])

    return train


@pytest.fixture(scope="module")
def as_it_is(trained):
    return trained({})


def test_every_setting_is_here():
    assert set(CHANGES) | set(NOTHING_CHANGES) | TESTED_ELSEWHERE == set(PPOConfig.model_fields)


@pytest.mark.parametrize("setting", CHANGES)
def test_it_changes_the_result(trained, as_it_is, setting):
    without = {key: value for key, value in CHANGES[setting].items() if key != setting}
    other = trained(without) if without else as_it_is
    result = trained(CHANGES[setting])
    assert result.isfinite().all()
    assert result.shape != other.shape or not torch.equal(result, other)


@pytest.mark.parametrize("setting", NOTHING_CHANGES)
def test_it_does_not(trained, as_it_is, setting):
    assert torch.equal(trained(NOTHING_CHANGES[setting]), as_it_is)


def test_micro_batches_change_nothing(trained, as_it_is):
    assert torch.allclose(trained({"micro_batch_tokens": 16}), as_it_is, atol=1e-4)
