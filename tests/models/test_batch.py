"""Batches by token budget, right padding, and masks from lengths."""

import itertools
import random

import pytest

from kedge.models.batch import attention, by_token_budget, padded


def test_padded_and_attention():
    tokens, lengths = padded([[5, 6, 7], [0], [0, 9]], 0)
    assert tokens.tolist() == [[5, 6, 7], [0, 0, 0], [0, 9, 0]]
    assert lengths.tolist() == [3, 1, 2]
    # The pad id inside a sequence is a token like any other.
    assert attention(tokens, lengths).tolist() == [[1, 1, 1], [1, 0, 0], [1, 1, 0]]


@pytest.mark.parametrize("seed", range(30))
def test_by_token_budget_brute_force(seed):
    rng = random.Random(seed)
    lengths = [rng.randint(1, 40) for _ in range(rng.randint(1, 30))]
    budget = rng.randint(1, 120)
    batches = by_token_budget(lengths, budget)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        width = max(lengths[i] for i in batch)
        assert len(batch) == 1 or width * len(batch) <= budget
    # Similar lengths share a batch: none reaches into another's range.
    ranges = sorted((min(lengths[i] for i in b), max(lengths[i] for i in b)) for b in batches)
    assert all(low[1] <= high[0] for low, high in itertools.pairwise(ranges))


def test_by_token_budget_literal():
    assert by_token_budget([3, 10, 4, 10, 1], 20) == [[1, 3], [2, 0, 4]]
    assert by_token_budget([30, 2], 8) == [[0], [1]]  # one sequence above the budget goes alone
    assert by_token_budget([], 8) == []
