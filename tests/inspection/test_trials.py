"""Operations tried for a plan."""

import time

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from kedge.inspection.trials import Trials, overheads_here

aten = torch.ops.aten


@pytest.fixture
def empty():
    """``empty(shape)``: a tensor without numbers."""
    fake = FakeTensorMode(allow_non_fake_inputs=True)

    def make(*shape, dtype=torch.float32):
        with fake:
            return torch.empty(*shape, dtype=dtype)

    return make


def timed(run):
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best


def test_a_product_takes_what_it_takes(empty):
    """Not a test of speed: of one operation's time against its own, within a factor of five on a busy machine."""
    found = Trials(2**30).seconds(aten.mm.default, (empty(600, 800), empty(800, 1000)), {})
    a, b = torch.ones(600, 800), torch.ones(800, 1000)
    assert 0.2 < found / timed(lambda: a @ b) < 5


def test_tried_once_for_each_shape(empty, monkeypatch):
    trials, tried = Trials(2**30), []
    monkeypatch.setattr(trials, "_tried", lambda *call: tried.append(call) or 1.0)
    for shape in ((2, 3), (2, 3), (3, 2)):
        trials.seconds(aten.exp.default, (empty(*shape),), {})
    trials.seconds(aten.exp.default, (empty(3, 2).T,), {})  # other strides
    trials.seconds(aten.sum.dim_IntList, (empty(2, 3), [1]), {"dtype": torch.float32})
    trials.seconds(aten.sum.dim_IntList, (empty(2, 3), [0]), {"dtype": torch.float32})
    trials.seconds(aten.sum.dim_IntList, (empty(2, 3), [0]), {"dtype": torch.float64})
    assert len(tried) == 6


@pytest.mark.parametrize(
    ("operation", "args"),
    [
        (aten.embedding.default, lambda e: (e(50, 4), e(3, 5, dtype=torch.long))),
        (aten.where.self, lambda e: (e(4, 4, dtype=torch.bool), e(4, 4), e(4, 4))),
        (aten.cat.default, lambda e: ([e(2, 3), e(4, 3)],)),
        (aten.mul_.Tensor, lambda e: (e(8), e(8))),
        (aten._softmax.default, lambda e: (e(4, 9), -1, False)),
    ],
)
def test_of_many_kinds(empty, operation, args):
    assert Trials(2**30).seconds(operation, args(empty), {}) > 0


def test_what_cannot_be_tried_is_not(empty):
    assert Trials(3999).seconds(aten.exp.default, (empty(1000),), {}) is None
    assert Trials(4000).seconds(aten.exp.default, (empty(1000),), {}) is not None
    assert Trials(2**30).seconds(aten.mm.default, (empty(2, 3), empty(2, 3)), {}) is None


def test_asking_costs_more_than_nothing_and_draws_no_random_numbers():
    before = torch.random.get_rng_state()
    asked, back = overheads_here()
    assert 1e-7 < asked < 1e-2
    assert 0 <= back < 1e-2
    assert torch.equal(torch.random.get_rng_state(), before)
