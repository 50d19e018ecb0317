"""Names in a text, numbered in brackets: small models can point at a name where they cannot spell it."""

from collections.abc import Iterable, Sequence

Place = tuple[int, int]
"""The first and the last word, counted from 1."""


def bracketed(words: Sequence[str], places: Iterable[Place]) -> str:
    """The text of these words, in which each name begins with its number: ``[1 New York] lies north of [2 Dover]``.

    Args:
        words: of the text.
        places: of the names, which do not overlap.
    """
    marked = dict(enumerate(words, 1))
    for number, (first, last) in enumerate(places, 1):
        marked[first] = f"[{number} {words[first - 1]}"
        marked[last] += "]"
    return " ".join(marked.values())
