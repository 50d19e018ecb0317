"""Means and whitening over the tokens that count."""

import math

import pytest
import torch
from torch import tensor

from kedge.core import masked_mean, whiten
from kedge.core.masking import keep

MASK = tensor([True, True, True, False])
JUNK = [math.nan, math.inf, -math.inf, 1e30]
AWKWARD = [0.1, 1 / 3, -0.7, 1e6 + 0.1]


@pytest.mark.parametrize("junk", JUNK)
def test_keep_stops_junk_and_its_gradient(junk):
    x = tensor([1.0, 2.0, 3.0, junk], requires_grad=True)
    kept = keep(x, MASK)
    assert kept.tolist() == [1.0, 2.0, 3.0, 0.0]
    kept.square().sum().backward()
    assert x.grad.tolist() == [2.0, 4.0, 6.0, 0.0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_keep_leaves_the_dtype(dtype):
    assert keep(torch.ones(4, dtype=dtype), MASK).dtype == dtype


@pytest.mark.parametrize("junk", JUNK)
@pytest.mark.parametrize(("denominator", "expected"), [(None, 2.0), (4, 1.5), (tensor(8), 0.75), (0.5, 12.0)])
def test_masked_mean(junk, denominator, expected):
    assert masked_mean(tensor([1.0, 2.0, 3.0, junk]), MASK, denominator=denominator) == expected


@pytest.mark.parametrize("junk", JUNK)
@pytest.mark.parametrize(("denominator", "each"), [(None, 1 / 3), (4, 0.25)])
def test_masked_mean_gradient(junk, denominator, each):
    x = tensor([1.0, 2.0, 3.0, junk], requires_grad=True)
    masked_mean(x, MASK, denominator=denominator).backward()
    assert x.grad.tolist() == pytest.approx([each, each, each, 0.0])


@pytest.mark.parametrize("denominator", [None, 5])
def test_masked_mean_of_nothing_is_zero(denominator):
    x = torch.full((2, 3), math.nan, requires_grad=True)
    mean = masked_mean(x, torch.zeros(2, 3, dtype=torch.bool), denominator=denominator)
    mean.backward()
    assert mean == 0
    assert x.grad.eq(0).all()


def test_masked_mean_of_the_parts_adds_up():
    torch.manual_seed(0)
    x, mask = torch.randn(8, 5), torch.rand(8, 5) < 0.6
    mask[3] = False  # a part without a token
    parts = sum(masked_mean(x[i], mask[i], denominator=mask.sum()) for i in range(8))
    torch.testing.assert_close(parts, masked_mean(x, mask))


# Of 1, 2, 3, 4: mean 2.5, population variance 1.25.
WHITE = [-1.3416407865, -0.4472135955, 0.4472135955, 1.3416407865]


@pytest.mark.parametrize("junk", JUNK)
@pytest.mark.parametrize(("shift_mean", "mean"), [(True, 0.0), (False, 2.5)])
def test_whiten(junk, shift_mean, mean):
    x, mask = tensor([[1.0, junk, 2.0], [3.0, 4.0, junk]]), tensor([[True, False, True], [True, True, False]])
    a, b, c, d = (w + mean for w in WHITE)
    expected = tensor([[a, 0.0, b], [c, d, 0.0]])
    torch.testing.assert_close(whiten(x, mask, shift_mean=shift_mean), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [1, 3, 7, 1000])
@pytest.mark.parametrize("value", AWKWARD)
def test_whitened_equal_entries_are_exactly_zero(value, n, dtype):
    x, mask = torch.full((n + 1,), value, dtype=dtype), torch.arange(n + 1) < n
    x[n] = math.nan
    assert whiten(x, mask).eq(0).all()
    unshifted = whiten(x, mask, shift_mean=False)
    assert unshifted[:n].tolist() == pytest.approx([value] * n, rel=1e-6)
    assert unshifted[n] == 0


def test_whitened_nearly_equal_entries_stay_small():
    # Standard deviation 5e-7; without a floor under the variance these would be -1 and 1.
    x = tensor([1.0, 1.0 + 1e-6], dtype=torch.float64)
    assert whiten(x, x > 0).tolist() == pytest.approx([-0.005, 0.005], rel=1e-3)


@pytest.mark.parametrize("shift_mean", [True, False])
def test_whiten_of_nothing_is_zero(shift_mean):
    x = torch.full((2, 3), math.nan)
    assert whiten(x, torch.zeros(2, 3, dtype=torch.bool), shift_mean=shift_mean).eq(0).all()


@pytest.mark.parametrize("shift_mean", [True, False])
def test_whiten_ignores_padding_in_value_and_gradient(shift_mean):
    torch.manual_seed(0)
    x, weights = torch.randn(2, 4), torch.randn(2, 4)
    short = x.clone().requires_grad_()
    long = torch.cat([x, torch.full((2, 3), math.nan)], -1).requires_grad_()
    white_short = whiten(short, torch.ones(2, 4, dtype=torch.bool), shift_mean=shift_mean)
    white_long = whiten(long, (torch.arange(7) < 4).expand(2, 7), shift_mean=shift_mean)
    torch.testing.assert_close(white_long[:, :4], white_short)
    (white_short * weights).sum().backward()
    (white_long[:, :4] * weights).sum().backward()
    torch.testing.assert_close(long.grad[:, :4], short.grad)
    assert long.grad[:, 4:].eq(0).all()


@pytest.mark.parametrize("x", [[1.0, 2.0, 6.0], AWKWARD, [0.1, 0.1, 0.1], [5.0]], ids=str)
@pytest.mark.parametrize("shift_mean", [True, False])
def test_no_mask_is_a_mask_of_all(x, shift_mean):
    x = tensor(x)
    expected = whiten(x, torch.ones_like(x, dtype=torch.bool), shift_mean=shift_mean)
    torch.testing.assert_close(whiten(x, None, shift_mean=shift_mean), expected)
    assert keep(x, None) is x
    assert masked_mean(x, None) == pytest.approx(float(x.double().mean()), rel=1e-6)
    assert masked_mean(x, None, denominator=10) == pytest.approx(float(x.double().sum()) / 10, rel=1e-6)
