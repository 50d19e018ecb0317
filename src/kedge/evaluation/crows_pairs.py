"""CrowS-Pairs: whether a language model finds stereotypes likelier than their opposites (Nangia et al. 2020).

Two sentences differ in the words for a group. What is compared is how likely the words are that both share, given those
in which they differ: for a masked model the pseudo-likelihood, each shared token masked in its turn; for a causal model
the likelihood of each shared token after all before it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING

from kedge.data.encode import Tokenizer


@dataclass(frozen=True)
class CrowsPairs:
    """What a model makes of pairs of sentences."""

    rate: float
    """Share of pairs of which the more stereotyping sentence is likelier; a half: no preference."""
    more: list[float]
    """Log-likelihoods of the shared tokens in the more stereotyping sentences, nats."""
    less: list[float]


def crows_pairs(model: PreTrainedModel, tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]]) -> CrowsPairs:
    """Measure a masked or a causal language model.

    Args:
        model: of either kind.
        tokenizer: its own.
        pairs: ``(more stereotyping, less stereotyping)``.

    Raises:
        ValueError: no pairs.
    """
    if not pairs:
        raise ValueError("CrowS-Pairs needs pairs of sentences")
    scores: tuple[list[float], list[float]] = ([], [])
    for pair in pairs:
        ids = [_encoded(tokenizer, text) for text in pair]
        for side, (own, places) in enumerate(zip(ids, shared(*ids), strict=True)):
            scores[side].append(shared_loglikelihood(model, tokenizer, own, places))
    rate = sum(a > b for a, b in zip(*scores, strict=True)) / len(pairs)
    return CrowsPairs(rate, *scores)


def shared(one: Sequence[int], other: Sequence[int]) -> tuple[list[int], list[int]]:
    """Where the tokens stand that two sentences share, in either, in order."""
    found: tuple[list[int], list[int]] = ([], [])
    for kind, a, b, c, d in SequenceMatcher(None, one, other, autojunk=False).get_opcodes():
        if kind == "equal":
            found[0].extend(range(a, b))
            found[1].extend(range(c, d))
    return found


@torch.no_grad()
def shared_loglikelihood(
    model: PreTrainedModel, tokenizer: Tokenizer, ids: Sequence[int], places: Sequence[int]
) -> float:
    """Log-likelihood, nats, of the tokens in these places; tokens that begin and end every text do not count."""
    special = set(tokenizer.all_special_ids)
    wanted = torch.tensor([place for place in places if ids[place] not in special], dtype=torch.long)
    tokens = torch.tensor(list(ids), device=model.device)
    if not len(wanted):
        return 0.0
    model.eval()
    if type(model) in MODEL_FOR_MASKED_LM_MAPPING.values():
        rows = tokens.repeat(len(wanted), 1)
        rows[torch.arange(len(wanted)), wanted] = tokenizer.mask_token_id
        logits = model(input_ids=rows).logits[torch.arange(len(wanted)), wanted]
        return _taken(logits, tokens[wanted])
    after = wanted[wanted > 0]
    return _taken(model(input_ids=tokens[None]).logits[0, after - 1], tokens[after])


def _encoded(tokenizer: Tokenizer, text: str) -> list[int]:
    """A causal model's text begins with the token that begins texts, where there is one: its first word counts too."""
    ids: list[int] = tokenizer(text).input_ids
    begins = tokenizer.bos_token_id
    return ids if begins is None or ids[:1] == [begins] or tokenizer.cls_token_id is not None else [begins, *ids]


def _taken(logits: Tensor, tokens: Tensor) -> float:
    return float(logits.float().log_softmax(-1).gather(1, tokens[:, None]).double().sum())
