"""Log-probabilities of taken tokens, and entropy, from logits."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

LOWEST = -1e4
"""Below the logarithm of any number above 0."""


def _scaled(logits: Tensor, temperature: float) -> Tensor:
    """Logits over the temperature, in float32 at least: in bfloat16 a log-softmax is off in the third digit."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return logits if temperature == 1.0 else logits / temperature


def token_logprobs(logits: Tensor, tokens: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Log-probability of each token under softmax(logits / temperature).

    Args:
        logits: ``[..., L, V]``; ``logits[..., t, :]`` is the distribution ``tokens[..., t]`` was drawn from (the
            caller has shifted them against each other already).
        tokens: ``[..., L]`` integer ids.
        temperature: the sampler's. Sampler, reference and update must use the same one.

    Returns:
        ``[..., L]`` float32 (float64 for float64 logits), in nats.
    """
    scaled = _scaled(logits, temperature)
    return -cross_entropy(scaled.flatten(0, -2), tokens.flatten(), reduction="none").reshape(tokens.shape)


def entropy(logits: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Entropy of softmax(logits / temperature) in nats: ``[..., V]`` -> ``[...]``, float32 at least.

    A token whose logit is minus infinity has probability 0 and adds nothing.
    """
    return _entropy_of(_scaled(logits, temperature).log_softmax(-1))


def logprobs_and_entropy(
    logits: Tensor, tokens: Tensor, *, temperature: float = 1.0, entropy_gradient: bool = True
) -> tuple[Tensor, Tensor]:
    """:func:`token_logprobs` and :func:`entropy` of the same logits, for the price of one softmax.

    Args:
        logits: ``[..., L, V]``.
        tokens: ``[..., L]`` ids.
        temperature: the sampler's.
        entropy_gradient: False where the entropy is only looked at.

    Returns:
        ``(logprobs, entropy)``, ``[..., L]`` each, in nats.
    """
    log_p = _scaled(logits, temperature).log_softmax(-1)
    logprobs = log_p.gather(-1, tokens[..., None]).squeeze(-1)
    return logprobs, _entropy_of(log_p if entropy_gradient else log_p.detach())


def _entropy_of(log_p: Tensor) -> Tensor:
    p = log_p.exp()
    # 0 * -inf is NaN, in the backward pass too.
    return -(p * log_p.clamp(min=LOWEST)).sum(-1)
