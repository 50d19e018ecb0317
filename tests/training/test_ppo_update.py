"""One update: its gradient against one written out by hand, and its invariances.

With plain gradient descent at learning rate 1 the weights move by exactly minus the gradient.
"""

import copy
import math

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from kedge import PPOConfig
from kedge.models.critic import SharedCritic
from kedge.models.language_model import LanguageModel
from kedge.parallel import ALONE
from kedge.training.ppo.batch import Batch
from kedge.training.ppo.trust_region import TrustRegion
from kedge.training.ppo.update import Update


def gradient_by_hand(setup, kl_coef):
    """At ratio 1 the surrogate's gradient is the policy gradient; each answer alone, without padding."""
    config, batch, model = setup.config, setup.batch, setup.lm.model
    loss = 0.0
    for row, (prompt, length) in enumerate(zip(setup.prompts, batch.lengths.tolist(), strict=True)):
        tokens = batch.tokens[row : row + 1, :length]
        before, answer = slice(len(prompt) - 1, length - 1), slice(len(prompt), length)
        at = {name: getattr(batch, name)[row, answer] for name in ("old_logprobs", "ref_logprobs", "advantages")}
        chosen = torch.distributions.Categorical(logits=model(tokens).logits[0, before] / config.temperature)
        logprobs = chosen.log_prob(tokens[0, answer])
        trunk, head = (
            (model.base_model, setup.critic) if config.critic == "shared" else (setup.critic.trunk, setup.critic.head)
        )
        values = head.linear(trunk(tokens).last_hidden_state[0, before])[:, 0]
        loss = loss - (at["advantages"] * logprobs).sum() - config.entropy_coef * chosen.entropy().sum()
        loss = loss + config.vf_coef * (values - batch.returns[row, answer]).square().sum() / 2
        loss = loss + kl_coef * ((at["old_logprobs"] - at["ref_logprobs"]) * logprobs).sum()
    loss = loss / (sum(batch.lengths.tolist()) - sum(map(len, setup.prompts)))
    gradients = torch.autograd.grad(loss, setup.parameters, materialize_grads=True, allow_unused=True)
    return torch.cat([gradient.flatten() for gradient in gradients])


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
@pytest.mark.parametrize("critic", ["separate", "shared"])
@pytest.mark.parametrize(
    ("settings", "kl_coef"),
    [
        ({"vf_coef": 0.0}, 0.0),
        ({"vf_coef": 0.5}, 0.0),
        ({"temperature": 0.6, "vf_coef": 0.5}, 0.0),
        ({"entropy_coef": 0.7}, 0.0),
        ({"kl_in": "loss"}, 0.4),
        ({"kl_in": "loss", "temperature": 1.7, "entropy_coef": 0.2, "vf_coef": 2.0, "dual_clip": 3.0}, 0.4),
    ],
    ids=str,
)
def test_first_gradient_is_the_one_by_hand(make_update, arch, critic, settings, kl_coef):
    setup = make_update(arch, critic=critic, **settings)
    want = gradient_by_hand(setup, kl_coef)
    change, metrics = setup.moved(kl_coef=kl_coef)
    assert torch.allclose(-change, want, atol=2e-5 * max(1.0, want.abs().max().item()))
    assert metrics["policy/grad_norm"] == pytest.approx(want.norm().item(), rel=1e-4)


@pytest.mark.parametrize("critic", ["separate", "shared"])
@pytest.mark.parametrize("settings", [{}, {"kl_in": "loss", "entropy_coef": 0.1, "temperature": 0.7}], ids=str)
def test_micro_batches_change_nothing(make_update, critic, settings):
    """Three passes, so that ratios, clipping and KL are under way."""
    settings = settings | {"critic": critic, "num_ppo_epochs": 3, "max_grad_norm": 0.5}
    whole, metrics = make_update(micro_batch_tokens=10_000, **settings).moved(kl_coef=0.3)
    alone, metrics_alone = make_update(micro_batch_tokens=10, **settings).moved(kl_coef=0.3)
    assert torch.allclose(whole, alone, atol=2e-6)
    assert whole.abs().max() > 0.01
    assert metrics_alone == pytest.approx(metrics, rel=1e-3, abs=1e-5)


def test_what_stands_in_the_padding_changes_nothing(make_update):
    one, other = make_update(), make_update()
    padding = torch.arange(one.batch.tokens.shape[1]) >= one.batch.lengths[:, None]
    assert padding.sum() > 5
    junk = {name: getattr(one.batch, name).masked_fill(padding, 50) for name in ("tokens", "advantages", "returns")}
    assert torch.equal(one.moved()[0], other.moved(**junk)[0])


@pytest.mark.parametrize("settings", [{}, {"critic": "shared", "kl_in": "loss", "entropy_coef": 0.1}], ids=str)
def test_masked_positions_may_hold_nan(make_update, settings):
    one, other = make_update(**settings), make_update(**settings)
    names = ("old_logprobs", "ref_logprobs", "old_values", "advantages", "returns")
    broken = {name: getattr(one.batch, name).masked_fill(~one.batch.mask, math.nan) for name in names}
    assert torch.equal(one.moved(kl_coef=0.3)[0], other.moved(kl_coef=0.3, **broken)[0])


def test_every_answer_is_used_once_a_pass(make_update):
    """In steps too small to change anything but in float64, two minibatches add up to two whole batches."""
    changes = []
    for size in (4, 2):
        setup = make_update(mini_batch_size=size, vf_coef=0.0)
        setup.lm.model.double()
        for group in setup.optimizer.param_groups:
            group["lr"] = 1e-9
        first = setup.batch.mask & (setup.batch.mask.cumsum(1) == 1)  # as many trained tokens in every answer
        change, metrics = setup.moved(mask=first, host_mask=first)
        changes.append(change)
        assert metrics["policy/updates"] == 4 / size
    assert torch.allclose(2 * changes[0], changes[1], rtol=0, atol=1e-14)
    assert changes[0].abs().max() > 1e-10


def test_every_pass_has_an_order_of_its_own(make_update):
    setup = make_update(mini_batch_size=1, num_ppo_epochs=6, max_grad_norm=1e-6)
    rows = [tuple(row[:length]) for row, length in zip(setup.batch.tokens.tolist(), setup.batch.lengths, strict=True)]
    seen = []
    assert setup.lm.head is not None  # tried out now, and not while the passes are watched
    setup.lm.model.base_model.register_forward_pre_hook(
        lambda _, __, kwargs: seen.append(rows.index(tuple(kwargs["input_ids"][0].tolist()))), with_kwargs=True
    )
    setup.update()
    passes = [tuple(seen[i : i + 4]) for i in range(0, 24, 4)]
    assert all(sorted(one) == [0, 1, 2, 3] for one in passes)
    assert len(set(passes)) > 2


@pytest.mark.parametrize(("kind", "reached"), [("separate", False), ("shared", True)])
def test_the_value_loss_reaches_a_shared_trunk(make_update, vector, kind, reached):
    setup = make_update(critic=kind, vf_coef=1.0)
    before = vector(setup.lm.model)
    setup.update(advantages=torch.zeros_like(setup.batch.advantages))
    assert torch.equal(vector(setup.lm.model), before) != reached


def test_the_entropy_bonus_raises_entropy(make_update):
    def after(coefficient):
        setup = make_update(entropy_coef=coefficient, vf_coef=0.0, num_ppo_epochs=2)
        return setup.update(advantages=torch.zeros_like(setup.batch.advantages))["policy/entropy_avg"]

    assert after(0.2) > after(0.0) + 1e-4


def test_kl_in_the_loss_has_the_gradient_of_the_exact_kl(vector):
    """Seven answers of one token: the expectation over what the old policy would have drawn, by enumeration."""
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = AutoConfig.for_model("llama", vocab_size=7, pad_token_id=0, bos_token_id=1, eos_token_id=1, **shape)
    policy, old, reference = (AutoModelForCausalLM.from_config(config).eval() for _ in range(3))
    for model in (policy, old, reference):
        model.lm_head.weight.data.mul_(30)
    prompt = torch.tensor([[3, 5]])
    log_p, log_old, log_ref = (m(prompt).logits[0, -1].log_softmax(-1) for m in (policy, old, reference))
    assert (log_p - log_old).abs().max() > 0.5  # ratios far from 1
    divergence = (log_p.exp() * (log_p - log_ref.detach())).sum()
    want = torch.cat([g.flatten() for g in torch.autograd.grad(divergence, list(policy.parameters()))])

    settings = PPOConfig(
        batch_size=1,
        mini_batch_size=1,
        num_ppo_epochs=1,
        kl_in="loss",
        vf_coef=0.0,
        max_grad_norm="none",
        micro_batch_tokens=8192,
    )
    before, expected_change = vector(policy), 0.0
    for answer in range(7):
        lm = LanguageModel(copy.deepcopy(policy), None, ())
        model, critic = lm.model, SharedCritic(lm)
        put = lambda x, at=answer: torch.tensor([[0, 0, x[at].item()]])  # noqa: E731
        zeros = torch.zeros(1, 3)
        tokens, mask = torch.tensor([[3, 5, answer]]), torch.tensor([[False, False, True]])
        batch = Batch(tokens, torch.tensor([3]), mask, mask, put(log_old), put(log_ref), zeros, zeros, zeros)
        optimizer = torch.optim.SGD([*model.parameters(), *critic.parameters()], lr=1.0)
        update = Update(lm, critic, optimizer, settings, ALONE, TrustRegion(optimizer, None))
        update(batch, 1, 1.0)
        expected_change += log_old[answer].exp().item() * (vector(model) - before)
    assert torch.allclose(-expected_change, want, atol=1e-5)
    assert want.abs().max() > 0.01


@pytest.mark.parametrize("kind", ["separate", "shared"])
def test_gradients_of_policy_and_critic_are_clipped_together(make_update, kind):
    whole, metrics = make_update(critic=kind, vf_coef=1.0).moved()
    clipped, same = make_update(critic=kind, vf_coef=1.0, max_grad_norm=0.01).moved()
    assert clipped.norm().item() == pytest.approx(0.01, rel=1e-3)
    assert torch.allclose(clipped, whole * 0.01 / whole.norm(), atol=1e-6)
    assert same["policy/grad_norm"] == metrics["policy/grad_norm"] == pytest.approx(whole.norm().item(), rel=1e-4)


@pytest.mark.parametrize("critic", ["shared", "separate"])
def test_under_autocast_the_second_minibatch_sees_the_new_weights(make_update, critic):
    """The first pass moves the policy; how far the second one finds it must not depend on the precision by much."""
    found = []
    for autocast in (None, "bfloat16"):
        setup = make_update(num_ppo_epochs=2, critic=critic, autocast=autocast)
        for group in setup.optimizer.param_groups:
            group["lr"] = 0.05
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast is not None):
            found.append(setup.update(step=1)["policy/approxkl_avg"])
    assert found[0] > 1e-3
    assert found[1] == pytest.approx(found[0], rel=0.3)


def test_a_minibatch_of_nothing_but_masked_answers_moves_nothing(make_update):
    setup = make_update(mini_batch_size=2, num_ppo_epochs=1)
    setup.optimizer = torch.optim.AdamW(setup.parameters, lr=0.01, weight_decay=0.1)
    setup.update()
    none = torch.zeros_like(setup.batch.mask)
    nothing, metrics = setup.moved(mask=none, host_mask=none)
    assert nothing.eq(0).all()
    assert metrics == {"policy/stopped_early": 0.0, "policy/updates": 0, "policy/lr_scale": 1.0, "lr": 0.01}
