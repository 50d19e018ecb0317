"""A tune to be heard, as MIDI, and to be seen, as a score."""

import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from kedge.config.optional import needed
from kedge.storage.writing import write_text
from kedge.tasks.music.abc import UNIT, Bar, chord_notes

TICKS = 480
"""Of a crotchet."""
MELODY, CHORDS = 90, 50
"""How loud, of 127."""
Sound = tuple[tuple[int, ...], Fraction]
"""Pitches that begin and end together, none of them for a rest; and how long, in whole notes."""
_BASS = 48
"""The octave of the chords: C below middle C."""


def abc_text(title: str, metre: str, key: str, music: str) -> str:
    """A whole ABC file."""
    return f"X:1\nT:{title}\nM:{metre}\nL:{UNIT}\nK:{key}\n{music}|]\n"


def save_midi(bars: Sequence[Bar], path: Path, *, bpm: float = 120) -> None:
    """Melody on one track, on another the chord of each bar.

    Args:
        bars: as :func:`~kedge.tasks.music.abc.read_bars` reads them.
        path: a new ``.mid`` file.
        bpm: crotchets a minute.

    Raises:
        ConfigError: mido is not installed.
    """
    mido = needed("mido", "MIDI files", "tasks")
    file = mido.MidiFile(ticks_per_beat=TICKS)
    melody: list[Sound] = [
        ((note.pitch,) if note.pitch is not None else (), note.length) for bar in bars for note in bar.notes
    ]
    chords: list[Sound] = [
        (tuple(_BASS + pitch for pitch in sorted(chord_notes(bar.chord or ""))), bar.length) for bar in bars
    ]
    for channel, (sounds, volume) in enumerate([(melody, MELODY), (chords, CHORDS)]):
        track = _track(mido, sounds, channel, volume)
        if channel == 0:
            track.insert(0, mido.MetaMessage("set_tempo", tempo=mido.bpm2tempo(bpm)))
        file.tracks.append(track)
    file.save(path)


def save_score(abc: str, path: Path) -> None:
    """A tune engraved, as a ``.svg`` or ``.png`` file.

    Args:
        abc: a whole ABC file.
        path: a new file.

    Raises:
        ConfigError: verovio is not installed, or resvg-py for a PNG.
    """
    verovio = needed("verovio", "scores", "tasks")
    verovio.enableLog(verovio.LOG_OFF)
    toolkit = verovio.toolkit()
    toolkit.setOptions({"pageWidth": 2000, "adjustPageHeight": True, "scale": 60, "footer": "none", "svgViewBox": True})
    toolkit.loadData(abc)
    svg = toolkit.renderToSVG(1)
    if path.suffix == ".svg":
        write_text(path, svg)
    else:
        serif = "DejaVu Serif" if sys.platform == "linux" else None  # which has no Times New Roman
        resvg = needed("resvg_py", "PNG files of scores", "tasks")
        drawn = resvg.svg_to_bytes(svg_string=svg, background="white", serif_family=serif)
        path.write_bytes(bytes(drawn))


def _track(mido: Any, sounds: Sequence[Sound], channel: int, volume: int) -> Any:
    """Sounds, one after the other."""
    track, waited = mido.MidiTrack(), 0
    for pitches, length in sounds:
        for pitch in pitches:
            track.append(mido.Message("note_on", note=pitch, velocity=volume, time=waited, channel=channel))
            waited = 0
        waited += round(length * 4 * TICKS)
        for pitch in pitches:
            track.append(mido.Message("note_off", note=pitch, time=waited, channel=channel))
            waited = 0
    return track
