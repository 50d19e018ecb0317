"""Completions as tensors, and micro-batches that give what one batch gives."""

import pytest
import torch

from kedge.models.forward import forward_tokens
from kedge.parallel import ALONE
from kedge.sampling.completion import Completion
from kedge.sampling.rollouts import collate, in_micro_batches

CPU = torch.device("cpu")


def completion(prompt, ids, first=-1.0):
    return Completion(prompt, ids, [first - i / 4 for i in range(len(ids))], "", "eos")


def test_collate_literal():
    """Pad equals EOS (9), which stands in a prompt too: masks come from lengths."""
    rollouts = collate([completion([5, 9], [6, 9]), completion([5], [9], -3.0), completion([7, 8, 9], [1, 2])], 9, CPU)
    assert rollouts.tokens.tolist() == [[5, 9, 6, 9, 9], [5, 9, 9, 9, 9], [7, 8, 9, 1, 2]]
    assert rollouts.lengths.tolist() == [4, 2, 5]
    assert rollouts.response_mask.int().tolist() == [[0, 0, 1, 1, 0], [0, 1, 0, 0, 0], [0, 0, 0, 1, 1]]
    assert rollouts.logprobs.tolist() == [[0, 0, -1, -1.25, 0], [0, -3, 0, 0, 0], [0, 0, 0, -1, -1.25]]
    assert rollouts.logprobs.dtype == torch.float32


@pytest.mark.parametrize("budget", [1, 7, 16, 10_000])
def test_micro_batches_give_what_one_batch_gives(tiny_lm, budget):
    lm = tiny_lm("llama")
    generator = torch.Generator().manual_seed(0)
    draw = lambda n: torch.randint(0, 300, (n,), generator=generator).tolist()  # noqa: E731
    rollouts = collate([completion(draw(p), draw(r)) for p, r in ((3, 4), (1, 9), (6, 1), (2, 2), (5, 7))], 1, CPU)
    seen = []

    def score(tokens, mask, _):
        seen.append(tuple(tokens.shape))
        return forward_tokens(lm, tokens, mask, temperature=1.0).logprobs

    whole = forward_tokens(lm, rollouts.tokens, rollouts.response_mask, temperature=1.0).logprobs
    parts = in_micro_batches(rollouts, budget, score, ALONE)
    assert parts.shape == (5, 12)
    assert parts.flatten().tolist() == pytest.approx(whole.flatten().tolist(), abs=1e-5)
    assert parts[~rollouts.response_mask].eq(0).all()
    assert not parts.requires_grad
    assert sum(rows for rows, _ in seen) == 5
    assert all(rows == 1 or rows * width <= budget for rows, width in seen)
