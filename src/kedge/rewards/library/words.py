"""Texts as words and sentences, in scripts with spaces and without; what several rewards read of an answer.

Imports no torch.
"""

import json
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
"""Scripts without spaces, within a regular expression's brackets: Thai and Lao, Burmese, Khmer; kana; Chinese
characters, those beyond the basic plane too."""
_PUNCTUATION = "\u3000-\u303f\uff00-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65"
_WORD = re.compile(rf"[{UNSPACED}]|[^\s{UNSPACED}{_PUNCTUATION}]+")


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


def has_unspaced(text: str) -> bool:
    """Whether some of it is in a script without spaces."""
    return re.search(f"[{UNSPACED}]", text) is not None


def sentences_of(text: str) -> list[str]:
    """Sentences and lines. A full stop within a number or a name (``3.5``, ``e.g``) ends none."""
    parts = re.split(r"(?<=[.!?])\s+|[。！？；\n]+", text)
    return [part.strip() for part in parts if part.strip()]


def normalised(text: str, *, articles: bool = False) -> str:
    """As answers are compared: in one case and width, without punctuation and English articles (SQuAD, Rajpurkar et
    al. 2016). Signs and points of numbers stay (``-3.5``), their thousands' commas go.

    Args:
        articles: stay; they do anyway where the text is nothing else, such as the answer A of a test.
    """
    text = unicodedata.normalize("NFKC", text).casefold()
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)
    text = re.sub(r"[^\w\s.%+-]|\.(?!\d)|(?<!\d)\.(?=\D|$)|[+-](?!\.?\d)|(?<=\w)[+-]", "", text)
    text = " ".join(((not articles and re.sub(r"\b(a|an|the)\b", " ", text).strip()) or text).split())
    return re.sub(rf"(?<=[{UNSPACED}]) | (?=[{UNSPACED}])", "", text)


def mentions(text: str, what: str) -> list[tuple[int, int]]:
    """Where ``what`` stands in ``text`` as whole words; in scripts without spaces anywhere. Both are in one case."""
    before = r"(?<!\w)" if re.match(r"\w", what) and not has_unspaced(what[0]) else ""
    after = r"(?!\w)" if re.search(r"\w$", what) and not has_unspaced(what[-1]) else ""
    if has_unspaced(text):  # what stands beside a character is a word of its own
        before, after = before and rf"(?<![^\W{UNSPACED}])", after and rf"(?![^\W{UNSPACED}])"
    return [match.span() for match in re.finditer(before + re.escape(what) + after, text)]


def after_last(text: str, marker: str | None) -> str:
    """What follows the last ``marker``; nothing where there is none. All of it without a marker."""
    if marker is None:
        return text
    _, found, rest = text.rpartition(marker)
    return rest if found else ""


def items_of(text: str) -> list[Any]:
    """The entries of a list as models write it: JSON, lines (numbered or with bullets), or separated by commas."""
    fenced = re.search(r"```(?:json)?\s*(.*?)```", text, re.DOTALL)
    inner = (fenced[1] if fenced else text).strip()
    if inner[:1] in ("[", "{"):
        try:
            return entries_of(json.loads(inner))
        except ValueError:
            pass
    lines = [line for line in inner.splitlines() if line.strip()]
    parts = lines if len(lines) > 1 else re.split(r"[,;，；、|]", inner)
    items = [re.sub(r"^\s*(?:\(?\d+[.):、]\s*|[-*•]\s+)", "", part).strip(" \t.。\"'“”*") for part in parts]
    return [item for item in items if item]


def entries_of(value: Any) -> list[Any]:
    """The entries of what was JSON; ``{"LOC": ["Paris"]}`` is ``[["LOC", "Paris"]]``."""
    if isinstance(value, dict):
        return [[key, each] for key, inner in value.items() for each in (inner if isinstance(inner, list) else [inner])]
    return value if isinstance(value, list) else [value]


def same(item: Any) -> str:
    """An entry as it is compared; one of several parts (a type and a name) by all of them."""
    if isinstance(item, dict):
        item = list(item.values())
    return " | ".join(map(same, item)) if isinstance(item, list | tuple) else normalised(str(item), articles=True)
