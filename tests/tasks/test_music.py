"""Tunes: ABC as it is published, what is heard of it, and what a continuation is worth."""

from base64 import b64decode
from fractions import Fraction
from io import BytesIO

import mido
import pytest
import verovio

from kedge.data.records import read_prompts
from kedge.errors import DataError
from kedge.evaluation.evaluate import judge_answers
from kedge.sampling.completion import Completion
from kedge.tasks.music.abc import AbcError, chord_notes, read_bars, scale, tonic
from kedge.tasks.music.judging import judged, plain
from kedge.tasks.music.playing import abc_text, save_midi, save_score
from kedge.tasks.music.task import Tunes

FILE = """X: 1
T:The First
M:2/4
L:1/8
K:G
|:"G"GABG|"D"A2d2|"G"GABG|"D"A2"D7"F2|\\
"G"GABG|"C"c2e2|"D"d2F2|"G"G3:|
% a remark
P:B
|:"G"GABG|"D"A2:|

X: 2
T:Two Metres
M:2/4
K:G
GABG|A2d2|
M:3/4
GABGAB|

X: 4
T:The Fourth
M:C|
L:1/4
K:Em
"Em"e2e2|e2e2|e2e2|e2e2|(3efg e2|e2e2|e2e2|[1e4:|[2e3||
"""
OPENING, MUSIC = '"G"GABG', '"D"A2d2|"G"GABG|"D"A2"D7"F2|"G"GABG|"C"c2e2|"D"d2F2|"G"G3z'


@pytest.fixture
def tunes(tmp_path):
    (tmp_path / "a.abc").write_text(FILE, encoding="latin-1")
    return Tunes(tmp_path)


def test_strains_of_eight_bars_in_time(tunes):
    rows = {row["title"]: row for split in ("train", "eval") for row in tunes.rows(split)}
    assert rows.keys() == {"The First", "The Fourth"}  # of the fourth the first ending
    row = rows["The First"]
    assert (row["metre"], row["key"], row["opening"], row["music"]) == ("2/4", "G", OPENING, MUSIC)
    assert tunes.prompt(row) == 'M:2/4\nK:G\n"G"GABG|'
    assert tunes.demonstration(row) == MUSIC


def test_lengths_are_written_in_quavers(tmp_path):
    (tmp_path / "a.abc").write_text("X:1\nT:A\nM:C|\nL:1/4\nK:Em\n" + "ef/2g/2 (3aga|" * 8)
    [row] = [row for split in ("train", "eval") for row in Tunes(tmp_path).rows(split)]
    assert row["opening"] == "e2fg(3a2g2a2"
    assert row["metre"] == "2/2"


@pytest.mark.parametrize(
    ("music", "key", "notes"),
    [
        ("C,Cc c'", "C", [(48, "1/8"), (60, "1/8"), (72, "1/8"), (84, "1/8")]),
        ("F2 ^F =F/2 z3/2", "D", [(66, "1/4"), (66, "1/8"), (65, "1/16"), (None, "3/16")]),
        ("^cc_BB", "C", [(73, "1/8"), (73, "1/8"), (70, "1/8"), (70, "1/8")]),  # an accidental lasts for the bar
        ("(3EFG E", "F", [(64, "1/12"), (65, "1/12"), (67, "1/12"), (64, "1/8")]),
        ('"Am"B4-B//', "Bb", [(70, "1/2"), (70, "1/32")]),
    ],
)
def test_notes(music, key, notes):
    [bar] = read_bars(music, key)
    assert [(note.pitch, str(note.length)) for note in bar.notes] == notes


def test_an_accidental_ends_with_its_bar():
    first, second = read_bars("|^CC|C|", "C")
    assert [note.pitch for note in [*first.notes, *second.notes]] == [61, 61, 60]


@pytest.mark.parametrize("music", ["A hello", "A2/0", "A0", "z0/2", "(7ABc", "[ce]", "A\n%remark", "歌", '"G', "H"])
def test_what_is_no_music(music):
    with pytest.raises(AbcError):
        read_bars(music, "C")


@pytest.mark.parametrize(
    ("key", "notes"),
    [("C", "CDEFGAB"), ("D", "DE^FGAB^C"), ("F", "FGA_BCDE"), ("Am", "ABCDEFG"), ("Gmin", "GA_BCD_EF"),
     ("Ddor", "DEFGABC"), ("Amix", "AB^CDE^FG"), ("Bb", "_BCD_EFGA"), ("F#m", "^FGAB^C^DE")],
)  # fmt: skip
def test_keys(key, notes):
    """``F#m`` has three sharps, F, C and G."""
    expected = {"F#m": {1, 2, 4, 6, 8, 9, 11}}.get(key) or {n.pitch % 12 for n in read_bars(notes, "C")[0].notes}
    assert {step % 12 for step in scale(key).values()} == expected
    assert tonic(key) in expected


def test_a_key_that_is_none():
    with pytest.raises(AbcError, match="no key 'H'"):
        scale("H")


def test_chords():
    assert chord_notes("G") == {7, 11, 2}
    assert chord_notes("Em7") == {4, 7, 11}
    assert chord_notes("F#m") == {6, 9, 1}
    assert chord_notes("Bb") == {10, 2, 5}
    assert chord_notes("hm") == frozenset()


def verdict(music, known=frozenset()):
    return judged(OPENING, music, "G", Fraction(2, 4), known)


def test_a_whole_tune():
    said = verdict(MUSIC)
    assert set(vars(said).values()) == {1}
    assert said.whole == said.score == 1


@pytest.mark.parametrize(
    ("music", "part", "value"),
    [
        (MUSIC.replace("A2d2", "A2d3", 1), "bars", 6 / 7),
        (MUSIC + "|G4", "bars", 7 / 8),  # one too many
        ("G4", "bars", 1 / 7),
        (MUSIC.replace("G3z", "^G3z"), "key", 16 / 17),
        (MUSIC.replace("G3z", "^G3z"), "ending", 0),
        (MUSIC.replace("G3z", "B3z"), "ending", 0),
        (MUSIC.replace('"C"c2', '"C"d2').replace('"D"d2', '"D"e2'), "harmony", 5 / 7),
        (MUSIC.replace("|", "|GGGG", 1), "bars", 6 / 7),
        ("|".join(["GGGG", "GGGA"] * 4), "motion", 7 / 31 / (2 / 3)),
        (MUSIC.replace('"', ""), "bars", 0),  # names without quotes: D A2 d2 is too long, and so on
        ("|".join(["GABG"] * 7), "form", 0),  # one bar for ever
        ("|".join(["GABG"] * 7), "harmony", 0),  # no chords
        ("G4|A4|B4|c4|d4|e4|f4", "form", 0),  # nothing comes again
    ],
)
def test_what_is_wrong_with_a_tune(music, part, value):
    said = verdict(music)
    assert getattr(said, part) == pytest.approx(value)
    assert said.whole == 0
    assert said.score < 1


@pytest.mark.parametrize(
    ("music", "bars"),
    [
        ("z4|z4|z4|z2z2|zz3|z4|G4", 1 / 7),
        ("zzzG|" * 6 + '"G"G4', 1 / 7),
        (MUSIC.replace("A2d2", "A2z2", 1), 1),  # half of a bar may be silent
        (MUSIC.replace("A2d2", "Az3", 1), 6 / 7),
    ],
)
def test_silence_is_no_music(music, bars):
    assert verdict(music).bars == pytest.approx(bars)


def test_a_rest_that_is_split_is_the_same_bar():
    bars = read_bars("z4|z2z2|zzz2|Gz3|Gzz2|G2z2|GGz2", "G")
    assert [plain(bar) for bar in bars] == [
        "None:1/2", "None:1/2", "None:1/2", "67:1/8 None:3/8", "67:1/8 None:3/8", "67:1/4 None:1/4",
        "67:1/8 67:1/8 None:1/4",
    ]  # fmt: skip
    silent = judged('"D"A8', 'z8|z8|z8|z4z4|z2z6|z8|"D"A4D4|', "D", Fraction(4, 4), frozenset())
    assert (silent.bars, silent.form) == (1 / 7, 0)
    assert silent.score == pytest.approx(5 / 42)


@pytest.mark.parametrize("hostile", ["", "|||", "z4|" * 7, "I cannot sing", "A" * 5000, "[GBd]4", "一二三"])
def test_what_is_no_tune_has_nothing(hostile):
    assert verdict(hostile).score == 0


def test_a_copy_is_one(tunes):
    """Of four bars in a row, however they are written."""
    row = {"metre": "2/4", "key": "G", "opening": OPENING, "music": MUSIC}
    tunes.__dict__["_strains"] = {"train": [row], "eval": []}
    assert tunes.read(row, MUSIC.replace("A2d2", "A2 d2")).original == 0
    other = '"D"A2B2|"G"GABG|"D"A2c2|"G"GABd|"C"c2e2|"D"d2F2|"G"G4'
    assert tunes.read(row, other).original == 1


def test_the_reward_is_the_score(tunes):
    row = {"title": "x", "metre": "2/4", "key": "G", "opening": OPENING, "music": MUSIC}
    prompts = read_prompts([{"prompt": tunes.prompt(row), **row}] * 2)
    answers = [Completion([], [], [], text, "eos") for text in ('"G"GABd|' + "|".join(MUSIC.split("|")[1:]), "la la")]
    tunes.__dict__["_strains"] = {"train": [], "eval": []}
    assert judge_answers(prompts, answers, tunes.judges()).scores["score"] == [1.0, 0.0]
    said = [tunes.read(row, answer.text) for answer in answers]
    assert tunes.measures([row, row], said) == pytest.approx(
        {
            "whole": 0.5,
            "bars": 0.5,
            "key": 0.5,
            "harmony": 0.5,
            "ending": 0.5,
            "form": 0.5,
            "motion": 0.5,
            "original": 0.5,
        }
    )


def test_midi_is_read_back(tmp_path):
    save_midi(read_bars(f"{OPENING}|{MUSIC}", "G"), tmp_path / "a.mid", bpm=60)
    file = mido.MidiFile(tmp_path / "a.mid")
    assert file.length == pytest.approx(8 * 2)  # eight bars of two crotchets, a second each
    melody, chords = ([m.note for m in track if m.type == "note_on"] for track in file.tracks)
    assert melody[:6] == [67, 69, 71, 67, 69, 74]
    assert chords[:3] == [48 + 2, 48 + 7, 48 + 11]
    assert len(chords) == 8 * 3


def test_durations_are_those_of_another_library(tmp_path):
    """verovio reads the same ABC."""
    music = f"{OPENING}|{MUSIC}"
    toolkit = verovio.toolkit()
    toolkit.loadData(abc_text("x", "2/4", "G", music))
    theirs = mido.MidiFile(file=BytesIO(b64decode(toolkit.renderToMIDI())))
    save_midi(read_bars(music, "G"), tmp_path / "a.mid")

    def notes(file, track):
        at, found = 0, []
        for message in file.tracks[track]:
            at += message.time
            if message.type == "note_on" and message.velocity:
                found.append((round(at / file.ticks_per_beat, 3), message.note))
        return found

    ours = mido.MidiFile(tmp_path / "a.mid")
    which = max(range(len(theirs.tracks)), key=lambda i: len(theirs.tracks[i]))
    assert notes(ours, 0) == notes(theirs, which)


def test_the_best_tune_is_kept(tunes, tmp_path):
    row = {"title": "x", "metre": "2/4", "key": "G", "opening": OPENING, "music": MUSIC}
    tunes.__dict__["_strains"] = {"train": [], "eval": [row, row]}
    tunes.keep(tmp_path, [row, row], ["G4|A4", MUSIC])
    assert (tmp_path / "best.abc").read_text().endswith(f"K:G\n{OPENING}|{MUSIC}|]\n")
    assert mido.MidiFile(tmp_path / "best.mid").length == pytest.approx(8)
    assert (tmp_path / "best.png").read_bytes()[:4] == b"\x89PNG"


def test_where_no_answer_is_a_tune_none_is_kept(tunes, tmp_path):
    row = {"title": "x", "metre": "2/4", "key": "G", "opening": OPENING, "music": MUSIC}
    tunes.__dict__["_strains"] = {"train": [], "eval": [row]}
    tunes.keep(tmp_path, [row], ["la la la"])
    assert not [*tmp_path.glob("best.*")]


def test_a_score_as_svg(tmp_path):
    save_score(abc_text("x", "2/4", "G", MUSIC), tmp_path / "a.svg")
    assert "<svg" in (tmp_path / "a.svg").read_text()


def test_a_folder_without_tunes(tmp_path):
    with pytest.raises(DataError, match=r"has no \.abc files; the folder of the Nottingham"):
        list(Tunes(tmp_path).rows("train"))


@pytest.mark.parametrize("head", ["M:none\nL:1/8", "M:4/0\nL:1/8", "M:2/4\nL:1/0", "M:2/4\nL:crotchet"])
def test_free_time_is_left_out(tmp_path, head):
    (tmp_path / "a.abc").write_text(FILE + f"\n\nX:5\nT:Free\n{head}\nK:G\n" + "GABc|" * 8, encoding="latin-1")
    titles = {row["title"] for split in ("train", "eval") for row in Tunes(tmp_path).rows(split)}
    assert titles == {"The First", "The Fourth"}


def test_files_without_a_strain(tmp_path):
    (tmp_path / "a.abc").write_text("T:No number\nM:2/4\nK:G\n" + "GABc|" * 8)
    with pytest.raises(DataError, match=r"no strain of 8 bars .* X, M and K in 1 \.abc files, such as a\.abc"):
        list(Tunes(tmp_path).rows("train"))


@pytest.mark.shared
def test_the_real_tunes(shared):
    tunes = Tunes(shared / "data/nottingham-abc")
    train, held = (list(tunes.rows(split)) for split in ("train", "eval"))
    assert (len(train), len(held)) == (1029, 240)
    assert not {row["title"] for row in train} & {row["title"] for row in held}
    assert not {tunes.prompt(row) for row in train} & {tunes.prompt(row) for row in held}
    said = [tunes.read(row, row["music"]) for row in held]
    found = tunes.measures(held, said)
    assert found["bars"] == 1
    assert sum(verdict.score for verdict in said) / 240 == pytest.approx(0.894, abs=0.001)
    assert found["key"] > 0.95
    assert found["original"] > 0.95
