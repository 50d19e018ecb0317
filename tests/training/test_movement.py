"""Whether the policy still moves each component: by SciPy's Welch test, and in a run."""

import pytest
from scipy import stats

from kedge.training.ppo.guards import Guards, GuardsConfig
from kedge.training.ppo.movement import Movement, trend


def test_the_trend_is_welchs_t():
    first, second = [0.1, 0.4, 0.2, 0.5], [0.9, 0.3, 1.2, 0.8]
    assert trend(first + second) == pytest.approx(stats.ttest_ind(second, first, equal_var=False).statistic)
    assert trend([0.5] * 8) == 0.0


def step(number, *, still=0.5, share=0.5):
    wave = 0.01 * (-1) ** number
    return {
        "rewards/rising": number / 100 + wave, "rewards/rising_std": 0.1, "rewards/rising_share": 1 - share,
        "rewards/still": still + wave, "rewards/still_std": 0.1, "rewards/still_share": share,
    }  # fmt: skip


def test_nothing_is_said_before_there_are_enough_steps():
    movement = Movement()
    assert [movement.take_in(step(i)) for i in range(39)] == [{}] * 39
    told = [movement.take_in(step(i)) for i in range(39, 59)]
    assert all(each["rewards/rising_trend"] > 5 for each in told)
    assert told[0]["rewards/still_trend"] == pytest.approx(0.0, abs=1e-9)
    assert ["rewards/smallest_trend" in each for each in told] == [False] * 19 + [True]
    assert told[-1]["rewards/smallest_trend"] == pytest.approx(0.0, abs=1e-9)


def test_one_that_stands_still_is_not_one_after_another():
    """Each rests for twenty steps while the other moves: none has stood still for twenty trends."""
    movement = Movement()
    for i in range(120):
        levels = {"a": sum(k % 40 < 20 for k in range(i)) / 10, "b": sum(k % 40 >= 20 for k in range(i)) / 10}
        line = {f"rewards/{name}": level + 0.01 * (-1) ** i for name, level in levels.items()}
        line |= {f"rewards/{name}_{what}": 0.5 for name in levels for what in ("std", "share")}
        told = movement.take_in(line)
        assert told.get("rewards/smallest_trend", 9.0) > 5


def test_what_is_all_but_the_same_for_every_answer_is_not_missed():
    movement = Movement()
    for i in range(60):
        told = movement.take_in(step(i, share=0.001))
    assert told["rewards/smallest_trend"] > 5


def test_it_goes_on_where_it_was():
    whole, first = Movement(), Movement()
    for i in range(30):
        whole.take_in(step(i))
        first.take_in(step(i))
    second = Movement(**first.state_dict())
    for i in range(30, 65):
        assert second.take_in(step(i)) == whole.take_in(step(i))


def test_the_guard_speaks_once_it_has_lasted():
    metrics = {
        "objective/kl": 0.0, "completions/mean_length": 4.0, "completions/empty": 0.0, "completions/repeated": 0.0,
        "completions/cut_off": 0.0, "objective/scores_std": 1.0, "policy/update_kl": 0.0, "policy/entropy_avg": 1.0,
    }  # fmt: skip
    guards, movement = Guards(GuardsConfig(), rounding=1e-3), Movement()
    lines = [step(i) for i in range(80)]
    said = [[a.message for a in guards.watch(metrics | line | movement.take_in(line))] for line in lines]
    assert [i for i, alarms in enumerate(said) if alarms] == [58]
    assert "no longer moves one of the reward components (0.0 standard errors" in said[58][0]
