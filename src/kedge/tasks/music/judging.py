"""What can be said of a tune without taste: it is in time, in its key, in harmony, moves, comes home, has a form."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby, pairwise

from kedge.tasks.music.abc import AbcError, Bar, chord_notes, read_bars, scale, tonic

BARS = 8
"""Of a strain."""
MOVING = 2 / 3
"""Of the time; in the tunes of the database it is nearly always more."""
SOUNDING = Fraction(1, 2)
"""Of a bar; in the tunes of the database it is nearly always more. Silence is in any key, and beside no chord."""
COPIED = 4
"""Bars in a row that make a copy of another tune."""

_FORMS = range(4, BARS)
"""Different bars among the eight of a strain that has a form: fewer repeat themselves too often, eight not at all."""


@dataclass(frozen=True)
class Verdict:
    """Shares, 0..1."""

    bars: float
    """Of the bars that were to be written, those that are as long as the metre says, at least :data:`SOUNDING` of it no
    rest; bars too many count as wrong."""
    key: float
    """Of the notes, those of the key."""
    harmony: float
    """Of the bars with a chord name, those that begin with a note of the chord; without any, nothing."""
    ending: float
    """1 where the last note is that of the key."""
    form: float
    """1 where some bars come again, and not too many."""
    motion: float
    """1 where the pitch changes from note to note at least :data:`MOVING` of the time, less in proportion."""
    original: float
    """1 where no :data:`COPIED` bars in a row stand in another tune."""

    @property
    def score(self) -> float:
        """What is asked for, at once: time first, without which there is no tune."""
        return self.bars * (self.key + self.harmony + self.ending + self.form + self.motion + self.original) / 6

    @property
    def whole(self) -> float:
        """1 where nothing is wrong with it: a note outside of the key in eight, and a bar in seven that begins beside
        its chord, are none."""
        exact = self.bars == self.ending == self.form == self.motion == self.original == 1
        return float(exact and self.key >= 7 / 8 and self.harmony >= 6 / 7)


NOTHING = Verdict(0, 0, 0, 0, 0, 0, 0)


def judged(opening: str, music: str, key: str, metre: Fraction, known: frozenset[tuple[str, ...]]) -> Verdict:
    """What a continuation is worth.

    Args:
        opening: the bars that were given.
        music: those that were written.
        key: of both.
        metre: length of a bar, in whole notes.
        known: :func:`passages` of other tunes.
    """
    if not music.strip(" |\n"):
        return NOTHING
    try:
        given, own = read_bars(opening, key), read_bars(music, key)
    except AbcError:
        return NOTHING
    pitches = [note.pitch for bar in own for note in bar.notes if note.pitch is not None]
    if not pitches:
        return NOTHING
    wanted = BARS - len(given)
    in_time = [bar.length == metre and bar.sounding >= SOUNDING * metre for bar in own[:wanted]]
    right = sum(in_time) / max(wanted, len(own))
    in_key = {step % 12 for step in scale(key).values()}
    texts = [plain(bar) for bar in [*given, *own]]
    return Verdict(
        bars=right,
        key=sum(pitch % 12 in in_key for pitch in pitches) / len(pitches),
        harmony=_in_harmony(own),
        ending=float(pitches[-1] % 12 == tonic(key)),
        form=float(len(set(texts)) in _FORMS),
        motion=_motion(pitches),
        original=float(known.isdisjoint(passages(texts))),
    )


def _motion(pitches: Sequence[int]) -> float:
    moves = [a != b for a, b in pairwise(pitches)]
    return min(1.0, sum(moves) / len(moves) / MOVING) if moves else 0.0


def passages(bars: Sequence[str]) -> set[tuple[str, ...]]:
    """Every :data:`COPIED` bars in a row, of the texts of bars."""
    return {tuple(bars[i : i + COPIED]) for i in range(len(bars) - COPIED + 1)}


def plain(bar: Bar) -> str:
    """What is played in a bar: melody and rhythm, however it is written; rests in a row are one."""
    sounds = [
        (pitch, [sum((note.length for note in notes), Fraction())] if pitch is None else [n.length for n in notes])
        for pitch, notes in ((pitch, [*group]) for pitch, group in groupby(bar.notes, key=lambda note: note.pitch))
    ]
    return " ".join(f"{pitch}:{length}" for pitch, lengths in sounds for length in lengths)


def _in_harmony(bars: Sequence[Bar]) -> float:
    named = [(bar, chord_notes(bar.chord)) for bar in bars if bar.chord and bar.notes]
    begins = [bar.notes[0].pitch is not None and bar.notes[0].pitch % 12 in chord for bar, chord in named]
    return sum(begins) / len(begins) if begins else 0.0
