"""Learning-rate schedules, the order of the data, the optimiser and the clipping, as literal numbers."""

import math

import pytest
import torch
from torch.nn import Parameter
from transformers import get_scheduler

from kedge.errors import ConfigError
from kedge.training.config import TrainingConfig
from kedge.training.optimization import (
    batch_indices,
    clip_gradients,
    make_optimizer,
    permutation,
    schedule,
    set_learning_rate,
)


@pytest.mark.parametrize(
    ("kind", "warmup", "total", "factors"),
    [
        ("constant", 0, 3, [1, 1, 1]),
        ("constant", 2, 4, [0.5, 1, 1, 1]),
        ("linear", 0, 4, [1, 0.75, 0.5, 0.25]),
        ("linear", 4, 8, [0.25, 0.5, 0.75, 1, 1, 0.75, 0.5, 0.25]),
        ("cosine", 0, 4, [1, 0.8535534, 0.5, 0.1464466]),
        ("cosine", 1, 3, [1, 1, 0.5]),
        ("linear", 5, 3, [0.2, 0.4, 0.6]),  # shorter than its own warm-up
    ],
)
def test_schedule(kind, warmup, total, factors):
    config = TrainingConfig(lr_scheduler_type=kind, warmup_steps=warmup)
    assert [schedule(config, step, total) for step in range(total)] == pytest.approx(factors)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("linear", {}),
        ("cosine", {}),
        ("constant_with_warmup", {}),
        ("cosine_with_min_lr", {"min_lr_rate": 0.1}),
        ("cosine_with_restarts", {"num_cycles": 2}),
        ("polynomial", {"power": 2.0, "lr_end": 1e-6}),
        ("inverse_sqrt", {}),
        ("warmup_stable_decay", {"num_decay_steps": 4}),
    ],
)
@pytest.mark.parametrize("warmup", [{}, {"warmup_steps": 3}, {"warmup_ratio": 0.2}])
def test_schedules_are_those_of_transformers(kind, options, warmup):
    """But for the warm-up, in which theirs has a first step of rate 0."""
    optimizer = torch.optim.SGD([Parameter(torch.zeros(1))], lr=1e-3)
    theirs = get_scheduler(kind, optimizer, 3 if warmup else 0, 12, options).lr_lambdas[0]
    settings = {"lr_scheduler_kwargs": options} if options else {}
    config = TrainingConfig(lr_scheduler_type=kind, learning_rate=1e-3, **settings, **warmup)
    ours = [schedule(config, step, 12) for step in range(12)]
    begun = 3 if warmup else 0
    assert ours[begun:] == pytest.approx([theirs(step) for step in range(begun, 12)])
    assert ours[:begun] == pytest.approx([1 / 3, 2 / 3, 1][:begun])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"lr_scheduler_type": "cosine_with_min_lr"}, "lr_scheduler_kwargs: .*min_lr"),
        ({"lr_scheduler_type": "warmup_stable_decay"}, "lr_scheduler_kwargs: .*num_decay_steps"),
        (
            {"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"powr": 2}},
            "lr_scheduler_kwargs: .'powr': 2. with lr_scheduler_type='polynomial': .*'powr'",
        ),
        ({"lr_scheduler_type": "inverse_sqrt", "lr_scheduler_kwargs": {"timescale": 0}}, "timescale': 0.*division"),
        ({"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"power": "x"}}, "'power': 'x'. with .*str"),
        (
            {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 1.0}, "learning_rate": 1e-4},
            "learning rate would be .* times learning_rate",
        ),
        ({"lr_scheduler_kwargs": {"power": 2}}, "lr_scheduler_kwargs: not used with lr_scheduler_type='linear'"),
        ({"lr_scheduler_type": "reduce_lr_on_plateau"}, "lr_scheduler_type: .*'linear'"),
        ({"warmup_steps": 3, "warmup_ratio": 0.1}, "warmup_ratio: not used with warmup_steps"),
    ],
)
def test_schedules_that_cannot_be(settings, said):
    with pytest.raises(ConfigError, match=said):
        TrainingConfig(**settings)


def test_a_warm_up_never_takes_all_steps():
    assert [schedule(TrainingConfig(warmup_ratio=0.9), step, 2) for step in range(2)] == [1, 1]
    assert schedule(TrainingConfig(warmup_ratio=0.9), 0, 1) == 1


def test_float16_is_refused_by_name_and_as_weights():
    """AdamW's second moment of a gradient of 1e-4 is 1e-11 at first, which is 0 in float16."""
    with pytest.raises(ConfigError, match=r"^dtype: a model in float16 cannot be trained"):
        TrainingConfig(dtype="float16")
    weight = Parameter(torch.zeros(1, dtype=torch.float16))
    with pytest.raises(ConfigError, match=r"^dtype: a model in float16 cannot be trained"):
        make_optimizer([{"params": [weight], "lr": 0.2}], TrainingConfig())


def test_learning_rates_are_factors_of_each_groups_own_peak():
    a, b = Parameter(torch.zeros(1)), Parameter(torch.zeros(1))
    optimizer = make_optimizer([{"params": [a], "lr": 0.2}, {"params": [b], "lr": 0.4}], TrainingConfig())
    for factor in (0.5, 0.5, 0.25):  # of the peak, not of the last one
        set_learning_rate(optimizer, factor)
    assert [group["lr"] for group in optimizer.param_groups] == [0.05, 0.1]


def test_adamw_has_an_epsilon_of_1e_5():
    """The first step of Adam is lr * g / (|g| + eps): half the learning rate where the gradient equals epsilon."""
    weight = Parameter(torch.zeros(1))
    optimizer = make_optimizer([{"params": [weight], "lr": 0.1}], TrainingConfig())
    weight.grad = torch.tensor([1e-5])
    optimizer.step()
    assert weight.item() == pytest.approx(-0.05, rel=1e-4)


def test_weight_decay_is_decoupled():
    weight = Parameter(torch.ones(1))
    optimizer = make_optimizer([{"params": [weight], "lr": 0.1}], TrainingConfig(weight_decay=0.3))
    weight.grad = torch.zeros(1)
    optimizer.step()
    assert weight.item() == pytest.approx(0.97)


def test_gradients_are_clipped_together():
    a, b = Parameter(torch.zeros(1)), Parameter(torch.zeros(1))
    a.grad, b.grad = torch.tensor([3.0]), torch.tensor([-4.0])
    assert clip_gradients([a, b], None).item() == pytest.approx(5)
    assert (a.grad.item(), b.grad.item()) == (3, -4)
    assert clip_gradients(iter([a, b]), 10.0).item() == pytest.approx(5)
    assert (a.grad.item(), b.grad.item()) == (3, -4)
    assert clip_gradients([a, b], 1.0).item() == pytest.approx(5)
    assert (a.grad.item(), b.grad.item()) == pytest.approx((0.6, -0.8), rel=1e-5)


def test_the_norm_of_a_broken_gradient_is_seen():
    weight = Parameter(torch.zeros(1))
    weight.grad = torch.tensor([math.inf])
    assert clip_gradients([weight], 1.0).item() == math.inf


@pytest.mark.parametrize("batch_size", [1, 3, 5, 7, 12])  # 12: more than two passes in one batch
def test_every_pass_takes_every_row_once(batch_size):
    drawn = [row for step in range(15) for row in batch_indices(5, batch_size, step, seed=3)]
    assert len(drawn) == 15 * batch_size
    passes = [drawn[i : i + 5] for i in range(0, len(drawn) - 4, 5)]
    assert all(sorted(one) == [0, 1, 2, 3, 4] for one in passes)
    assert len(set(map(tuple, passes))) > 1  # each in an order of its own


def test_a_batch_is_a_function_of_seed_and_step():
    batches = {(seed, step): batch_indices(100, 10, step, seed) for seed in range(3) for step in range(10)}
    assert all(batch_indices(100, 10, step, seed) == batch for (seed, step), batch in batches.items())
    assert len(set(map(tuple, batches.values()))) == 30


def test_permutations_differ_by_every_seed():
    orders = [permutation(20, *seeds) for seeds in [(0,), (1,), (0, 0), (0, 1), (1, 0), (0, 0, 1), (0, 1, 0)]]
    assert all(sorted(order) == list(range(20)) for order in orders)
    assert len(set(map(tuple, orders))) == 7
    torch.manual_seed(5)  # the global stream plays no part
    assert permutation(20, 0, 1) == orders[3]
