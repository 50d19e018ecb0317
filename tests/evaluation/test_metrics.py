"""Numbers about sets of completions, against published and hand-counted values."""

import math

import pytest

from kedge.evaluation.metrics import mean, wilson_interval, win_rate
from kedge.rewards.library.words import distinct_n, words_of


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [  # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_published(successes, n, low, high):
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=5e-5)
    assert wilson_interval(n - successes, n) == pytest.approx((1 - high, 1 - low), abs=5e-5)


def test_win_rate():
    rate = win_rate([3, 1, 2, 5], [1, 2, 2, 4])
    assert (rate.rate, rate.n) == (0.625, 4)  # two wins, a tie, a loss
    assert 0 < rate.low < 0.625 < rate.high < 1
    assert rate.as_dict().keys() == {"rate", "low", "high", "n"}
    ties = win_rate([1.0] * 8, [1.0] * 8)
    assert ties.rate == 0.5
    assert ties.low + ties.high == pytest.approx(1)
    theirs = win_rate([1, 2, 2, 4], [3, 1, 2, 5])
    assert (theirs.rate, theirs.low) == pytest.approx((1 - rate.rate, 1 - rate.high))


@pytest.mark.parametrize(("ours", "theirs"), [([], []), ([1.0], [1.0, 2.0])])
def test_win_rate_of_nothing(ours, theirs):
    with pytest.raises(ValueError):  # noqa: PT011
        win_rate(ours, theirs)


@pytest.mark.parametrize(
    ("texts", "n", "expected"),
    [
        (["a b a", "a c"], 1, 3 / 5),
        (["a b a", "a c"], 2, 1.0),
        (["a b a b", "a b"], 2, 2 / 4),
        (["a", ""], 2, 0.0),
        ([], 1, 0.0),
        (["x x x x"], 1, 0.25),
        (["我喜欢你，你喜欢我。"], 1, 4 / 8),  # without spaces: a character is a word, punctuation is none
        (["我喜欢你", "喜欢我"], 2, 4 / 5),
        (["用PyTorch训练 模型"], 1, 1.0),
        (["もも もも"], 1, 1 / 4),
        (["กิน กิน"], 1, 2 / 4),  # a vowel sign belongs to its letter
    ],
)
def test_distinct_n(texts, n, expected):
    assert distinct_n(texts, n) == pytest.approx(expected)


def test_mean():
    assert mean([1.0, math.nan, 3.0]) == 2.0
    assert math.isnan(mean([math.nan]))
    assert math.isnan(mean([]))


@pytest.mark.shared
def test_distinct_words_of_chinese_do_not_hang_on_spaces(shared):
    """The dialogues are written with a space after each character. As a reader writes them they say as much."""
    lines = (shared / "data/lccc-toy/toy_valid.txt").read_text(encoding="utf-8").split("\n")[:500]
    spaced = distinct_n(lines, 1)
    assert distinct_n([line.replace(" ", "") for line in lines], 1) == pytest.approx(spaced, abs=0.02)
    assert spaced < 0.3


def test_words():
    assert words_of("A bird's-eye view, isn't it?") == ["A", "bird's-eye", "view,", "isn't", "it?"]
    assert words_of("他说：“好！”（真的）") == ["他", "说", "“", "好", "”", "真", "的"]
