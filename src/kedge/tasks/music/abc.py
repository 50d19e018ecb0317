"""The part of ABC notation (Walshaw 2011) that a tune of one voice is written in: bars of notes, with chord names."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

UNIT = Fraction(1, 8)
"""Of what is written here: a note without a length is a quaver."""

_TOKEN = re.compile(
    r"""(?P<name>"[^"]*")|(?P<tuplet>\(\d)|(?P<note>(?:\^\^?|__?|=)?[A-Ga-g][,']*|[zx])(?P<length>\d*(?:/\d+|/*))"""
    r"""|(?P<other>(?:[\s\-~.)]|\((?!\d))+|\{[^}]*\}|![^!]*!)""",
    re.VERBOSE,
)
_STEPS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
_FIFTHS = "FCGDAEB"
_MODES = {"": 0, "maj": 0, "m": -3, "min": -3, "dor": -2, "mix": -1}
_NAME = re.compile(r"([A-G])([#b]?)(m(?!aj))?")
_WITHIN = {"2": 3, "3": 2, "4": 3, "6": 2, "8": 3}
"""Notes of a tuplet, and of how many they have the time."""


@dataclass(frozen=True)
class Note:
    """A pitch as a MIDI number (middle C is 60), None for a rest; and how long it sounds, in whole notes."""

    pitch: int | None
    length: Fraction


@dataclass(frozen=True)
class Bar:
    """What stands between two bar lines."""

    notes: Sequence[Note]
    chord: str | None = None
    """The first chord name in it, such as ``Em``."""
    text: str = ""
    """As it is written."""

    @property
    def length(self) -> Fraction:
        """In whole notes."""
        return sum((note.length for note in self.notes), Fraction())

    @property
    def sounding(self) -> Fraction:
        """The length without rests."""
        return sum((note.length for note in self.notes if note.pitch is not None), Fraction())


class AbcError(ValueError):
    """What is written is no tune."""


def read_bars(music: str, key: str, unit: Fraction = UNIT) -> list[Bar]:
    """Bars between single lines ``|``; a line at either end is none of them.

    Args:
        music: without fields.
        key: such as ``D``, ``Em``, ``Ador``.
        unit: length of a note that has none written, in whole notes.

    Raises:
        AbcError: something in it is no music.
    """
    written = [text.strip() for text in music.strip().strip("|").split("|")]
    return [_bar(text, key, unit) for text in written]


@cache
def scale(key: str) -> dict[str, int]:
    """``{letter: semitones above C}`` of a key's seven notes.

    Raises:
        AbcError: no such key.
    """
    match = re.fullmatch(r"([A-G])([#b]?)\s*(\w*)", key.strip())
    mode = match[3].lower()[:3] if match else None
    if match is None or mode not in _MODES:
        raise AbcError(f"no key {key!r}")
    sharps = _FIFTHS.index(match[1]) - 1 + 7 * {"": 0, "#": 1, "b": -1}[match[2]] + _MODES[mode]
    raised = {_FIFTHS[i % 7]: 1 for i in range(sharps)} | {_FIFTHS[-1 - i]: -1 for i in range(-sharps)}
    return {letter: step + raised.get(letter, 0) for letter, step in _STEPS.items()}


@cache
def tonic(key: str) -> int:
    """The key's own note, in semitones above C, 0..11."""
    return scale(key)[key.strip()[0]] % 12


@cache
def chord_notes(name: str) -> frozenset[int]:
    """The three notes of ``Em``, ``A7`` or ``Bb``, in semitones above C, 0..11; none where it is no such name."""
    match = _NAME.match(name)
    if match is None:
        return frozenset()
    root = _STEPS[match[1]] + {"": 0, "#": 1, "b": -1}[match[2]]
    return frozenset((root + step) % 12 for step in (0, 3 if match[3] else 4, 7))


def written(bar: Bar, old: Fraction) -> str:
    """A bar as it is written where a note without a length is a :data:`UNIT`, without spaces.

    Args:
        bar: as it was read.
        old: what a note without a length is in it.
    """

    def again(match: re.Match[str]) -> str:
        if match["note"] is None:
            return "" if match["other"] and not match["other"].strip(" ~.") else match[0]
        return match["note"] + _length_text(_length(match["length"]) * old / UNIT)

    return _TOKEN.sub(again, bar.text)


def _bar(text: str, key: str, unit: Fraction) -> Bar:
    altered: dict[str, int] = {}
    in_key, notes, names, tuplet = scale(key), [], [], (0, Fraction(1))
    for match in _tokens(text):
        if match["name"]:
            names.append(match["name"].strip('"'))
        elif match["tuplet"]:
            count = match["tuplet"][1]
            if count not in _WITHIN:
                raise AbcError(f"no tuplet of {count}")
            tuplet = (int(count), Fraction(_WITHIN[count], int(count)))
        elif match["note"]:
            left, slower = tuplet
            length = _length(match["length"]) * unit * (slower if left else 1)
            tuplet = (max(0, left - 1), slower)
            notes.append(Note(_pitch(match["note"], in_key, altered), length))
    return Bar(notes, next((name for name in names if name), None), text)


def _tokens(text: str) -> Iterator[re.Match[str]]:
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None or match.end() == at:
            raise AbcError(f"{text[at:]!r} is no music")
        yield match
        at = match.end()


def _pitch(note: str, in_key: dict[str, int], altered: dict[str, int]) -> int | None:
    """``altered``: by the accidentals so far in the bar, ``{letter with octave: semitones}``; added to."""
    if note[0] in "zx":
        return None
    plain = note.lstrip("^_=")
    letter, sign = plain[0].upper(), note[: len(note) - len(plain)]
    if sign:
        altered[plain] = _STEPS[letter] + sign.count("^") - sign.count("_")
    octave = plain.count("'") - plain.count(",") + plain[0].islower()
    return 60 + 12 * octave + altered.get(plain, in_key[letter])


def _length(text: str) -> Fraction:
    """``3/2``, ``/2``, ``//``, ``2`` or nothing."""
    above, slash, below = text.partition("/")
    over, under = int(above or 1), int(below) if below.isdigit() else 2 ** (1 + len(below)) if slash else 1
    if not over or not under:
        raise AbcError(f"no length {text!r}")
    return Fraction(over, under)


def _length_text(length: Fraction) -> str:
    above, below = length.numerator, length.denominator
    return ("" if above == 1 else str(above)) + ("" if below == 1 else f"/{below}")
