"""BLEU of many answers together, counted once an answer: resamples of them need no text again."""

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

from kedge.config.optional import needed


class Counts(NamedTuple):
    """What BLEU is made of."""

    right: list[int]
    """N-grams that stand in a reference, by order."""
    total: list[int]
    length: int
    closest: int
    """Length of the reference that is closest in length."""


def counts_of(answer: str, references: Sequence[str]) -> Counts:
    """Of one answer, as sacrebleu counts (tokens of mteval-v13a)."""
    score = _bleu().sentence_score(answer, list(references))
    return Counts(score.counts, score.totals, score.sys_len, score.ref_len)


def corpus_bleu(counts: Sequence[Counts]) -> float:
    """sacrebleu's BLEU of all of them together, 0..1 (Papineni et al. 2002; Post 2018)."""
    right, total = (
        [sum(column) for column in zip(*lists, strict=True)]
        for lists in ([each.right for each in counts], [each.total for each in counts])
    )
    length, closest = sum(each.length for each in counts), sum(each.closest for each in counts)
    return float(_bleu().compute_bleu(right, total, length, closest, smooth_method="exp").score) / 100


@cache
def _bleu() -> Any:
    return needed("sacrebleu", "corpus BLEU").metrics.BLEU(effective_order=True)
