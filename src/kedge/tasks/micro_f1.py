"""F1 of what many answers name, counted over all of them."""

from collections.abc import Collection, Iterable
from typing import NamedTuple


class Counts(NamedTuple):
    """Of one answer."""

    both: int
    """What it names and is right."""
    named: int
    right: int
    """What there is to name."""


def counts_of(named: Collection[object], right: Collection[object]) -> Counts:
    """Of two sets."""
    return Counts(len(set(named) & set(right)), len(set(named)), len(set(right)))


def micro_f1(counts: Iterable[Counts]) -> float:
    """Of them all together, 0..1, as CoNLL's shared tasks have it (Tjong Kim Sang and De Meulder 2003); 1 where nothing
    is named and nothing is there."""
    both, named, right = map(sum, zip(*counts, strict=True))
    return 2 * both / (named + right) if named + right else 1.0
