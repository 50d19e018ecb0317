"""Words of abuse in an answer, by lists, however they are disguised."""

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import ClassVar, Literal

from kedge.errors import ConfigError
from kedge.rewards.library.base import Said, Sample, TextSpec, lines_of
from kedge.rewards.library.folding import SIGNS, disguises_of, folded, key_of, masked
from kedge.rewards.library.words import has_unspaced, words_of
from kedge.rewards.library.words_of_abuse import CHINESE, ENGLISH

ENDINGS = ("s", "es", "ed", "er", "ers", "in", "ing", "y")
"""Of words of four letters or more; shorter ones have the first two."""
_SIGNS = re.escape(SIGNS)
_LETTER = rf"[^\W_]|[{_SIGNS}]"
SPELLED = re.compile(rf"(?<![\w{_SIGNS}])(?:{_LETTER})(?:[\s.,_\-*~·]+(?:{_LETTER})(?![\w{_SIGNS}])){{2,}}")
"""Letters one by one: ``i d i o t``, ``i.d.i.o.t``."""
_JOINTS = re.compile(r"(?<=[^\W_])[._\-~·]+(?=[^\W_])")
"""Within a word; an apostrophe is none (``he'll``)."""
_PIECE = re.compile(rf"(?:{_LETTER}|\*)+")
"""Words, with the signs that may be letters of them."""


class WordList:
    """Terms, of one word or several, found in texts as whole words; those in scripts without spaces anywhere.

    Args:
        terms: in any case.
        disguised: also as people write them past a filter.
        endings: also with English endings (``s``, ``ed``, ``ing`` ...).
    """

    def __init__(self, terms: Iterable[str], *, disguised: bool = True, endings: bool = True) -> None:
        self.disguised = disguised
        self.characters: dict[str, list[str]] = {}
        """Terms in scripts without spaces, and emoji, by their first character."""
        self.words: dict[str, list[tuple[str, str]]] = {}
        """``{key: [(spelling, term)]}``: what can be told by :func:`key_of`, and what it must be after all."""
        self.begins: dict[str, set[int]] = {}
        """``{key: lengths}`` of the first word of each term of several words."""
        self.masks: dict[tuple[str, str, int], list[tuple[str, str]]] = {}
        """``{(first letter, last letter, length): [(spelling, term)]}``, of single words."""
        for term in dict.fromkeys(term.strip() for term in terms):
            self._add(term, ENDINGS if endings else ())

    def _add(self, term: str, endings: Sequence[str]) -> None:
        plain = " ".join(folded(term).split())
        if has_unspaced(plain) or not re.search(r"\w", plain):
            plain = _squeezed(plain)
            if plain:
                self.characters.setdefault(plain[0], []).append(plain)
            return
        letters = re.sub(r"[^\w\s]", " ", plain)
        spellings = {plain, " ".join(letters.split()), letters.replace(" ", "") if plain != letters else plain}
        if len(plain.split()) == 1:
            spellings |= {plain + ending for ending in (endings if len(plain) > 3 else endings[:2])}
            spellings |= {plain[:-1] + ending for ending in endings if plain.endswith("e") and ending[0] in "ei"}
        for spelling in spellings:
            if not re.search(r"[^\W\d]", spelling):  # digits alone are numbers
                continue
            self.words.setdefault(key_of(spelling), []).append((spelling, plain))
            first, *others = spelling.split()
            if others:
                self.begins.setdefault(key_of(first), set()).add(1 + len(others))
            elif len(spelling) > 2:
                self.masks.setdefault((spelling[0], spelling[-1], len(spelling)), []).append((spelling, plain))

    def found_in(self, text: str) -> list[str]:
        """The terms in it, each once, as :func:`folded` writes them; those in scripts without spaces come last."""
        text = folded(text)
        found = [*self._among(_PIECE.findall(text))]
        if self.disguised:
            closed = _JOINTS.sub("", text)
            found += self._among(_PIECE.findall(closed)) if closed != text else ()
            found += self._spelled_out(text)
        return list(dict.fromkeys([*found, *self._in_characters(text)]))

    def _among(self, pieces: list[str]) -> Iterator[str]:
        for i, piece in enumerate(pieces):
            yield from self._told(piece)
            for size in sorted(self.begins.get(key_of(piece), ())):
                yield from self._told(" ".join(pieces[i : i + size]))

    def _told(self, piece: str) -> Iterator[str]:
        """The terms that a piece of text is, one way or another."""
        if "*" in piece[1:-1] and self.disguised:
            bare = piece.strip(f"*{SIGNS}")
            spellings = self.masks.get((bare[:1], bare[-1:], len(bare)), ())
            yield from (term for spelling, term in spellings if _mask(spelling).fullmatch(bare))
        for each in {piece, piece.strip("*!|"), piece.strip(f"*{SIGNS}")}:
            for spelling, term in self.words.get(key_of(each), ()):
                if each == spelling or (self.disguised and _is_disguised(each, spelling)):
                    yield term

    def _spelled_out(self, text: str) -> Iterator[str]:
        for match in SPELLED.finditer(text):
            letters = re.sub(rf"[^\w{_SIGNS}]|_", "", match[0])[:100]
            for start in range(len(letters)):
                for end in range(start + 3, min(len(letters), start + 20) + 1):
                    yield from self._told(letters[start:end])

    def _in_characters(self, text: str) -> Iterator[str]:
        where = _squeezed(text) if self.disguised else text
        for i, letter in enumerate(where):
            yield from (term for term in self.characters.get(letter, ()) if where.startswith(term, i))


def _squeezed(text: str) -> str:
    """Without what people put between characters: spaces, punctuation, signs. Latin words stay apart."""
    return re.sub(r"(?<![a-z0-9])[^\w]+|[^\w]+(?![a-z0-9])|_", "", text) if re.search(r"\w", text) else text


@cache
def _pattern(spelling: str) -> re.Pattern[str]:
    return re.compile(disguises_of(spelling))


@cache
def _mask(spelling: str) -> re.Pattern[str]:
    return masked(spelling)


def _is_disguised(piece: str, spelling: str) -> bool:
    """Digits and signs alone (455) are no word."""
    return re.search(r"[^\W\d_]", piece) is not None and _pattern(spelling).fullmatch(piece) is not None


@cache
def default_words() -> WordList:
    """kedge's own short list."""
    return WordList([*ENGLISH, *CHINESE])


def abuse_in(text: str, words: WordList | None = None) -> list[str]:
    """The words of abuse in a text, of kedge's own list or another."""
    return (words or default_words()).found_in(text)


class Toxicity(TextSpec):
    """Minus 1 for an answer with a word of abuse in it, by word lists and in disguise too.

    Found are digits and signs for letters, letters repeated, spaced out or starred, full width, look-alikes, invisible
    characters; in Chinese what stands between the characters, and traditional ones. What was found is remarked on. A
    list knows words and not what is meant: docs/reward-library.md has its precision and recall.
    """

    KIND: ClassVar[str] = "toxicity"
    RANGE: ClassVar[str] = "-1..0"

    lists: tuple[Path, ...] = ()
    """Files of words, one a line, ``#`` before a comment; without any a short list of kedge's own, English and
    Chinese."""
    allowed: tuple[str, ...] = ()
    """Words of the lists that are right here after all."""
    measure: Literal["any", "share"] = "any"
    """``any``: -1 for one word or many; ``share``: minus the distinct words found, for each of the answer's words."""
    disguised: bool = True
    """Look through disguises; off: the words as they are listed."""
    endings: bool = True
    """English endings too: plural, ``ed``, ``ing`` ..."""

    def files(self) -> Sequence[Path]:
        return self.lists

    def prepare(self) -> None:
        self._words()

    def one(self, sample: Sample) -> Said:
        found = self._words().found_in(sample.text)
        if not found:
            return Said(0.0)
        share = min(1.0, len(found) / max(1, len(words_of(sample.text))))
        return Said(-1.0 if self.measure == "any" else -share, f"found: {', '.join(found)}")

    def _words(self) -> WordList:
        lines = [line for path in self.lists for line in lines_of(path, "toxicity")]
        return _made(tuple(lines) if self.lists else (*ENGLISH, *CHINESE), self.allowed, self.disguised, self.endings)


@cache
def _made(lines: tuple[str, ...], allowed: tuple[str, ...], disguised: bool, endings: bool) -> WordList:
    never = {folded(word) for word in allowed}
    terms = [line for line in lines if line.strip() and not line.startswith("#") and folded(line.strip()) not in never]
    if not terms:
        raise ConfigError("toxicity: no words in the lists; give lists= files with one word a line")
    return WordList(terms, disguised=disguised, endings=endings)
