"""Sentences from which the triples of a knowledge graph are to be read."""

import tarfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import PurePath
from typing import Any, ClassVar
from xml.etree import ElementTree

from kedge.errors import DataError
from kedge.rewards.library.labels import f1
from kedge.rewards.library.words import mentions, normalised
from kedge.tasks.files import FolderTask
from kedge.tasks.task import Row, Split

ARCHIVE = "webnlg_challenge_2017.tar.gz"
LARGEST = 2
"""Triples of an entry; larger ones are left out, so that texts stay short."""

Triple = tuple[str, str, str]


def triples_in(answer: str) -> set[Triple]:
    """The triples that an answer gives, ``subject | relation | object`` a line. Case and punctuation do not count; a
    line of another form is a triple that is in no graph."""
    lines = [
        [normalised(part, articles=True) for part in line.split("|")] for line in answer.splitlines() if line.strip()
    ]
    return {(parts[0], parts[1], parts[2]) if len(parts) == 3 else ("", "", " | ".join(parts)) for parts in lines}


def triple_f1(prompts: Sequence[Any], completions: Sequence[str], triples: Sequence[str], **_: Any) -> list[float]:
    """F1 of an answer's triples against those of the graph."""
    return [f1(triples_in(said), triples_in(right)) for said, right in zip(completions, triples, strict=True)]


def part_f1(prompts: Sequence[Any], completions: Sequence[str], triples: Sequence[str], **_: Any) -> list[float]:
    """The same for subjects, relations and objects by themselves: what is nearly right is worth something."""
    return [f1(_parts(said), _parts(right)) for said, right in zip(completions, triples, strict=True)]


def _parts(triples: str) -> set[tuple[int, str]]:
    return {(place, part) for triple in triples_in(triples) for place, part in enumerate(triple)}


def exact(prompts: Sequence[Any], completions: Sequence[str], triples: Sequence[str], **_: Any) -> list[float]:
    """Whether they are those of the graph, all of them and no others."""
    return [float(triples_in(said) == triples_in(right)) for said, right in zip(completions, triples, strict=True)]


class TextToTriples(FolderTask):
    """Triples of a knowledge graph from a text: subject, relation and object (WebNLG 2017, DBpedia).

    Entries of one or two triples, a row for each of their texts. Published splits: *train* is trained on, and *test*
    held out where its category is one of those trained on (the challenge's seen categories), but for texts in both.

    PPO is paid for whole triples, and for their parts. The measure is micro-averaged F1 of whole triples. The baseline
    knows all triples that are trained on, and gives those whose subject and object stand in the text.
    """

    name = "knowledge-graph"
    primary_metric = "triple_f1"
    needs = f"the folder of WebNLG 2017 with {ARCHIVE} (CC-BY-NC-SA-4.0)"
    reward = (triple_f1, part_f1)
    metrics = exact
    new: ClassVar[Mapping[str, Any]] = {"vocabulary": 4000, "positions": 160}
    sft: ClassVar[Mapping[str, Any]] = {"epochs": 4.0, "batch_size": 16, "learning_rate": 3e-3, "warmup_steps": 50}
    ppo: ClassVar[Mapping[str, Any]] = {
        "steps": 50, "batch_size": 256, "mini_batch_size": 128, "num_ppo_epochs": 1, "response_length": 40,
        "learning_rate": 1e-4, "kl_coef": 0.01, "critic": "separate", "critic_learning_rate": 1e-3, "eval_every": 25,
    }  # fmt: skip

    def rows(self, split: Split) -> Iterable[Row]:
        return self._rows["train" if split == "train" else "test"]

    def prompt(self, row: Row) -> str:
        return f"{row['text']}\n=>"

    def demonstration(self, row: Row) -> str:
        return f" {row['triples']}"

    def read(self, row: Row, answer: str) -> tuple[int, int, int]:
        """How many triples are right, how many the answer gives, and how many there are."""
        said, right = triples_in(answer), triples_in(row["triples"])
        return len(said & right), len(said), len(right)

    def measures(self, rows: Sequence[Row], said: Sequence[tuple[int, int, int]]) -> dict[str, float]:
        both, given, right = map(sum, zip(*said, strict=True))
        return {"triple_f1": 2 * both / (given + right)}

    def baseline(self, row: Row) -> str:
        text = normalised(row["text"], articles=True)
        names = [name for name in self._by_subject if name in text and mentions(text, name)]
        known = [
            (subject, relation, object)
            for subject in names
            for relation, object in self._by_subject[subject]
            if mentions(text, object)
        ]
        return "\n".join(" | ".join(triple) for triple in known)

    @cached_property
    def _by_subject(self) -> dict[str, list[tuple[str, str]]]:
        """The triples that are trained on."""
        found: dict[str, dict[tuple[str, str], None]] = defaultdict(dict)
        for row in self.rows("train"):
            for subject, relation, object in sorted(triples_in(row["triples"])):
                found[subject][relation, object] = None
        return {subject: list(pairs) for subject, pairs in found.items()}

    @cached_property
    def _rows(self) -> dict[str, list[Row]]:
        """By split. The seen categories are those of *train*."""
        found: dict[str, list[Row]] = {"train": [], "test": []}
        for split, entry in self._entries():
            triples = "\n".join(map(readable, entry.iterfind("modifiedtripleset/mtriple")))
            texts = [text for lex in entry.iterfind("lex") if (text := " ".join((lex.text or "").split()))]
            found[split] += [{"text": text, "triples": triples, "category": entry.get("category")} for text in texts]
        seen, read = ({row[column] for row in found["train"]} for column in ("category", "text"))
        held = [row for row in found["test"] if row["category"] in seen and row["text"] not in read]
        return {"train": found["train"], "test": held}

    def _entries(self) -> Iterator[tuple[str, ElementTree.Element]]:
        path = self.folder / ARCHIVE
        try:
            with tarfile.open(path) as archive:
                for member in archive:
                    parts = PurePath(member.name).parts
                    file = archive.extractfile(member) if member.name.endswith(".xml") else None
                    if file is None or len(parts) < 2 or parts[1] not in ("train", "test"):
                        continue
                    for entry in ElementTree.parse(file).iterfind("entries/entry"):
                        if int(entry.get("size", 0)) <= LARGEST:
                            yield parts[1], entry
        except FileNotFoundError:
            raise DataError(f"{self.folder}: has no {ARCHIVE}; {self.needs}") from None
        except (tarfile.TarError, EOFError, ElementTree.ParseError) as error:
            raise DataError(f"{path}: is broken: {error}; {self.needs}") from None


def readable(triple: ElementTree.Element) -> str:
    """``Aarhus_Airport | runwayName | "10R/28L"`` without underscores and quotation marks."""
    return " | ".join(
        " ".join(part.replace("_", " ").replace('"', "").split()) for part in (triple.text or "").split("|")
    )
