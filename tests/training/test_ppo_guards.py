"""What stops an update, or a part of it: a ratio that is not 1, too much KL, the critic's warm-up, broken gradients."""

import math

import pytest
import torch

from kedge import PPOConfig
from kedge.errors import NotFiniteError, NumericsError


class TestFirstMinibatch:
    def test_ratio_is_one(self, arch, make_update):
        metrics = make_update(arch, temperature=0.8).update()
        assert metrics["val/ratio"] == pytest.approx(1, abs=1e-5)
        assert metrics["policy/approxkl_avg"] == pytest.approx(0, abs=1e-6)
        assert metrics["policy/clipfrac_avg"] == 0
        assert metrics["policy/first_drift_max"] < 1e-4
        assert metrics["policy/first_drift_avg"] < 1e-5

    def refused(self, setup, **kwargs):
        before = setup.weights()
        with pytest.raises(NumericsError, match="the ratio must be 1"):
            setup.update(**kwargs)
        assert torch.equal(setup.weights(), before)

    @pytest.mark.parametrize("error", [1e-3, -1e-3, 0.5])
    def test_one_wrong_log_probability(self, make_update, error):
        setup = make_update()
        wrong = setup.batch.old_logprobs.clone()
        wrong[0, 3] += error
        self.refused(setup, old_logprobs=wrong)

    def test_a_little_wrong_everywhere(self, make_update):
        setup = make_update()
        self.refused(setup, old_logprobs=setup.batch.old_logprobs + 5e-5 * setup.batch.mask)

    def test_one_token_late(self, make_update):
        setup = make_update()
        self.refused(setup, old_logprobs=setup.batch.old_logprobs.roll(1, 1))

    def test_dropout_left_on(self, make_update):
        setup = make_update("gpt2")
        setup.lm.model.train()
        self.refused(setup)

    def test_another_temperature(self, make_update):
        setup = make_update(temperature=0.8)
        setup.config = PPOConfig(**(setup.config.resolved() | {"temperature": 1.0}))
        self.refused(setup)

    def test_later_it_is_only_reported(self, make_update):
        setup = make_update()
        wrong = setup.batch.old_logprobs - 0.01 * setup.batch.mask
        metrics = setup.update(step=1, old_logprobs=wrong)
        assert metrics["policy/first_drift_max"] == pytest.approx(0.01, abs=1e-4)
        assert metrics["policy/first_drift_avg"] == pytest.approx(0.01, abs=1e-4)


@pytest.mark.parametrize("row", range(4))
def test_the_worst_token_is_found_in_whichever_micro_batch(make_update, row):
    setup = make_update(micro_batch_tokens=10)
    wrong = setup.batch.old_logprobs.clone()
    wrong[row, setup.batch.lengths[row] - 1] -= 0.5
    assert setup.update(step=1, old_logprobs=wrong)["policy/first_drift_max"] == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize("kind", ["separate", "shared"])
def test_warm_up_trains_the_critic_alone(make_update, vector, kind):
    setup = make_update(critic=kind, critic_warmup_steps=2, kl_in="loss", entropy_coef=0.5, num_ppo_epochs=2)
    setup.optimizer = torch.optim.AdamW(setup.parameters, lr=1e-3, weight_decay=0.1)
    policy, critic = vector(setup.lm.model), vector(setup.critic)
    for step in (0, 1):
        metrics = setup.update(step=step, kl_coef=1.0)
        assert torch.equal(vector(setup.lm.model), policy)
        assert not torch.equal(vector(setup.critic), critic)
    assert metrics["val/ratio"] == pytest.approx(1, abs=1e-5)
    setup.update(step=2)
    assert not torch.equal(vector(setup.lm.model), policy)


class TestNotFinite:
    """What is not finite is named, and neither the weights nor the next step's gradient know of it."""

    def refused(self, setup, match, **changes):
        before = setup.weights()
        with pytest.raises(NotFiniteError, match=match):
            setup.update(**changes)
        assert torch.equal(setup.weights(), before)
        assert all(weight.grad is None for weight in setup.parameters)

    @pytest.mark.parametrize("limit", [1.0, "none"])
    @pytest.mark.parametrize("value", [math.inf, math.nan])
    def test_an_advantage(self, make_update, limit, value):
        setup = make_update(max_grad_norm=limit)
        broken = setup.batch.advantages.clone()
        broken[0, 2] = value
        self.refused(setup, "the loss: NaN or infinite .so are loss/policy_avg", advantages=broken)

    def test_log_probabilities_of_two_samples(self, make_update):
        setup = make_update(mini_batch_size=4)
        wrong = setup.batch.old_logprobs.clone()
        wrong[1, 3] = math.nan
        wrong[3, setup.batch.lengths[3] - 1] = math.inf
        self.refused(setup, "log-probabilities of samples 1, 3: NaN or infinite", old_logprobs=wrong)

    def test_a_gradient(self, make_update):
        setup = make_update(mini_batch_size=2)
        setup.lm.model.get_input_embeddings().weight.register_hook(lambda gradient: gradient * math.nan)
        self.refused(setup, r"gradient: its norm is nan, in samples \d, \d; lower learning_rate")
