"""Answers of older weights: what is computed anew, what a token counts, and what is too old to be trained on."""

import math

import pytest
import torch
from torch import tensor

from kedge import PPOConfig
from kedge.core import RunningMoments
from kedge.errors import DataError, NumericsError
from kedge.rewards.scores import Scores
from kedge.sampling.completion import Completion
from kedge.sampling.rollouts import collate
from kedge.training.ppo.batch import estimate_advantages, token_rewards
from kedge.training.ppo.correction import ages_of, corrected

ROUNDING = (1e-4, 1e-5)


def completion(prompt, ids, logprobs, versions):
    return Completion(prompt, ids, logprobs, "", "eos", versions)


ANSWERS = [
    completion([5, 6], [7, 8, 9], [-1.0, -2.0, -3.0], [4, 4, 5]),
    completion([5], [7, 1], [-1.5, -2.5], [3, 4]),
    completion([5], [7], [-0.5], [5]),
]
NOW = tensor([[0, 0, -0.5, -2.0, -4.0], [0, -1.5, -1.5, 0, 0], [0, -0.5, 0, 0, 0]])


def correct(completions=ANSWERS, now=NOW, version=5, **settings):
    rollouts = collate(completions, 0, torch.device("cpu"))
    config = PPOConfig(**settings)
    return corrected(completions, rollouts, config, version=version, logprobs=lambda _: now, rounding=ROUNDING)


def test_numbers_by_hand():
    rollouts, metrics = correct(max_staleness=1)
    assert rollouts.logprobs.tolist() == NOW.tolist()
    e = math.exp
    weights = [[0, 0, e(0.5), 1, e(-1)], [0, 1, 2.0, 0, 0], [0, 1, 0, 0, 0]]  # exp(1) is more than 2
    assert rollouts.weights.tolist() == [pytest.approx(row) for row in weights]
    assert rollouts.too_old.tolist() == [False, True, False]
    mean = (e(0.5) + 1 + e(-1) + 1 + e(1) + 1) / 6
    assert metrics == {
        "sampler/logprob_diff_max": 1.0,
        "sampler/logprob_diff_avg": pytest.approx(2.5 / 6),
        "policy/importance_mean": pytest.approx(mean),
        "policy/importance_max": pytest.approx(e(1)),
        "policy/importance_capped": pytest.approx(1 / 6),
        "sampler/staleness_avg": pytest.approx((1 + 1 + 0 + 2 + 1 + 0) / 6),
        "sampler/staleness_max": 2.0,
        "sampler/dropped": 1.0,
    }


def test_masked_in_place_of_truncated():
    rollouts, _ = correct(max_staleness=1, importance="mask", importance_cap=1.6)
    assert (rollouts.weights > 0).int().tolist() == [[0, 0, 0, 1, 0], [0, 1, 0, 0, 0], [0, 1, 0, 0, 0]]


def test_with_staleness_0_it_is_only_reported():
    completions = [completion(each.prompt_ids, each.ids, each.logprobs, ()) for each in ANSWERS]
    rollouts, metrics = correct(completions)
    assert rollouts.weights is None
    assert rollouts.too_old is None
    assert rollouts.logprobs.tolist() == collate(completions, 0, torch.device("cpu")).logprobs.tolist()
    assert metrics["policy/importance_max"] == pytest.approx(math.exp(1))
    assert "sampler/staleness_avg" not in metrics
    with pytest.raises(DataError, match="completion 1 does not say which weights wrote its tokens"):
        correct(completions, max_staleness=1)


def test_before_any_update_there_is_no_other_policy():
    fresh = [completion(each.prompt_ids, each.ids, each.logprobs, [0] * len(each.ids)) for each in ANSWERS]
    own = collate(fresh, 0, torch.device("cpu")).logprobs
    assert correct(fresh, own, version=0, max_staleness=1)[1]["sampler/logprob_diff_max"] == 0
    with pytest.raises(NumericsError, match=r"the sampler's log-probabilities differ from the policy's by 0\.01"):
        correct(fresh, own + 0.01, version=0, max_staleness=1)


def test_ages():
    assert ages_of(ANSWERS, 7) == [[3, 3, 2], [4, 3], [2]]


def test_what_is_too_old_has_no_part_in_the_batch():
    """Neither trained on, nor in the mean and the variance of the advantages; but for groups it has been compared."""
    rollouts, _ = correct(max_staleness=1)
    scores = Scores([3.0, 100.0, 1.0], [None] * 3, {})
    none = torch.zeros(3, dtype=torch.bool)
    config = PPOConfig(max_staleness=1, lam=1.0)
    rewards = token_rewards(rollouts, scores, none, config, RunningMoments())
    batch = estimate_advantages(rollouts, rewards, NOW, torch.zeros(3, 5), none, 0.0, config)
    assert batch.mask.int().tolist() == [[0, 0, 1, 1, 1], [0, 0, 0, 0, 0], [0, 1, 0, 0, 0]]
    assert torch.equal(batch.mask, batch.host_mask)
    assert batch.weights is rollouts.weights
    # 3, 3, 3 and 1: mean 2.5, deviation sqrt(0.75)
    assert batch.advantages[0, 2:].tolist() == pytest.approx([0.5 / math.sqrt(0.75)] * 3)
    assert batch.advantages[2, 1].item() == pytest.approx(-1.5 / math.sqrt(0.75))
    assert not batch.advantages[1].any()
    grouped = PPOConfig(max_staleness=1, advantage_estimator="dr_grpo", num_generations=3, batch_size=1,
                        mini_batch_size=3)  # fmt: skip
    batch = estimate_advantages(rollouts, rewards, NOW, None, none, 0.0, grouped)
    mean = 104 / 3
    assert batch.advantages[[0, 1, 2], [2, 1, 1]].tolist() == pytest.approx([3 - mean, 0, 1 - mean])


@pytest.mark.parametrize("settings", [{}, {"kl_in": "loss", "kl_coef": 0.1}])
def test_the_gradient_of_a_token_is_weighed(make_update, settings):
    """Of critic and entropy nothing is."""
    setup = make_update(vf_coef=0.0, critic="separate", **settings)
    plain, _ = setup.moved(kl_coef=0.1)
    again = make_update(vf_coef=0.0, critic="separate", **settings)
    double, _ = again.moved(kl_coef=0.1, weights=2.0 * again.batch.mask)
    assert torch.allclose(double, 2 * plain, atol=3e-6)
    assert plain.abs().max() > 1e-4
    third = make_update(vf_coef=0.0, critic="separate", **settings)
    nothing, metrics = third.moved(kl_coef=0.1, weights=torch.zeros(third.batch.mask.shape))
    assert not nothing.any()
    assert metrics["val/ratio"] == pytest.approx(1.0, abs=1e-5)


def test_the_first_ratio_is_of_what_was_computed_before(make_update):
    setup = make_update()
    wrong = setup.batch.old_logprobs.clone()
    wrong[0, 3] += 0.5
    weights = setup.batch.mask.float()
    with pytest.raises(NumericsError, match="differ from those computed before it by"):
        setup.update(old_logprobs=wrong, weights=weights)
