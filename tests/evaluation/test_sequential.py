"""Intervals that may be looked at at any time: against closed values, numpy, and thousands of peeking experiments."""

import math

import numpy as np
import pytest

from kedge.evaluation.sequential import Difference, Moments, difference


def moments(numbers):
    found = Moments()
    for number in numbers:
        found.add(float(number))
    return found


def test_moments_are_numpys():
    numbers = np.random.default_rng(0).normal(1e6, 3, 500)
    found = moments(numbers)
    assert found.count == 500
    assert found.mean == pytest.approx(numbers.mean(), rel=1e-12)
    assert found.variance == pytest.approx(numbers.var(ddof=1), rel=1e-6)


@pytest.mark.parametrize("few", [[], [1.0]])
def test_nothing_is_known_of_too_few(few):
    found = difference(moments(few), moments([1.0, 2.0, 3.0]), error=0.05)
    assert (found.low, found.high) == (-math.inf, math.inf)


def test_by_hand():
    """Streams of spread 1 and 100 numbers each: a difference of variance 0.02, a mixture of variance 0.09.

    sqrt(0.02 * 0.11 / 0.09 * (2 ln 20 + ln 5.5)) = sqrt(0.024444 * (5.991465 + 1.704748)) = 0.433735."""
    new, old = Moments(100, 5.0, 99.0), Moments(100, 4.0, 99.0)
    found = difference(new, old, error=0.05)
    assert found.mean == 1.0
    assert found.high - 1.0 == pytest.approx(0.433735, abs=1e-5)
    assert 1.0 - found.low == pytest.approx(0.433735, abs=1e-5)


def test_what_never_varies_is_known():
    assert difference(moments([2.0, 2.0]), moments([1.0, 1.0]), error=0.05) == Difference(1.0, 1.0, 1.0)


def test_thirty_without_a_rare_event_prove_nothing():
    """One in ten had it before, and none of thirty now: by their own spread these would be sure."""
    found = difference(moments([0.0] * 30), moments([1.0, *[0.0] * 9] * 30), error=0.05)
    assert found.mean == pytest.approx(-0.1)
    assert found.high > 0


def test_it_has_no_unit():
    rng = np.random.default_rng(1)
    ours, theirs = rng.normal(0, 1, 60), rng.normal(0.2, 2, 90)
    small = difference(moments(ours), moments(theirs), error=0.05)
    large = difference(moments(1000 * ours), moments(1000 * theirs), error=0.05)
    assert large.high == pytest.approx(1000 * small.high)


DRAWS = {
    "normal": lambda rng, size: rng.normal(0, 1, size),
    "skewed": lambda rng, size: rng.exponential(1, size),
    "rare": lambda rng, size: (rng.random(size) < 0.1).astype(float),
}


def ever_wrong(draw, *, new, old, steps, least, experiments, error, shift=0.0, usual=False):
    """Share of experiments in which an interval, looked at after every third number, leaves the true difference out."""
    rng, wrong = np.random.default_rng(3), 0
    for _ in range(experiments):
        ours, theirs = draw(rng, new * steps) + shift, draw(rng, old * steps)
        for step in range(least, steps + 1):
            a, b = ours[: new * step], theirs[: old * step]
            if step % 3:
                continue
            if usual:
                spread = 1.96 * math.sqrt(a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b))
                missed = abs(a.mean() - b.mean() - shift) > spread
            else:
                one = Moments(len(a), float(a.mean()), float(a.var() * len(a)))
                other = Moments(len(b), float(b.mean()), float(b.var() * len(b)))
                found = difference(one, other, error=error)
                missed = not found.low <= shift <= found.high
            if missed:
                wrong += 1
                break
    return wrong / experiments


@pytest.mark.parametrize("kind", DRAWS)
def test_peeking_after_every_answer_is_wrong_no_more_often_than_it_says(kind):
    """Nine answers of the present version for each of the new one, as in a canary of a tenth."""
    found = ever_wrong(DRAWS[kind], new=1, old=9, steps=300, least=30, experiments=200, error=0.05)
    assert found <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 200)


def test_the_usual_interval_is_wrong_far_more_often():
    """The test above can fail: what most people would write does."""
    found = ever_wrong(DRAWS["normal"], new=1, old=9, steps=300, least=30, experiments=200, error=0.05, usual=True)
    assert found > 0.15
