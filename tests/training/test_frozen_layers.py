"""PPO of the upper layers: the step that the plain way takes, with the layers below run once."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from kedge.errors import ConfigError
from kedge.models.bottom import layers_of
from kedge.models.head import trunk_of

HALF = {"num_layers_unfrozen": 1, "target_kl": "none"}
WAYS = {
    "shared": {"critic": "shared"},
    "separate": {"critic": "separate", "scale_rewards": True},
    "grpo": {"advantage_estimator": "grpo", "num_generations": 2, "kl_in": "loss", "mini_batch_size": 4},
    "in parts": {"micro_batch_tokens": 20, "entropy_coef": 0.1},
    "checkpointing": {"gradient_checkpointing": True},
    "autocast": {"autocast": "bfloat16"},
}


def untimed(steps):
    return [{k: v for k, v in row.items() if not k.startswith(("time/", "throughput/"))} for row in steps]


@pytest.mark.parametrize("way", WAYS)
def test_kept_or_made_again_is_the_same(make_ppo, monkeypatch, way):
    kept = untimed(make_ppo(settings=HALF | WAYS[way]))
    monkeypatch.setattr("kedge.training.ppo.experience.STATES_SHARE", 0.0)
    plain = make_ppo(settings=HALF | WAYS[way])
    again = untimed(plain)
    assert plain.experience.batch.states is None
    rounding = {"rel": 0.05, "abs": 0.02} if way == "autocast" else {"rel": 1e-3, "abs": 1e-5}
    for ours, theirs in zip(kept, again, strict=True):
        assert ours == pytest.approx(theirs, **rounding)


@pytest.mark.parametrize("arch", ["llama", "gemma3_text", "gpt2", "mamba"])
def test_only_the_top_moves_and_the_ratio_is_1(make_ppo, tiny_lm, arch, tmp_path):
    lm = tiny_lm(arch)
    before = {name: weight.clone() for name, weight in lm.model.named_parameters()}
    ppo = make_ppo(settings=HALF, lm=lm)
    first, _ = ppo
    assert first["policy/first_drift_max"] < 1e-4
    moved = {name for name, weight in lm.model.named_parameters() if not torch.equal(weight, before[name])}
    assert moved == {name for name, weight in lm.model.named_parameters() if weight.requires_grad}
    ppo.save(tmp_path)
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    tokens = torch.arange(5, 15)[None]
    assert torch.allclose(saved(tokens).logits, lm.model(tokens).logits, atol=1e-6)


def test_a_layer_below_is_run_once_a_token(make_ppo):
    """A layer above in every pass: the reference's, the values', both in two epochs, and one to see how far it went."""
    counts = {"below": 0, "above": 0}
    ppo = make_ppo(settings=HALF | {"critic": "separate", "mini_batch_size": 4, "steps": 1})
    assert ppo.reference.head is not None  # it has been tried out
    completions, rollouts = ppo._sample()
    scores = ppo._judge(ppo._next_prompts(), completions)
    trunks = [trunk_of(ppo.policy.model), trunk_of(ppo.reference.model), ppo.critic.trunk]
    for trunk in trunks:
        for layer, name in zip(layers_of(trunk), counts, strict=True):
            layer.self_attn.register_forward_hook(
                lambda *call, name=name: counts.update({name: counts[name] + call[-1][0].shape[:2].numel()})
            )
    batch = ppo._estimate(completions, rollouts, scores)
    ppo.update(batch, 0, 0.0)
    tokens = rollouts.tokens.numel()
    assert counts == {"below": tokens, "above": tokens * (3 + 2 * 2)}


def test_reference_and_critic_hold_only_a_top(make_ppo):
    ppo = make_ppo(settings=HALF | {"critic": "separate"})
    own = {weight.data_ptr() for weight in ppo.policy.model.parameters()}
    for module in (ppo.reference.model, ppo.critic.trunk):
        apart = sum(weight.numel() for weight in module.parameters() if weight.data_ptr() not in own)
        assert (
            apart < 0.6 * sum(weight.numel() for weight in layers_of(trunk_of(module))[-1].parameters()) + 320 * 33 * 2
        )


def test_frozen_layers_that_cannot_be_answered_for_are_run_and_a_warning_says_so(make_ppo, monkeypatch):
    want = untimed(make_ppo(settings=HALF))
    monkeypatch.setattr("kedge.models.bottom.bottom_of", lambda *_: None)
    with pytest.warns(UserWarning, match="LlamaForCausalLM: its frozen layers are run in every pass"):
        ppo = make_ppo(settings=HALF)
    for ours, theirs in zip(untimed(ppo), want, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"num_layers_unfrozen": 2}, "num_layers_unfrozen: 2 leaves none of the 2 layers"),
        ({"num_layers_unfrozen": 0}, "num_layers_unfrozen: .*greater than or equal to 1"),
        (
            {"num_layers_unfrozen": 1, "critic": "separate", "critic_init": "reward"},
            "num_layers_unfrozen: not used with critic_init='reward'",
        ),
    ],
)
def test_bad_settings(make_ppo, settings, said):
    with pytest.raises(ConfigError, match=said):
        make_ppo(settings=settings)


def test_the_throughput_counts_what_is_run(make_ppo, monkeypatch):
    """Of two layers and a head as large as one of them."""
    flops = []
    monkeypatch.setattr(
        "kedge.training.ppo.trainer.throughput", lambda *a, forward, both, **k: flops.append((forward, both)) or {}
    )
    for settings in (HALF, HALF | {"num_layers_unfrozen": None}):
        list(make_ppo(settings=settings | {"steps": 1}))
    (forward, both), whole = flops
    assert whole == (3.0, 2.0)
    assert 1.5 < forward < 2.9
    assert 1.0 < both < 1.9
    assert forward == pytest.approx(2 + both / 2)  # sampling, the bottom once, the top twice
