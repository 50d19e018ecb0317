"""Sentences from which the triples of a knowledge graph are to be read."""

import re
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, get_args

from kedge.rewards.library.labels import f1
from kedge.rewards.library.words import mentions, normalised
from kedge.tasks.brackets import Place, bracketed
from kedge.tasks.files import FolderTask
from kedge.tasks.micro_f1 import Counts, counts_of, micro_f1
from kedge.tasks.task import Row, Split
from kedge.tasks.webnlg import ARCHIVE, Entry, entries

LARGEST = 2
"""Triples of an entry; larger ones are left out, so that texts stay short."""
LONGEST = 12
"""Words of a name that is looked for in texts."""

Triple = tuple[str, str, str]

_POINTED = re.compile(r"\s*(\d+) (.+) (\d+)\s*")


def said_in(answer: str, names: Sequence[str]) -> set[Triple]:
    """The triples that an answer gives.

    ``1 country 2; 2 leader 3`` points at the names in a text, ``Spain | country | Europe`` gives one a line in full.
    Case and punctuation do not count. What is of another form is a triple that is in no graph.

    Args:
        answer: in either form.
        names: what stands in the text's brackets.
    """
    if "|" in answer:
        return triples_of(answer)
    found = set()
    for part in filter(str.strip, re.split(r"[;\n]", answer)):
        match = _POINTED.fullmatch(part)
        points = [int(match[1]) - 1, int(match[3]) - 1] if match else []
        if match and all(0 <= point < len(names) for point in points):
            found.add((_plain(names[points[0]]), _plain(match[2]), _plain(names[points[1]])))
        else:
            found.add(("", "", part))
    return found


def triples_of(lines: str) -> set[Triple]:
    """Those that are given in full; a line of another form is a triple that is in no graph."""
    found = [[_plain(part) for part in line.split("|")] for line in lines.splitlines() if line.strip()]
    return {(parts[0], parts[1], parts[2]) if len(parts) == 3 else ("", "", " | ".join(parts)) for parts in found}


def triple_f1(
    prompts: Sequence[Any],
    completions: Sequence[str],
    triples: Sequence[str],
    names: Sequence[Sequence[str]],
    **_: Any,
) -> list[float]:
    """F1 of an answer's triples against those of the graph."""
    return [f1(said, right) for said, right in _pairs(completions, triples, names)]


def part_f1(
    prompts: Sequence[Any],
    completions: Sequence[str],
    triples: Sequence[str],
    names: Sequence[Sequence[str]],
    **_: Any,
) -> list[float]:
    """The same for subjects, relations and objects by themselves: what is nearly right is worth something."""
    return [f1(_parts(said), _parts(right)) for said, right in _pairs(completions, triples, names)]


def exact(
    prompts: Sequence[Any],
    completions: Sequence[str],
    triples: Sequence[str],
    names: Sequence[Sequence[str]],
    **_: Any,
) -> list[float]:
    """Whether they are those of the graph, all of them and no others."""
    return [float(said == right) for said, right in _pairs(completions, triples, names)]


class TextToTriples(FolderTask):
    """Triples of a knowledge graph from a text: subject, relation and object (WebNLG 2017, DBpedia).

    Entries of one or two triples, a row for each of their texts. Published splits: *train* is trained on, and *test*
    held out where its category is one of those trained on (the challenge's seen categories), but for texts in both.

    Names of the graph that is trained on, and numbers, stand in numbered brackets, as an entity linker would mark them,
    and the answer points at them: ``1 country 2``. Four triples in five of the held-out ones can be said so.

    Somebody has annotated a quarter of the entries, and these are the demonstrations; of the others one learns how much
    of an answer is in the graph: PPO is paid for whole triples and for their parts. The measure is micro-averaged F1 of
    whole triples. The baseline knows all triples that are trained on, and gives those whose subject and object stand in
    the text.
    """

    name = "knowledge-graph"
    primary_metric = "triple_f1"
    needs = f"the folder of WebNLG 2017 with {ARCHIVE} (CC-BY-NC-SA-4.0)"
    reward = (triple_f1, part_f1)
    metrics = exact
    new: ClassVar[Mapping[str, Any]] = {"vocabulary": 4000, "positions": 160}
    sft: ClassVar[Mapping[str, Any]] = {"epochs": 8.0, "batch_size": 16, "learning_rate": 2e-3, "warmup_steps": 50}
    ppo: ClassVar[Mapping[str, Any]] = {
        "steps": 150, "batch_size": 256, "mini_batch_size": 128, "num_ppo_epochs": 1, "response_length": 16,
        "learning_rate": 4e-4, "kl_coef": 0.01, "critic": "separate", "critic_learning_rate": 1e-3, "eval_every": 50,
    }  # fmt: skip
    shown_every: ClassVar[int] = 4
    """One entry in so many is demonstrated."""

    def rows(self, split: Split) -> Iterable[Row]:
        return self._rows[split]

    @cached_property
    def _rows(self) -> Mapping[Split, list[Row]]:
        return {split: [*self._rows_of(split)] for split in get_args(Split)}

    def _rows_of(self, split: Split) -> Iterator[Row]:
        """Texts, their names in brackets, and their triples."""
        for number, entry in enumerate(self._train if split == "train" else self._held_out):
            shown = split == "train" and number % self.shown_every == 0
            for text in entry.texts:
                words = text.split()
                places = self._names_in(words)
                names = [" ".join(words[first - 1 : last]) for first, last in places]
                yield {
                    "text": text, "marked": bracketed(words, places), "names": names,
                    "triples": "\n".join(entry.triples), "category": entry.category, "shown": shown,
                }  # fmt: skip

    def prompt(self, row: Row) -> str:
        return f"{row['marked']}\n=>"

    def is_demonstrated(self, row: Row) -> bool:
        return bool(row["shown"])

    def demonstration(self, row: Row) -> str | None:
        """What can be said by pointing; nothing where that is no triple."""
        number = {_plain(name): place for place, name in reversed([*enumerate(row["names"], 1)])}
        said = []
        for line in row["triples"].splitlines():
            subject, relation, object = line.split(" | ")
            ends = number.get(_plain(subject)), number.get(_plain(object))
            if all(ends):
                said.append(f"{ends[0]} {relation} {ends[1]}")
        return f" {'; '.join(said)}" if said else None

    def group(self, row: Row) -> Hashable:
        return row["triples"]

    def read(self, row: Row, answer: str) -> Counts:
        return counts_of(said_in(answer, row["names"]), triples_of(row["triples"]))

    def measures(self, rows: Sequence[Row], said: Sequence[Counts]) -> dict[str, float]:
        return {"triple_f1": micro_f1(said)}

    def baseline(self, row: Row) -> str:
        text = _plain(row["text"])
        names = [name for name in self._by_subject if name in text and mentions(text, name)]
        known = [
            (subject, relation, object)
            for subject in names
            for relation, object in self._by_subject[subject]
            if mentions(text, object)
        ]
        return "\n".join(" | ".join(triple) for triple in known)

    def _names_in(self, words: Sequence[str]) -> list[Place]:
        """The longest known names, from the left, and numbers."""
        found: list[Place] = []
        plain = [_plain(word) for word in words]
        place = 0
        while place < len(words):
            for end in range(min(len(words), place + LONGEST), place, -1):
                name = " ".join(filter(None, plain[place:end]))
                if name in self._nodes or (end == place + 1 and re.search(r"\d", name)):
                    found.append((place + 1, end))
                    place = end
                    break
            else:
                place += 1
        return found

    @cached_property
    def _by_subject(self) -> dict[str, list[tuple[str, str]]]:
        """The triples that are trained on."""
        found: dict[str, dict[tuple[str, str], None]] = defaultdict(dict)
        for entry in self._train:
            for subject, relation, object in sorted(triples_of("\n".join(entry.triples))):
                found[subject][relation, object] = None
        return {subject: list(pairs) for subject, pairs in found.items()}

    @cached_property
    def _nodes(self) -> set[str]:
        """Names of the graph that is trained on, each word by itself made plain."""
        ends = (part for entry in self._train for triple in entry.triples for part in triple.split(" | ")[::2])
        return {" ".join(filter(None, map(_plain, end.split()))) for end in ends}

    @cached_property
    def _train(self) -> list[Entry]:
        return [entry for entry in self._entries if entry.split == "train"]

    @cached_property
    def _held_out(self) -> list[Entry]:
        """Of the categories that are trained on, with the texts that are not."""
        categories = {entry.category for entry in self._train}
        read = {normalised(text) for entry in self._train for text in entry.texts}
        return [
            entry._replace(texts=tuple(text for text in entry.texts if normalised(text) not in read))
            for entry in self._entries
            if entry.split == "test" and entry.category in categories
        ]

    @cached_property
    def _entries(self) -> list[Entry]:
        return [entry for entry in entries(self.folder, self.needs) if len(entry.triples) <= LARGEST]


def _plain(name: str) -> str:
    return normalised(name, articles=True)


def _pairs(
    completions: Sequence[str], triples: Sequence[str], names: Sequence[Sequence[str]]
) -> Iterator[tuple[set[Triple], set[Triple]]]:
    """What each answer says, and what is right."""
    for said, right, there in zip(completions, triples, names, strict=True):
        yield said_in(said, there), triples_of(right)


def _parts(triples: Iterable[Triple]) -> set[tuple[int, str]]:
    return {(place, part) for triple in triples for place, part in enumerate(triple)}
