"""Which pair to label next: literal numbers, and pairs of which some are alike."""

import math

import pytest

from kedge.data.records import Preference
from kedge.evaluation.acquisition import information, spread_out


def test_information_by_hand():
    """Two models that are sure of the opposite: a label decides between them. Two that are both unsure: it does not."""
    sure = math.log(9)  # 90%
    [apart, unsure, agreed, half] = information([[sure, 0.0, sure, sure], [-sure, 0.0, sure, 0.0]])
    assert apart == pytest.approx(math.log(2) - 0.3250829734)
    assert (unsure, agreed) == (pytest.approx(0.0), pytest.approx(0.0))
    assert half == pytest.approx(0.6108643021 - (0.3250829734 + math.log(2)) / 2)  # entropy of 0.7


def test_the_same_pair_is_not_taken_twice():
    pairs = [Preference("a b c", "a b d"), Preference("a b c", "a b d"), Preference("x y", "z"), Preference("q", "r")]
    assert spread_out(pairs, [1.0, 0.99, 0.5, 0.6], 3) == [0, 3, 2]
    assert spread_out(pairs, [1.0, 0.99, 0.5, 0.6], 9) == [0, 3, 2, 1]
    chinese = [Preference("很好", "很差"), Preference("很好", "很差"), Preference("谢谢", "再见")]
    assert spread_out(chinese, [1.0, 0.9, 0.1], 2) == [0, 2]
