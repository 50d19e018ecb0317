"""Log-probabilities, entropies and values of given tokens: the forward pass that reference, critic and update share.

Everything comes out a token wide and lined up with the token it speaks of: column t holds log p(token t | before),
and V of the state in which token t was chosen. The model computes both one column earlier; the shift is here and
nowhere else.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from kedge.core import entropy, token_logprobs
from kedge.models.batch import attention
from kedge.models.language_model import accepts
from kedge.models.scalar import ScalarHead, ScalarModel


@dataclass(frozen=True)
class TokenScores:
    """Each ``[B, L]`` float32, 0.0 where the mask is False."""

    logprobs: Tensor
    entropy: Tensor | None
    values: Tensor | None


def score_tokens(
    model: PreTrainedModel,
    tokens: Tensor,
    lengths: Tensor,
    mask: Tensor,
    *,
    temperature: float,
    value_head: ScalarHead | None = None,
    with_entropy: bool = False,
    entropy_gradient: bool = True,
) -> TokenScores:
    """Score the masked tokens under ``model``; with ``value_head`` also their values, off the same pass.

    Args:
        model: causal language model.
        tokens: ``[B, L]`` right-padded ids. lengths: ``[B]`` how many of a row are real.
        mask: ``[B, L]`` bool, True on the tokens to score; never on column 0.
        temperature: the sampler's.
        entropy_gradient: False where the entropy is only looked at, which saves its backward pass.
    """
    attention_mask = attention(tokens, lengths)
    # Logits from the column before the first scored token on; the prompt's are never needed.
    start = int(mask.any(0).nonzero()[0]) - 1 if bool(mask.any()) else tokens.shape[1] - 2
    extra = {"logits_to_keep": tokens.shape[1] - start} if accepts(model, "logits_to_keep") else {}
    output = model(
        input_ids=tokens,
        attention_mask=attention_mask,
        use_cache=False,
        output_hidden_states=value_head is not None,
        **extra,
    )
    scored = mask[:, start + 1 :]
    logits = output.logits[:, -(tokens.shape[1] - start) : -1][scored]  # [N, V]
    values = None
    if value_head is not None:
        values = _spread(value_head(output.hidden_states[-1][:, start:-1][scored]), mask)
    entropy_of = logits if entropy_gradient else logits.detach()
    return TokenScores(
        logprobs=_spread(token_logprobs(logits, tokens[mask], temperature=temperature), mask),
        entropy=_spread(entropy(entropy_of, temperature=temperature), mask) if with_entropy else None,
        values=values,
    )


def value_tokens(critic: ScalarModel, tokens: Tensor, lengths: Tensor, mask: Tensor) -> Tensor:
    """Values ``[B, L]`` of a critic with its own trunk; arguments as :func:`score_tokens`."""
    after_each = critic(tokens, attention(tokens, lengths))
    return _spread(after_each[:, :-1][mask[:, 1:]], mask)


def _spread(scored: Tensor, mask: Tensor) -> Tensor:
    """``[N]`` numbers of the masked tokens back to ``[B, L]``."""
    return torch.zeros(mask.shape, dtype=scored.dtype, device=scored.device).masked_scatter(mask, scored)
