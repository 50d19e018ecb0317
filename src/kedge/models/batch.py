"""Sequences of ids as a right-padded tensor."""

from collections.abc import Sequence

import torch
from torch import Tensor


def padded(sequences: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """``(tokens [B, L], lengths [B])``: row i is ``sequences[i]`` and then ``pad_id`` to the width of the longest."""
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    tokens = torch.full((len(sequences), int(lengths.max())), pad_id)
    for row, sequence in zip(tokens, sequences, strict=True):
        row[: len(sequence)] = torch.as_tensor(sequence)
    return tokens.to(device), lengths.to(device)


def attention(tokens: Tensor, lengths: Tensor) -> Tensor:
    """``[B, L]`` long: 1 on real tokens, 0 on padding, from lengths and never from ids."""
    return (torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]).long()


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
