"""What requests do to their logits before a token is drawn: biases, penalties on what is written, a schema."""

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from kedge.sampling.local.request import Request


def penalised(logits: Tensor, requests: Sequence[Request]) -> Tensor:
    """Logits ``[n, V]``, less each request's penalties (as OpenAI's API defines them), with its biases, and minus
    infinity for what its schema does not allow.

    Args:
        logits: of the next token of each request.
        requests: those without any keep their row as it is.
    """
    rows = [row for row, request in enumerate(requests) if request.sampling.is_biased]
    if not rows:
        return logits
    logits = logits.float()
    changed = logits.index_select(0, torch.tensor(rows, device=logits.device))
    for into, row in zip(changed, rows, strict=True):
        added = _added(requests[row])
        into.index_add_(
            0, torch.tensor([*added], dtype=torch.long, device=into.device), into.new_tensor([*added.values()])
        )
        if (constraint := requests[row].constraint) is not None:
            into.masked_fill_(~constraint.allowed().to(into.device), -torch.inf)
    return logits.index_copy(0, torch.tensor(rows, device=logits.device), changed)


def _added(request: Request) -> dict[int, float]:
    """By token."""
    sampling = request.sampling
    added = dict(sampling.logit_bias)
    for token, count in Counter(request.ids).items():
        added[token] = added.get(token, 0.0) - sampling.presence_penalty - sampling.frequency_penalty * count
    return added
