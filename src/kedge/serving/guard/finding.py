"""Where patterns and words stand in a text, within a limit of time.

The patterns are those of the package ``regex``, which is Python's ``re`` but can be stopped, and lets other threads
work meanwhile: whoever writes a prompt may write one that takes a pattern for ever.
"""

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

import regex

from kedge.rewards.library.words import UNSPACED

Span = tuple[int, int]

Pattern = Any
"""A compiled one of ``regex``, which has no types."""


def compiled(pattern: str) -> Pattern:
    """A pattern that is looked for in any case.

    Raises:
        ValueError: it is none.
    """
    try:
        return regex.compile(pattern, regex.IGNORECASE)
    except regex.error as error:
        raise ValueError(f"pattern: {pattern!r} is no regular expression: {error}") from None


def whole_words(words: Sequence[str]) -> Pattern:
    """A pattern of words, or of several in a row: as whole words, and in scripts without spaces anywhere; in any case,
    with accents as one character or two, and whatever space between words of a row."""
    forms = dict.fromkeys(form for word in words for form in _forms(word))
    # The longest first: of two that begin at one place an alternation takes the one that comes first.
    several = "|".join(_alone(form) for form in sorted(forms, key=len, reverse=True))
    return regex.compile(several, regex.IGNORECASE | regex.FULLCASE)


def longest_written(word: str) -> int:
    """Characters that a word has, written as long as it can be (SS for ß) with one space between words of a row."""
    return max(max(len(form), len(form.casefold())) for form in _forms(word))


def spans(pattern: Pattern, text: str, start: int, seconds: float) -> list[Span]:
    """Where it is found from ``start`` on, which it may look back from.

    Raises:
        TimeoutError: it takes longer.
    """
    return [match.span() for match in pattern.finditer(text, start, timeout=seconds)]


def _forms(word: str) -> list[str]:
    word = " ".join(word.split())
    return [unicodedata.normalize("NFC", word), unicodedata.normalize("NFD", word)]


def _alone(word: str) -> str:
    first, last = word[0], word[-1]
    # What stands beside a character of a script without spaces is a word of its own.
    before = rf"(?<![^\W{UNSPACED}])" if _joins(first) else ""
    after = rf"(?![^\W{UNSPACED}])" if _joins(last) else r"(?!\p{M})"
    return before + r"\s+".join(re.escape(part) for part in word.split()) + after


def _joins(character: str) -> bool:
    """Whether it is of a script whose words stand between spaces."""
    return re.match(rf"[^\W{UNSPACED}]", character) is not None or unicodedata.category(character).startswith("M")
