"""Sequences of ids as a right-padded tensor."""

from bisect import bisect_left
from collections.abc import Sequence

import torch
from torch import Tensor

from kedge.parallel import Processes


def padded(sequences: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """``(tokens [B, L], lengths [B])`` on the host: row i is ``sequences[i]`` and then ``pad_id`` to the width of the
    longest."""
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    tokens = torch.full((len(sequences), int(lengths.max())), pad_id)
    for row, sequence in zip(tokens, sequences, strict=True):
        row[: len(sequence)] = torch.as_tensor(sequence)
    return tokens, lengths


def attention(tokens: Tensor, lengths: Tensor) -> Tensor:
    """``[B, L]`` long: 1 on real tokens, 0 on padding, from lengths and never from ids."""
    return (torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]).long()


def dealt(lengths: Sequence[int], budget: int, processes: Processes) -> list[list[int]]:
    """This process's share of the sequences, as micro-batches: as many of them as every other process has.

    Models whose weights are spread over the processes compute a pass together, and one process with a pass more than
    the others would wait for them. So each makes as many as the one that needs most, and as even ones as it can: then
    nobody waits for another's larger one. Where one has fewer even so, it cuts its largest in two; where it has nothing
    left to cut, the rest are empty, and it computes a pass whose result it drops.

    Args:
        lengths: of all sequences, in tokens; all processes know them.
        budget: tokens of a micro-batch, padding included.
        processes: this one and the others.

    Returns:
        Indices into ``lengths``.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    shares = [Processes(rank, processes.size).deal(order) for rank in range(processes.size)]
    most = max(len(by_token_budget([lengths[i] for i in share], budget)) for share in shares)
    share = shares[processes.rank]
    mine = [[share[i] for i in part] for part in _even([lengths[i] for i in share], budget, most)]
    while len(mine) < most:
        largest = max(mine, key=len, default=[])
        if len(largest) < 2:
            return mine + [[]] * (most - len(mine))
        at = mine.index(largest)
        mine[at : at + 1] = [largest[::2], largest[1::2]]  # each still begins with its longest
    return mine


def _even(lengths: Sequence[int], budget: int, most: int) -> list[list[int]]:
    """By the smallest budget that gives at most so many batches, as ``budget`` does."""
    enough = bisect_left(range(budget), True, key=lambda some: len(by_token_budget(lengths, some)) <= most)
    return by_token_budget(lengths, enough)


def by_token_budget(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices in batches of similar length, each at most ``budget`` tokens when padded (or a single sequence)."""
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        # Sorted longest first: the batch's first sequence sets its width.
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= budget:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches
