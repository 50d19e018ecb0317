"""Rewards, penalties and advantages of a step, as numbers worked out by hand."""

import pytest
import torch

from kedge import PPOConfig
from kedge.core import RunningMoments
from kedge.rewards.scores import Scores
from kedge.sampling.rollouts import Rollouts
from kedge.training.ppo.batch import Batch, estimate_advantages, token_rewards

# Two prompt tokens and three of the answer; one and two, and two of padding.
MASK = torch.tensor([[0, 0, 1, 1, 1], [0, 1, 1, 0, 0]]).bool()
ROLLOUTS = Rollouts(
    tokens=torch.tensor([[5, 6, 7, 8, 9], [5, 7, 1, 0, 0]]),
    lengths=torch.tensor([5, 3]),
    response_mask=MASK,
    logprobs=torch.tensor([[0, 0, -1.0, -2.0, -3.0], [0, -1.5, -2.5, 0, 0]]),
    host_mask=MASK,
)
NEITHER, FIRST = torch.tensor([False, False]), torch.tensor([True, False])
ZEROS = torch.zeros(2, 5)


def rewards(total, per_token=(None, None), cut_off=NEITHER, moments=None, **settings):
    scores = Scores(list(total), list(per_token), {})
    moments = moments or RunningMoments()
    return token_rewards(ROLLOUTS, scores, cut_off, PPOConfig(**settings), moments).tolist()


def estimate(reward, *, ref=ROLLOUTS.logprobs, values=ZEROS, cut_off=NEITHER, kl_coef=0.0, **settings):
    settings = {"whiten_advantages": False} | settings
    return estimate_advantages(ROLLOUTS, torch.tensor(reward), ref, values, cut_off, kl_coef, PPOConfig(**settings))


def near(*rows):
    return [pytest.approx(row, abs=1e-6) for row in rows]


def test_the_score_is_paid_on_the_last_token_of_the_answer():
    assert rewards([1.5, -2.0]) == [[0, 0, 0, 0, 1.5], [0, 0, -2, 0, 0]]


def test_rewards_of_tokens_are_paid_on_theirs():
    per_token = [[0.25, -1, 4], None]
    assert rewards([0, 3], per_token) == [[0, 0, 0.25, -1, 4], [0, 0, 3, 0, 0]]
    assert rewards([10, 3], [[0.25, -1, 4], [1, 2]]) == [[0, 0, 0.25, -1, 14], [0, 1, 5, 0, 0]]


def test_what_to_do_with_a_cut_off_answer():
    assert rewards([1, 1], cut_off=FIRST) == [[0, 0, 0, 0, 1], [0, 0, 1, 0, 0]]
    penalty = {"cutoff": "penalty", "missing_eos_penalty": 2.5}
    assert rewards([1, 1], cut_off=FIRST, **penalty) == [[0, 0, 0, 0, -1.5], [0, 0, 1, 0, 0]]
    masked = estimate([[0, 0, 0, 0, 9.0], [0, 0, 2.0, 0, 0]], cut_off=FIRST, cutoff="mask", lam=1.0)
    assert masked.mask.int().tolist() == [[0, 0, 0, 0, 0], [0, 1, 1, 0, 0]]
    assert masked.advantages.tolist() == [[0, 0, 0, 0, 0], [0, 2, 2, 0, 0]]
    kept = estimate([[0, 0, 0, 0, 9.0], [0, 0, 2.0, 0, 0]], cut_off=FIRST, lam=1.0)
    assert kept.advantages.tolist() == [[0, 0, 9, 9, 9], [0, 2, 2, 0, 0]]


def test_masked_answers_are_not_whitened_over():
    rewards = [[0, 0, 0, 0, 1e6], [0, 1.0, 3.0, 0, 0]]
    batch = estimate(rewards, cut_off=FIRST, cutoff="mask", lam=0.0, whiten_advantages=True)
    assert batch.advantages.tolist() == near([0] * 5, [0, -1, 1, 0, 0])


def test_masked_answers_do_not_set_the_scale_of_the_rewards():
    """1 and 3: mean 2, deviation 1, whatever a cut-off answer earned."""
    rewards = [[0, 0, 0, 0, 1e6], [0, 1.0, 3.0, 0, 0]]
    batch = estimate(rewards, cut_off=FIRST, cutoff="mask", lam=0.0, whiten_rewards=True)
    assert batch.advantages.tolist() == near([0] * 5, [0, 1, 3, 0, 0])


def test_masked_answers_are_compared_with_all_the_same():
    """1 and 3: the second is better by 1 than their mean, though the first was cut off and is not trained on."""
    config = PPOConfig(advantage_estimator="dr_grpo", num_generations=2, cutoff="mask")
    reward = torch.tensor([[0, 0, 0, 0, 1.0], [0, 0, 3.0, 0, 0]])
    batch = estimate_advantages(ROLLOUTS, reward, ROLLOUTS.logprobs, None, FIRST, 0.0, config)
    assert batch.advantages.tolist() == [[0] * 5, [0, 1, 1, 0, 0]]


def test_the_penalty_is_scaled_with_the_scores():
    """4 less 2, and 6: 2 and 6 deviate by 2."""
    settings = {"cutoff": "penalty", "missing_eos_penalty": 2.0, "scale_rewards": True}
    assert rewards([4, 6], cut_off=FIRST, **settings) == near([0, 0, 0, 0, 1], [0, 0, 3, 0, 0])


def test_scores_are_divided_by_their_running_deviation():
    moments = RunningMoments()
    # 2 and 6 deviate by 2; with 0 and 0 the four numbers deviate by the root of 6.
    assert rewards([2, 6], scale_rewards=True, moments=moments) == near([0, 0, 0, 0, 1], [0, 0, 3, 0, 0])
    assert rewards([0, 0], scale_rewards=True, moments=moments) == [[0] * 5] * 2
    again = rewards([0, 6], [[0, 0, 6], None], scale_rewards=True, moments=moments)
    # 2 6 0 0 6 6: mean 10/3, deviation root(68/9)
    assert again == near([0, 0, 0, 0, 2.1828206], [0, 0, 2.1828206, 0, 0])


def test_the_deviation_is_of_whole_answers():
    """-1 + 3 and 2 + 4: sums 2 and 6, whatever stands on which token."""
    scaled = rewards([0, 0], [[-1, 0, 3], [2, 4]], scale_rewards=True)
    assert scaled == near([0, 0, -0.5, 0, 1.5], [0, 1, 2, 0, 0])


def test_clipping_comes_after_scaling():
    assert rewards([5, -7], clip_rewards=2) == [[0, 0, 0, 0, 2], [0, 0, -2, 0, 0]]
    both = rewards([2, 6], clip_rewards=2, scale_rewards=True)
    assert both == near([0, 0, 0, 0, 1], [0, 0, 2, 0, 0])


def test_kl_is_taken_off_each_token_of_the_answer():
    """Log-ratios .1 -.2 .3 times .05 off, 1 on the last: the numbers of DESIGN.md."""
    ref = ROLLOUTS.logprobs - torch.tensor([[0, 0, 0.1, -0.2, 0.3], [0, 0, 0, 0, 0]])
    values = torch.tensor([[0, 0, 0.2, 0.4, 0.6], [0, 0, 0, 0, 0]])
    batch = estimate([[0, 0, 0, 0, 1.0], [0, 0, 0, 0, 0]], ref=ref, values=values, kl_coef=0.05)
    assert batch.advantages.tolist() == near([0, 0, 0.7419625, 0.57575, 0.385], [0] * 5)
    assert batch.returns.tolist() == near([0, 0, 0.9419625, 0.97575, 0.985], [0] * 5)


@pytest.mark.parametrize("kind", ["grpo", "reinforce++"])
def test_answers_of_equal_scores_teach_nothing(kind):
    """Their KL from the reference, or its rounding, is not divided up to the size of an advantage."""
    config = PPOConfig(advantage_estimator=kind, num_generations=2)
    ref = ROLLOUTS.logprobs - torch.tensor([[0, 0, 0, 0, 1e-4], [0, 0, 0, 0, 0]])
    for score, differs in ((2.0, False), (2.5, True)):
        reward = torch.tensor([[0, 0, 0, 0, 2.0], [0, 0, score, 0, 0]])
        batch = estimate_advantages(ROLLOUTS, reward, ref, None, torch.zeros(2, dtype=bool), 0.05, config)
        assert bool(batch.advantages.any()) == differs


def test_each_group_by_itself():
    """2 and 2 teach nothing, 3 and 7 do; for the whole batch of REINFORCE++ all four differ."""
    twice = Rollouts(*(torch.cat([part, part]) for part in vars(ROLLOUTS).values() if part is not None))
    reward = torch.zeros(4, 5)
    reward[[0, 1, 2, 3], [4, 2, 4, 2]] = torch.tensor([2.0, 2.0, 3.0, 7.0])
    ref = twice.logprobs - torch.tensor([0.0, 0.0, 0.01, 0.0, 0.02])
    for kind, teaching in (("grpo", [False, False, True, True]), ("reinforce++", [True] * 4)):
        config = PPOConfig(advantage_estimator=kind, num_generations=2)
        batch = estimate_advantages(twice, reward, ref, None, torch.zeros(4, dtype=bool), 0.05, config)
        assert batch.advantages.any(-1).tolist() == teaching


def test_kl_in_the_loss_leaves_the_rewards_alone():
    ref = ROLLOUTS.logprobs - 1.0
    batch = estimate([[0, 0, 0, 0, 1.0], [0] * 5], ref=ref, kl_coef=0.5, kl_in="loss", lam=1.0)
    assert batch.advantages.tolist() == [[0, 0, 1, 1, 1], [0] * 5]
    batch = estimate([[0, 0, 0, 0, 1.0], [0] * 5], ref=ref, kl_coef=0.5, lam=0.0)
    assert batch.advantages.tolist() == near([0, 0, -0.5, -0.5, 0.5], [0, -0.5, -0.5, 0, 0])


def test_discount_and_lambda():
    """Value 0 everywhere: a score of 8 on the last of three tokens, halved a token, by either."""
    reward = [[0, 0, 0, 0, 8.0], [0] * 5]
    for settings in ({"gamma": 0.5, "lam": 1.0}, {"gamma": 1.0, "lam": 0.5}):
        assert estimate(reward, **settings).advantages.tolist() == [[0, 0, 2, 4, 8], [0] * 5]


def test_values_are_those_before_each_token():
    """One-step advantages: reward + next value - value; after the last token the value is 0."""
    values = torch.tensor([[7, 7, 1, 2, 4.0], [7, 3, 5, 7, 7]])  # 7: not of the answer
    batch = estimate([[0, 0, 0, 0, 10.0], [0, 0, 1.0, 0, 0]], values=values, lam=0.0)
    assert batch.advantages.tolist() == [[0, 0, 1, 2, 6], [0, 2, -4, 0, 0]]


def test_advantages_are_whitened_over_all_tokens_of_all_answers():
    """0 0 4 and 0 1: mean 1, population variance 12/5."""
    batch = estimate([[0, 0, 0, 0, 4.0], [0, 0, 1.0, 0, 0]], lam=0.0, whiten_advantages=True)
    assert batch.advantages.tolist() == near([0, 0, -0.6454972, -0.6454972, 1.9364917], [0, -0.6454972, 0, 0, 0])
    assert batch.returns.tolist() == [[0, 0, 0, 0, 4], [0, 0, 1, 0, 0]]  # the critic's target is not whitened


def test_equal_rewards_give_advantage_zero():
    batch = estimate([[0, 0, 0, 0, 0.1], [0, 0, 0.1, 0, 0]], lam=1.0, whiten_advantages=True)
    assert batch.advantages.tolist() == [[0] * 5] * 2


def test_whitened_rewards_keep_their_mean():
    """0 0 4 and 0 1 again: divided by their deviation about the mean, which stays 1."""
    batch = estimate([[0, 0, 0, 0, 4.0], [0, 0, 1.0, 0, 0]], lam=0.0, whiten_rewards=True)
    assert batch.advantages.tolist() == near([0, 0, 0.3545028, 0.3545028, 2.9364917], [0, 0.3545028, 1, 0, 0])


def test_whitened_rewards_include_kl():
    ref = ROLLOUTS.logprobs - torch.tensor([[0, 0, 0, 0, -8.0], [0, 0, -2.0, 0, 0]])
    batch = estimate(ZEROS.tolist(), ref=ref, kl_coef=0.5, lam=0.0, whiten_rewards=True)
    assert batch.advantages.tolist() == near([0, 0, 0.3545028, 0.3545028, 2.9364917], [0, 0.3545028, 1, 0, 0])


def test_rows_are_trimmed_to_the_longest_of_them():
    batch = Batch(
        ROLLOUTS.tokens, ROLLOUTS.lengths, MASK, MASK, *(torch.arange(10.0).reshape(2, 5) + i for i in range(5))
    )
    part = batch.rows([1])
    assert part.tokens.tolist() == [[5, 7, 1]]
    assert part.lengths.tolist() == [3]
    assert part.mask.tolist() == [[False, True, True]]
    assert part.returns.tolist() == [[9, 10, 11]]
    assert batch.rows([1, 0]).old_values.tolist() == [[7, 8, 9, 10, 11], [2, 3, 4, 5, 6]]


@pytest.mark.parametrize(
    ("kind", "first", "second"), [("dr_grpo", -1.425, 1.425), ("rloo", -2.85, 2.85), ("grpo", -1.0, 1.0)]
)
def test_without_a_critic_answers_to_a_prompt_are_compared(kind, first, second):
    """Rewards a token sum to 3.25 and 6; the KL penalty of .5 * .2 a token makes that 2.95 and 5.8, mean 4.375."""
    config = PPOConfig(advantage_estimator=kind, num_generations=2)
    reward = torch.tensor([[0, 0, 0.25, -1, 4], [0, 1, 5, 0, 0]])
    batch = estimate_advantages(ROLLOUTS, reward, ROLLOUTS.logprobs - 0.2, None, NEITHER, 0.5, config)
    assert batch.advantages.tolist() == near([0, 0, first, first, first], [0, second, second, 0, 0])
    assert batch.old_values is None
    assert batch.returns is None
    assert batch.rows([1]).advantages.tolist() == near([0, second, second])


def test_groups_of_two_in_a_batch_of_four():
    """The last two answers are far better than the first two, and compared with each other alone."""
    four = Rollouts(*(part.repeat(2, *[1] * (part.dim() - 1)) for part in vars(ROLLOUTS).values() if part is not None))
    reward = torch.zeros(4, 5)
    reward[[0, 1, 2, 3], [4, 2, 4, 2]] = torch.tensor([1.0, 3.0, 100.0, 106.0])
    config = PPOConfig(advantage_estimator="dr_grpo", num_generations=2)
    batch = estimate_advantages(four, reward, four.logprobs, None, torch.zeros(4).bool(), 0.5, config)
    assert batch.advantages.sum(-1).tolist() == [-1 * 3, 1 * 2, -3 * 3, 3 * 2]
