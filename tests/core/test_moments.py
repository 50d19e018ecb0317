"""The running spread, against Python's statistics of everything at once."""

import math
import statistics

import pytest
import torch
from torch import tensor

from kedge.core import RunningMoments


def test_literal():
    moments = RunningMoments()
    moments.update(tensor([1.0, 2.0]))
    assert (moments.count, moments.mean, moments.std) == (2, 1.5, 0.5)
    moments.update(tensor([3.0, 4.0]))
    assert (moments.count, moments.mean) == (4, 2.5)
    assert moments.std == pytest.approx(1.1180339887)  # the population's: root of 1.25


@pytest.mark.parametrize("sizes", [[24], [1] * 24, [5, 0, 7, 1, 11], [23, 1]])
def test_any_split_gives_the_moments_of_the_whole(sizes):
    numbers = 1000 + torch.randn(24, generator=torch.Generator().manual_seed(0))
    moments = RunningMoments()
    for part in numbers.split(sizes):
        moments.update(part)
    assert moments.count == 24
    assert moments.mean == pytest.approx(statistics.fmean(numbers.tolist()))
    assert moments.std == pytest.approx(statistics.pstdev(numbers.tolist()))


@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, 1e6 + 0.1])
@pytest.mark.parametrize("sizes", [[], [0], [1], [3], [3, 1, 7]])
def test_equal_numbers_have_spread_one(sizes, value):
    moments = RunningMoments()
    for size in sizes:
        moments.update(torch.full((size,), value))
    assert moments.std == 1.0


def test_equal_numbers_in_float64_have_spread_one():
    moments = RunningMoments()
    moments.update(torch.full((3,), 0.1, dtype=torch.float64))
    assert moments.std == 1.0


def test_state_goes_round():
    moments = RunningMoments()
    moments.update(tensor([0.1, 0.5, -2.0]))
    resumed = RunningMoments(**moments.state_dict())
    for each in (moments, resumed):
        each.update(tensor([[3.0, 0.25]]))
    assert resumed.state_dict() == moments.state_dict()
    assert resumed.std == moments.std
    assert not math.isnan(resumed.std)


def test_numbers_with_a_gradient_are_welcome():
    moments = RunningMoments()
    moments.update(tensor([1.0, 3.0], requires_grad=True))
    assert moments.std == 1.0
    assert moments.mean == 2.0
    assert isinstance(moments.mean, float)
