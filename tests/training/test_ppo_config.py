"""PPO's settings: what does not fit together is refused by a message that names what would."""

import re

import pytest

from kedge import PPOConfig
from kedge.errors import ConfigError
from kedge.sampling.settings import Sampling


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kl_target": 3.0}, "kl_target: not used with kl_controller='fixed'; set kl_controller='adaptive'"),
        ({"kl_horizon": 9.0}, "kl_horizon: not used with kl_controller='fixed'; set kl_controller='adaptive'"),
        ({"missing_eos_penalty": 1.0}, "missing_eos_penalty: not used with cutoff='keep'; set cutoff='penalty'"),
        ({"missing_eos_penalty": 1.0, "cutoff": "mask"}, "missing_eos_penalty: not used with cutoff='mask'"),
        ({"critic": "shared", "critic_init": "reward"}, "critic_init: not used with critic='shared'"),
        ({"kl_coef": 0, "kl_in": "loss"}, "kl_in: 'loss' is not used with kl_coef=0; set kl_coef, or take kl_in out"),
        (
            {"scale_rewards": True, "advantage_estimator": "grpo", "num_generations": 8, "kl_coef": 0},
            "scale_rewards: changes nothing.*'dr_grpo'",
        ),
        ({"vf_coef": 0, "cliprange_value": 0.2}, r"cliprange_value: not used with vf_coef=0\.0; set vf_coef"),
        ({"steps": True}, "steps: a number, and not true"),
        ({"keep_last": 3}, "keep_last: not used with checkpoint_every=0; set checkpoint_every, or take keep_last out"),
        ({"advantage_estimator": "grpo"}, "num_generations: 1 answer has no others .*'grpo'"),
        ({"advantage_estimator": "rloo"}, "num_generations: 1 answer"),
        (
            {"advantage_estimator": "grpo", "num_generations": 8, "vf_coef": 0.1},
            "vf_coef: not used with advantage_estimator='grpo'; set advantage_estimator='gae'",
        ),
        (
            {"advantage_estimator": "grpo", "num_generations": 8, "critic_init": "reward"},
            "critic_init: not used with advantage_estimator='grpo'",
        ),
        (
            {"num_generations": 3, "batch_size": 5, "mini_batch_size": 4},
            "4 does not divide batch_size=5 . num_generations=3; 3 does",
        ),
        ({"top_p": 0.9}, "PPO samples from the whole distribution"),
        ({"top_k": 5}, "PPO samples from the whole distribution"),
        ({"min_p": 0.1}, "PPO samples from the whole distribution"),
        ({"batch_size": 60, "mini_batch_size": 16}, "mini_batch_size: 16 does not divide batch_size=60; 15 does"),
        ({"batch_size": 7, "mini_batch_size": 4}, "mini_batch_size: 4 does not divide batch_size=7; 1 does"),
        ({"batch_size": 8}, "mini_batch_size: 64 does not divide batch_size=8; 8 does"),
        ({"response_length": 100, "micro_batch_tokens": 100}, "response_length=100 and its prompt; try 200"),
        ({"steps": 5, "critic_warmup_steps": 5}, "critic_warmup_steps: 5 of steps=5 .* at most 4"),
        ({"cliprange": 1.0}, "cliprange: .*less than 1"),
        ({"dual_clip": 1.0}, "dual_clip: .*greater than 1"),
        ({"gamma": 0.0}, "gamma: .*greater than 0"),
        ({"temperature": 0.0}, "temperature: .*greater than 0"),
        ({"kl_ceof": 0.1}, "kl_ceof: unknown key; did you mean 'kl_coef'"),
        ({"learning_rate": float("nan")}, "learning_rate: "),
    ],
    ids=str,
)
def test_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        PPOConfig(**settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"kl_controller": "adaptive", "kl_target": 3.0, "kl_horizon": 64.0},
        {"cutoff": "penalty", "missing_eos_penalty": 2.0},
        {"critic": "separate", "critic_init": "reward"},
        {"checkpoint_every": 5, "keep_last": 3},
        {"advantage_estimator": "reinforce++"},
        {"advantage_estimator": "rloo", "num_generations": 4, "batch_size": 16, "mini_batch_size": 32},
        {"steps": 5, "critic_warmup_steps": 4},
        {"response_length": 100, "micro_batch_tokens": 101},
        {"cliprange_value": "none", "max_grad_norm": "none"},
        {"vf_coef": 0.0, "kl_coef": 0.0, "kl_in": "reward"},
    ],
    ids=str,
)
def test_accepted(settings):
    config = PPOConfig(**settings)
    for key, value in settings.items():
        assert getattr(config, key) == (None if value == "none" else value)


@pytest.mark.parametrize(("batch", "mini"), [(60, 16), (7, 4), (8, 64), (64, 48), (100, 33), (1, 2), (97, 50)])
def test_the_suggested_minibatch_is_valid_and_the_largest(batch, mini):
    with pytest.raises(ConfigError) as raised:
        PPOConfig(batch_size=batch, mini_batch_size=mini)
    suggested = int(re.search(r"; (\d+) does", str(raised.value))[1])
    assert PPOConfig(batch_size=batch, mini_batch_size=suggested).mini_batch_size == suggested
    assert not [n for n in range(suggested + 1, mini + 1) if batch % n == 0]


def test_the_suggested_micro_batch_is_valid():
    with pytest.raises(ConfigError) as raised:
        PPOConfig(response_length=512, micro_batch_tokens=100)
    suggested = int(re.search(r"try (\d+)", str(raised.value))[1])
    assert PPOConfig(response_length=512, micro_batch_tokens=suggested)


def test_sampling_is_the_whole_distribution():
    config = PPOConfig(response_length=9, temperature=0.7, stop_strings=("end", "\n"))
    assert config.sampling == Sampling(9, 0.7, top_k=0, top_p=1.0, min_p=0.0, stop_strings=("end", "\n"))


def test_clip():
    assert PPOConfig().clip == (0.2, 0.2)
    assert PPOConfig(cliprange=0.1).clip == (0.1, 0.1)
    assert PPOConfig(cliprange=0.2, cliprange_high=0.28).clip == (0.2, 0.28)


def test_the_resolved_recipe_gives_the_same_config():
    config = PPOConfig(cutoff="penalty", cliprange_value="none", stop_strings=("x",), batch_size=8, mini_batch_size=2)
    resolved = config.resolved()
    assert PPOConfig(**resolved) == config
    assert resolved["cliprange_value"] == "none"
    assert "missing_eos_penalty" in resolved
    assert "kl_target" not in resolved  # it would be refused
