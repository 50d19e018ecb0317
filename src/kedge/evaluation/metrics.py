"""Numbers about sets of completions."""

import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class WinRate:
    """How often one policy's answer scores above another's to the same prompt; a tie is half a win."""

    rate: float
    low: float
    """Lower end of the 95% interval (Wilson 1927)."""
    high: float
    n: int

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def win_rate(ours: Sequence[float], theirs: Sequence[float]) -> WinRate:
    """Win rate of ``ours`` over ``theirs``, scores of answers to the same prompts in the same order.

    Raises:
        ValueError: nothing to compare, or different counts.
    """
    wins = sum((a > b) + (a == b) / 2 for a, b in zip(ours, theirs, strict=True))
    if not ours:
        raise ValueError("win_rate needs at least one pair of answers")
    low, high = wilson_interval(wins, len(ours))
    return WinRate(wins / len(ours), low, high, len(ours))


def wilson_interval(successes: float, n: int, *, z: float = 1.959964) -> tuple[float, float]:
    """95% score interval of a proportion (Wilson 1927). With ties as halves it errs on the wide side."""
    p = successes / n
    center = p + z * z / (2 * n)
    spread = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (center - spread) / scale), min(1.0, (center + spread) / scale)


# Thai and Lao, Burmese, Khmer; kana; Chinese characters, those beyond the basic plane too.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_PUNCTUATION = "\u3000-\u303f\uff00-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}{_PUNCTUATION}]+")


def words_of(text: str) -> list[str]:
    """What counts as a word: what stands between spaces; in scripts without spaces (Chinese, Japanese, Thai, Lao,
    Khmer, Burmese) each character, with the marks that belong to it, and without their punctuation."""
    words: list[str] = []
    for word in _WORD.findall(unicodedata.normalize("NFC", text)):
        if words and unicodedata.category(word[0]).startswith("M"):
            words[-1] += word
        else:
            words.append(word)
    return words


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Distinct word n-grams over all of them, a share in 0..1 (Li et al. 2016); 0 where there are none."""
    grams = [tuple(words[i : i + n]) for words in map(words_of, texts) for i in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def mean(values: Sequence[float]) -> float:
    """Mean of the numbers that are not NaN; NaN where there are none."""
    there = [value for value in values if not math.isnan(value)]
    return math.fsum(there) / len(there) if there else math.nan
