"""How far an update may go: a step that went too far is taken again, shorter, and the learning rate follows."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch.nn import Parameter

from kedge.core import kl
from kedge.errors import NotFiniteError
from kedge.models.forward import forward_tokens
from kedge.training.config import TrainingConfig
from kedge.training.optimization import make_optimizer, retake_step
from kedge.training.ppo.trust_region import TrustRegion


def stepped(*rates, weight_decay=0.3):
    """``(weights after one AdamW step at each rate, its group, optimizer, weights before the last one)``."""
    generator = torch.Generator().manual_seed(0)
    weight, unused = Parameter(torch.randn(7, generator=generator)), Parameter(torch.ones(2))
    optimizer = make_optimizer([{"params": [weight, unused], "lr": 0.1}], TrainingConfig(weight_decay=weight_decay))
    [group] = optimizer.param_groups
    for rate in rates:
        before = weight.detach().clone()
        weight.grad = torch.randn(7, generator=generator)
        group["lr"] = rate
        optimizer.step()
    return weight, group, optimizer, before


class TestRetakenStep:
    """Against AdamW itself."""

    @pytest.mark.parametrize("factor", [0.25, 1.0, 3.0])
    @pytest.mark.parametrize("steps", [1, 4])
    def test_is_the_step_at_the_other_rate(self, factor, steps):
        weight, group, optimizer, _ = stepped(*[0.1] * steps)
        moments = copy.deepcopy(optimizer.state[weight])
        retake_step(group, optimizer, factor)
        assert group["lr"] == pytest.approx(0.1 * factor)
        assert torch.allclose(weight, stepped(*[0.1] * (steps - 1), 0.1 * factor)[0], atol=1e-6)
        assert all(torch.equal(optimizer.state[weight][name], moments[name]) for name in moments)

    def test_again_and_again(self):
        weight, group, optimizer, _ = stepped(0.1, 0.1)
        for _ in range(3):
            retake_step(group, optimizer, 0.5)
        assert torch.allclose(weight, stepped(0.1, 0.0125)[0], atol=1e-6)

    def test_by_nothing_takes_it_back(self):
        weight, group, optimizer, before = stepped(0.1, 0.2)
        retake_step(group, optimizer, 0.0)
        assert torch.allclose(weight, before, atol=1e-6)
        assert torch.equal(group["params"][1], torch.ones(2))


def region(target=0.05, **state):
    """A region around a weight of 0 that one step of AdamW brought to -1; and the weight."""
    weight = Parameter(torch.zeros(1))
    optimizer = make_optimizer([{"params": [weight], "lr": 1.0}], TrainingConfig())
    weight.grad = torch.ones(1) * 1e6  # so that eps is nothing beside it
    optimizer.step()
    return TrustRegion(optimizer, target, **state), weight


def ended(held, *divergences):
    """The end of an update that measures these, one after another; the last one again and again."""
    found = [*divergences]
    held.begin()
    return held.end(lambda: found.pop(0) if len(found) > 1 else found[0])


class TestRegion:
    def test_a_step_within_stays(self):
        held, weight = region()
        assert ended(held, 0.04) == 0.04
        assert weight.item() == pytest.approx(-1)
        assert held.scale == 1

    @pytest.mark.parametrize("steepness", [0.06, 0.5, 5.0, 5e3])
    def test_one_beyond_is_shortened_until_it_is_within(self, steepness):
        held, weight = region()
        measure = lambda: steepness * weight.item() ** 2  # noqa: E731
        divergence = held.end(measure)
        assert 0.02 < divergence <= 0.05
        assert divergence == pytest.approx(measure())
        assert -1 < weight.item() < 0
        if steepness == 0.5:  # a tenth less than the square root asks for
            assert weight.item() == pytest.approx(-0.9 * 0.1**0.5)
        assert held.optimizer.param_groups[0]["lr"] == pytest.approx(-weight.item(), rel=1e-3)

    def test_the_rate_falls_by_the_root_and_by_a_tenth_at_most(self):
        for divergence, scale in ((0.2, 0.5), (0.05 / 0.81, 0.9), (500.0, 0.1), (math.nan, 0.1), (math.inf, 0.1)):
            held, _ = region()
            ended(held, divergence, divergence, 0.0)  # once, however often the step is shortened
            assert held.scale == pytest.approx(scale)

    @pytest.mark.parametrize("measured", [1.0, math.nan])
    def test_one_that_is_beyond_however_short_is_taken_back(self, measured):
        held, weight = region()
        ended(held, measured)
        assert weight.item() == pytest.approx(0, abs=1e-6)

    def test_the_rate_rises_again_where_updates_stay_well_within(self):
        held, _ = region(scale=0.5)
        scales = []
        for divergence in (0.049, 0.026, 0.024, 0.0, 0.0):
            ended(held, divergence)
            scales.append(held.scale)
        assert scales == pytest.approx([0.5, 0.5, 0.75, 1.0, 1.0])
        held.optimizer.param_groups[0]["lr"] = 0.2
        held.scale = 0.5
        assert held.begin() == pytest.approx(0.1)
        assert held.optimizer.param_groups[0]["lr"] == pytest.approx(0.1)

    def test_none_is_as_far_as_it_goes(self):
        held, weight = region(target=None, scale=0.5)
        assert held.begin() == 1.0
        assert not held.is_left(1e9, 1, lambda: 1e9)
        assert held.end(lambda: 1e9) == 1e9
        assert weight.item() == pytest.approx(-1)


class TestWhenItIsMeasured:
    """During an update: where a minibatch's own KL says that it is too far, or where it has too few answers to tell."""

    @staticmethod
    def asked(answers, own, measured=0.0):
        """Before which minibatches it was measured, and before which it was left: ``own``, one after another."""
        held, _ = region()
        calls = []
        measure = lambda: calls.append(None) or measured  # noqa: E731
        held.begin()
        looked, left = [], []
        for number, divergence in enumerate(own):
            before = len(calls)
            left += [number] * held.is_left(divergence, answers, measure)
            looked += [number] * (len(calls) > before)
        return looked, left

    @pytest.mark.parametrize("answers", [32, 64])
    def test_many_answers_speak_for_themselves_and_are_not_the_last_word(self, answers):
        own = [0.04, 0.06, 0.04, math.nan, 9.0]
        assert self.asked(answers, own) == ([1, 3, 4], [])
        assert self.asked(answers, own, measured=0.06) == ([1, 3, 4], [1, 3, 4])
        assert self.asked(answers, own, measured=math.nan) == ([1, 3, 4], [1, 3, 4])

    @pytest.mark.parametrize(("answers", "every"), [(1, 32), (5, 7), (16, 2), (31, 2)])
    def test_few_are_not_gone_by(self, answers, every):
        assert self.asked(answers, [0.0] * 70)[0] == [*range(0, 70, every)]

    @pytest.mark.parametrize(("answers", "every"), [(1, 8), (3, 3), (8, 1)])
    def test_few_that_are_alarmed_are_heeded_sooner(self, answers, every):
        assert self.asked(answers, [1.0] * 20)[0] == [*range(0, 20, every)]

    def test_every_update_begins_anew(self):
        held, _ = region()
        looked = []
        for _ in range(2):
            held.begin()
            held.is_left(0.0, 1, lambda: looked.append(None) or 0.0)
        assert len(looked) == 2


def with_adam(make_update, learning_rate=1e-3, **settings):
    """The usual update, by AdamW."""
    setup = make_update(**settings)
    groups = [{"params": list(module.parameters()), "lr": learning_rate} for module in (setup.lm.model, setup.critic)]
    setup.optimizer = make_optimizer(groups, setup.config)
    return setup


@torch.no_grad()
def moved_by(setup, rows=slice(None)):
    """KL (k3, nats a token) from the policy that sampled, over these answers in one batch."""
    tokens, mask = setup.batch.tokens[rows], setup.batch.mask[rows]
    now = forward_tokens(setup.lm, tokens, mask, temperature=setup.config.temperature).logprobs
    return kl(setup.batch.old_logprobs[rows][mask], now[mask], estimator="k3").mean().item()


# 32 of the 140 that have a mask, in the test that uses it: every 4.375th
SPREAD = [20, 24, 28, 33, 37, 41, 46, 90, 95, 99, 103, 108, 112, 116, 121, 125, 130, 134, 138]
SPREAD += [143, 147, 151, 156, 160, 165, 169, 173, 178, 182, 186, 191, 195]


class TestInAnUpdate:
    @pytest.mark.parametrize("critic", ["separate", "shared"])
    @pytest.mark.parametrize("epochs", [1, 4])
    @pytest.mark.parametrize("learning_rate", [1e-2, 1.0])
    def test_it_ends_within(self, make_update, critic, epochs, learning_rate):
        settings = {"critic": critic, "num_ppo_epochs": epochs, "learning_rate": learning_rate}
        free = with_adam(make_update, **settings)
        assert free.update()["policy/update_kl"] == pytest.approx(moved_by(free), rel=1e-4)
        assert moved_by(free) > 0.15
        held = with_adam(make_update, **settings, target_kl=0.05)
        metrics = held.update()
        assert 0 < moved_by(held) <= 0.05
        assert metrics["policy/update_kl"] == pytest.approx(moved_by(held), rel=1e-4)
        assert metrics["policy/lr_scale"] < 1
        assert metrics["policy/stopped_early"] == (epochs > 1)
        assert metrics["lr"] == pytest.approx(learning_rate)  # that of the steps, not of the last one taken again
        if epochs > 1:  # what the minibatch saw that found it too far
            assert metrics["policy/approxkl_avg"] > 0.02
        assert all(weight.grad is None for weight in held.parameters)  # nothing left for the next step

    def test_a_policy_that_stays_where_it_is_has_not_moved(self, make_update):
        """Whatever the temperature that it samples at."""
        setup = make_update(temperature=0.5, target_kl=1e-6)
        for group in setup.optimizer.param_groups:
            group["lr"] = 0.0
        assert setup.update()["policy/update_kl"] == pytest.approx(0, abs=1e-8)

    def test_one_that_stays_within_is_as_without(self, make_update):
        settings = {"num_ppo_epochs": 4, "learning_rate": 1e-5}
        (held, metrics), (free, _) = (
            with_adam(make_update, **settings, target_kl=target).moved() for target in (0.05, "none")
        )
        assert torch.equal(held, free)
        assert (metrics["policy/stopped_early"], metrics["policy/updates"]) == (0, 4)

    def test_a_step_that_leads_to_nan_is_taken_back(self, make_update, vector):
        """The next minibatch finds it: that one is refused, and the policy can be sampled from again."""
        for target_kl, finite in ((0.05, True), ("none", False)):
            setup = with_adam(make_update, learning_rate=10.0, num_ppo_epochs=2, target_kl=target_kl)
            overflow = lambda module, _, hidden: hidden * (math.nan if module.weight.abs().max() > 5 else 1.0)  # noqa: E731
            setup.lm.model.get_input_embeddings().register_forward_hook(overflow)
            with pytest.raises(NotFiniteError):
                setup.update()
            assert math.isfinite(moved_by(setup)) == finite
            assert (moved_by(setup) <= 0.05) == finite

    def test_what_is_measured_is_spread_over_the_answers_that_are_trained_on(self, make_update):
        """Not those that are masked, not the last minibatch's, not the first prompts'."""
        setup = with_adam(make_update, learning_rate=0.1, cutoff="mask", batch_size=200, mini_batch_size=4)
        mask = setup.batch.mask.clone()
        mask[3] = False
        setup.batch = replace(setup.batch, mask=mask, host_mask=mask).rows(
            [3] * 20 + [0] * 30 + [3] * 40 + [1] * 50 + [2] * 60
        )
        assert setup.update()["policy/update_kl"] == pytest.approx(moved_by(setup, SPREAD), rel=1e-4)
        assert moved_by(setup, SPREAD) > 0.1

    @pytest.mark.parametrize("size", [1, 2])
    def test_small_minibatches_are_held_too(self, make_update, size):
        """Each of them may see nothing: the whole step's answers do."""
        settings = {"mini_batch_size": size, "num_ppo_epochs": 4, "learning_rate": 0.02}
        free = with_adam(make_update, **settings)
        free.update()
        assert moved_by(free) > 0.5
        held = with_adam(make_update, **settings, target_kl=0.05)
        assert held.update()["policy/stopped_early"]
        assert moved_by(held) <= 0.05

    def test_in_low_precision_too(self, make_update):
        """Where copies of the weights are kept in it."""
        held = with_adam(make_update, learning_rate=1e-2, target_kl=0.05)
        with torch.autocast("cpu", torch.bfloat16):
            metrics = held.update(step=1)
        assert 0.005 < metrics["policy/update_kl"] <= 0.05
        with torch.autocast("cpu", torch.bfloat16):
            assert metrics["policy/update_kl"] == pytest.approx(moved_by(held), rel=0.05)

    def test_a_gradient_that_is_infinite_ends_an_update_too(self, make_update):
        """What was done before it is held, as at any other end."""
        ended = []
        for target_kl in (0.05, "none"):
            setup = with_adam(make_update, learning_rate=2e-3, target_kl=target_kl, mini_batch_size=1, num_ppo_epochs=4)
            setup.batch = setup.batch.rows([0, 1, 2, 3] * 5)
            rest = iter([1.0] * 8)
            setup.lm.model.lm_head.weight.register_hook(lambda g, rest=rest: g * next(rest, math.inf))
            with pytest.raises(NotFiniteError, match="gradient: its norm is"):
                setup.update()
            ended.append(moved_by(setup))
        assert 0.05 < ended[0] < ended[1]  # by one step, which is all that can be taken back

    def test_the_critic_is_not_held(self, make_update, vector):
        settings = {"critic": "separate", "learning_rate": 0.1}
        held, free = (with_adam(make_update, **settings, target_kl=target) for target in (0.05, "none"))
        held.update()
        free.update()
        assert torch.equal(vector(held.critic), vector(free.critic))
        assert not torch.equal(vector(held.lm.model), vector(free.lm.model))

    def test_the_critics_warm_up_is_not_held(self, make_update):
        setup = with_adam(make_update, learning_rate=0.1, critic_warmup_steps=1, target_kl=1e-9, num_ppo_epochs=3)
        metrics = setup.update()
        assert metrics["policy/updates"] == 3
        assert "policy/update_kl" not in metrics
        assert metrics["policy/lr_scale"] == 1

    def test_more_answers_than_a_sequence_has_tokens(self, make_update):
        """The length of an answer is not cut as its tokens are."""
        setup = make_update()
        twelve = setup.batch.rows([0, 1, 2, 3] * 3)
        assert twelve.rows([1, 3, 3] * 4).lengths.tolist() == setup.batch.lengths[[1, 3, 3] * 4].tolist()
