"""Folk tunes, to be gone on with."""

import re
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from kedge.config.optional import needed
from kedge.errors import DataError
from kedge.evaluation.metrics import mean
from kedge.storage.writing import write_text
from kedge.tasks.files import FolderTask
from kedge.tasks.music.abc import UNIT, AbcError, Bar, read_bars, written
from kedge.tasks.music.judging import BARS, Verdict, judged, passages, plain
from kedge.tasks.music.playing import abc_text, save_midi, save_score
from kedge.tasks.task import Row, Split, held_out

GIVEN = 1
"""Bars of a strain that the policy is given."""

_STRAIN_ENDS = re.compile(r"\|\||:\|:?|::|\|:|\|\]|\|?\s*\[2")
_FRACTION = re.compile(r"[1-9]\d{0,3}/[1-9]\d{0,3}")
_METRES: Mapping[str, str] = {"C": "4/4", "C|": "2/2"}


class Tunes(FolderTask):
    """The first bar of a folk tune is gone on with, in ABC notation with chords, to a strain of eight bars.

    The reward wants bars that add up, notes of the key and of the chords, motion, bars that come again, an end on the
    key's own note, and no copy of a tune that was trained on. Strains are those of the Nottingham Music Database that
    are of one metre, key and voice, and in time, without their upbeats. A fifth of the tunes is held out, by a hash of
    their titles, but for those that begin as one of the others: there is no published split.
    """

    name = "tunes"
    temperature = 1.0
    needs = "the folder of the Nottingham Music Database with its .abc files (GPL-3.0)"
    new: ClassVar[Mapping[str, Any]] = {"vocabulary": 768, "positions": 320}
    sft: ClassVar[Mapping[str, Any]] = {"epochs": 6.0, "batch_size": 16, "learning_rate": 3e-3, "warmup_steps": 50}
    ppo: ClassVar[Mapping[str, Any]] = {
        "steps": 120, "batch_size": 64, "mini_batch_size": 32, "num_ppo_epochs": 2, "response_length": 120,
        "learning_rate": 3e-4, "kl_coef": 0.02, "critic": "separate", "critic_learning_rate": 1e-3, "eval_every": 40,
    }  # fmt: skip

    def __init__(self, folder: str | Path) -> None:
        super().__init__(folder)
        for library in ("mido", "verovio", "resvg_py"):  # :meth:`keep` needs them, when all is done
            needed(library, f"the task {self.name}", "tasks")

    def rows(self, split: Split) -> Iterable[Row]:
        return self._strains[split]

    def prompt(self, row: Row) -> str:
        return f"M:{row['metre']}\nK:{row['key']}\n{row['opening']}|"

    def group(self, row: Row) -> Hashable:
        """A tune's strains resemble each other."""
        return row["title"]

    def demonstration(self, row: Row) -> str:
        return str(row["music"])

    @property
    def reward(self) -> Any:  # type: ignore[override]
        return self.tune_score

    def tune_score(
        self, prompts: Sequence[str], completions: Sequence[str], opening: Sequence[str], key: Sequence[str],
        metre: Sequence[str],
    ) -> list[float]:  # fmt: skip
        """The reward."""
        asked = zip(completions, opening, key, metre, strict=True)
        return [self._verdict(text, *row).score for text, *row in asked]

    def read(self, row: Row, answer: str) -> Verdict:
        return self._verdict(answer, row["opening"], row["key"], row["metre"])

    def measures(self, rows: Sequence[Row], said: Sequence[Verdict]) -> dict[str, float]:
        parts = {each.name: mean([getattr(verdict, each.name) for verdict in said]) for each in fields(Verdict)}
        return {"whole": mean([verdict.whole for verdict in said]), **parts}

    def keep(self, folder: Path, rows: Sequence[Row], answers: Sequence[str]) -> None:
        """The best tune: ``best.abc``, and to be heard and seen ``best.mid`` and ``best.png``; nothing where none has a
        bar that is in time."""
        said = [self.read(*each) for each in zip(rows, answers, strict=True)]
        best = max(range(len(rows)), key=lambda i: (said[i].whole, said[i].score, said[i].harmony))
        if not said[best].bars:
            return
        row = rows[best]
        music = f"{row['opening']}|{answers[best].strip().strip('|')}"
        abc = abc_text(f"after the first bar of {row['title']}", row["metre"], row["key"], music)
        write_text(folder / "best.abc", abc)
        save_midi(read_bars(music, row["key"]), folder / "best.mid")
        save_score(abc, folder / "best.png")

    def _verdict(self, music: str, opening: str, key: str, metre: str) -> Verdict:
        return judged(opening, music, key, Fraction(metre), self._known)

    @cached_property
    def _known(self) -> frozenset[tuple[str, ...]]:
        whole = [(f"{row['opening']}|{row['music']}", row["key"]) for row in self._strains["train"]]
        return frozenset().union(*(passages([plain(bar) for bar in read_bars(*each)]) for each in whole))

    @cached_property
    def _strains(self) -> dict[str, list[Row]]:
        if not (files := sorted(self.folder.glob("*.abc"))):
            raise DataError(f"{self.folder}: has no .abc files; {self.needs}")
        found: dict[str, list[Row]] = {"train": [], "eval": []}
        seen = set()
        for file in files:
            for tune in re.split(r"(?m)^(?=X:)", file.read_text(encoding="latin-1"))[1:]:
                title = next(iter(re.findall(r"(?m)^T:\s*(.*?)\s*$", tune)), tune)
                held = held_out(title)
                for row in _strains_of(tune):
                    if (row["key"], row["music"]) not in seen:
                        seen.add((row["key"], row["music"]))
                        found["eval" if held else "train"].append({"title": title, **row})
        if not seen:
            what = f"no strain of {BARS} bars in time with the fields X, M and K in {len(files)} .abc files"
            raise DataError(f"{self.folder}: {what}, such as {files[0].name}; {self.needs}")
        asked = {self.prompt(row) for row in found["train"]}  # tunes may begin with the same bar
        return found | {"eval": [row for row in found["eval"] if self.prompt(row) not in asked]}


def _strains_of(tune: str) -> Iterator[Row]:
    """Those of a tune that are eight bars in time, all of it with one key and metre."""
    fields_of: list[tuple[str, str]] = re.findall(r"(?m)^([MLK]):\s*(\S+)", tune)
    head = dict(fields_of)
    if len(head) < len(fields_of) or not {"M", "K"} <= head.keys():
        return
    metre = _METRES.get(head["M"], head["M"])
    if not all(_FRACTION.fullmatch(text) for text in (metre, head.get("L", "1/8"))):
        return  # M:none is free time
    unit = Fraction(head["L"]) if "L" in head else (UNIT if Fraction(metre) >= Fraction(3, 4) else UNIT / 2)
    lines = [line.partition("%")[0].rstrip("\\") for line in tune.splitlines() if not re.match(r"[A-Za-z]:", line)]
    for strain in _STRAIN_ENDS.split("".join(lines)):
        bars = _in_time(re.sub(r"\|?\s*\[1", "|", strain), head["K"], unit, Fraction(metre))
        if bars:
            texts = [written(bar, unit) for bar in bars]
            yield {
                "metre": metre, "key": head["K"], "opening": "|".join(texts[:GIVEN]), "music": "|".join(texts[GIVEN:]),
            }  # fmt: skip


def _in_time(strain: str, key: str, unit: Fraction, metre: Fraction) -> list[Bar]:
    """Eight bars, or nothing. The time of an upbeat is a rest at the end, where the last bar leaves it."""
    try:
        bars = read_bars(strain, key, unit)
        if len(bars) == BARS + 1 and bars[0].length < metre:
            bars = bars[1:]
        if len(bars) == BARS and (left := metre - bars[-1].length) > 0:
            bars[-1:] = read_bars(f"{bars[-1].text}z{left / unit}", key, unit)
    except AbcError:
        return []
    return bars if len(bars) == BARS and all(bar.length == metre for bar in bars) else []
