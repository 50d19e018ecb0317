"""Log-probabilities, entropies and values of given tokens: the forward pass that reference and update share.

Everything comes out a token wide and lined up with the token it speaks of: column t holds log p(token t | before),
and V of the state in which token t was chosen. The model computes both one column earlier; the shift is here and
nowhere else.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from kedge.core import logprobs_and_entropy, token_logprobs
from kedge.models.device import upload
from kedge.models.head import vocabulary_rows
from kedge.models.language_model import LanguageModel
from kedge.models.scalar import ScalarHead
from kedge.models.sharding import within


@dataclass(frozen=True)
class TokenOutputs:
    """Each ``[B, L]`` float32, 0.0 where the mask is False."""

    logprobs: Tensor
    entropy: Tensor | None
    values: Tensor | None


def forward_tokens(
    lm: LanguageModel,
    tokens: Tensor,
    mask: Tensor,
    *,
    temperature: float,
    value_head: ScalarHead | None = None,
    states: Tensor | None = None,
    with_entropy: bool = False,
    entropy_gradient: bool = True,
) -> TokenOutputs:
    """What is said of the masked tokens by ``lm``; with ``value_head`` also their values, off the same pass.

    Args:
        lm: whose log-probabilities they are.
        tokens: ``[B, L]`` right-padded ids. The model is causal, so no token sees the padding behind it.
        mask: ``[B, L]`` bool, True on the tokens to speak of; never on column 0. On the host: a device would be asked
            how many there are.
        temperature: the sampler's.
        value_head: a critic's, which reads the same hidden states.
        states: ``[B, L, H]`` of the frozen bottom (:meth:`LanguageModel.bottom_states`), where they are known.
        with_entropy: whether the distributions' entropies are asked for.
        entropy_gradient: False where the entropy of ``with_entropy`` is only looked at: no backward pass for it.
    """
    places = places_of(mask, tokens.device)
    taken = tokens.flatten()[places]
    read = partial(_outputs, temperature=temperature, with_entropy=with_entropy, entropy_gradient=entropy_gradient)
    head = lm.head

    def compute() -> tuple[Tensor, Tensor | None, Tensor | None]:
        if head is None:
            output = lm.model(input_ids=tokens, use_cache=False, output_hidden_states=value_head is not None)
            hidden = before(output.hidden_states[-1], places) if value_head is not None else None
            found = read(before(output.logits, places), taken)
        else:
            hidden = before(lm.hidden(tokens, states), places)  # [N, H]
            rows = max(1, lm.logits_at_a_time // vocabulary_rows(lm.model))
            found = _in_chunks(lambda hidden, taken: read(head(hidden), taken), hidden, taken, rows)
        return *found, None if value_head is None or hidden is None else value_head(hidden)

    logprobs, *others = within(lm.model, compute)
    entropy, values = (None if each is None else spread(each, places, tokens) for each in others)
    return TokenOutputs(spread(logprobs, places, tokens), entropy, values)


def places_of(mask: Tensor, device: torch.device) -> Tensor:
    """``[N]`` long on ``device``: where the True of ``mask [B, L]`` stand in it, row after row."""
    return upload(mask.flatten().nonzero().flatten(), device)


def before(states: Tensor, places: Tensor) -> Tensor:
    """``[N, H]`` of the states ``[B, L, H]``: those of the column before each of the places."""
    return states.flatten(0, 1).index_select(0, places - 1)


Outputs = tuple[Tensor, Tensor | None]


def _outputs(
    logits: Tensor, taken: Tensor, temperature: float, *, with_entropy: bool, entropy_gradient: bool
) -> Outputs:
    """Log-probabilities ``[N]`` of the tokens taken, and entropies, of logits ``[N, V]``."""
    if not with_entropy:
        return token_logprobs(logits, taken, temperature=temperature), None
    return logprobs_and_entropy(logits, taken, temperature=temperature, entropy_gradient=entropy_gradient)


def _in_chunks(read: Callable[[Tensor, Tensor], Outputs], hidden: Tensor, taken: Tensor, rows: int) -> Outputs:
    """``read`` of ``rows`` tokens at a time; the logits of a chunk are made again in its backward pass."""
    if len(taken) <= rows:
        return read(hidden, taken)
    parts: list[Outputs] = [
        checkpoint(read, *chunk, use_reentrant=False, preserve_rng_state=False)
        for chunk in zip(hidden.split(rows), taken.split(rows), strict=True)
    ]
    entropies = [entropy for _, entropy in parts if entropy is not None]
    return torch.cat([logprobs for logprobs, _ in parts]), torch.cat(entropies) if entropies else None


def spread(numbers: Tensor, places: Tensor, like: Tensor) -> Tensor:
    """``[N]`` numbers of the tokens in ``places`` back to the shape ``[B, L]`` of ``like``, 0.0 elsewhere."""
    everywhere = torch.zeros(like.numel(), dtype=numbers.dtype, device=numbers.device)
    return everywhere.index_copy(0, places, numbers).view_as(like)
