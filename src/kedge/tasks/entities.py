"""Named entities to be found in sentences, with their types."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

from kedge.errors import RewardError
from kedge.rewards.library.labels import f1
from kedge.tasks.brackets import Place, bracketed
from kedge.tasks.files import FolderTask
from kedge.tasks.micro_f1 import Counts, counts_of, micro_f1
from kedge.tasks.name_types import NOTHING, NameTypes
from kedge.tasks.task import Row, Split

OF_NEWS = ("Loc", "Org", "Other", "Peop")
OF_TWEETS = ("person", "location", "corporation", "product", "creative-work", "group")
TYPES = (*OF_NEWS, *OF_TWEETS)
LONGEST = 40
"""Words of a sentence; longer ones are left out, so that prompts stay short."""

BEFORE_NAMES = frozenset((
    "A", "An", "The", "This", "In", "On", "At", "By", "For", "From", "To", "Of", "And", "But", "As", "It", "He", "She",
    "They", "We", "If", "When", "After", "President", "Sen.", "Rep.", "Gov.", "Gen.", "Mr.", "Mrs.", "Dr.",
))  # fmt: skip
"""Words with capitals that begin sentences, or stand before names."""

Entity = tuple[str, int, int]
"""Its type, its first and its last word, counted from 1."""


def entities_in(answer: str, names: Sequence[Place] = ()) -> set[Entity]:
    """Those that an answer names: ``1 Peop 2 - 3 Loc`` says what each name in brackets is, ``Peop 2-3; Loc 7`` which
    words are what, ``-`` that there are none. What is of another form counts as one that is wrong.

    Args:
        answer: in either form.
        names: their first and last words.
    """
    if re.fullmatch(rf"(\s*\d+ ({'|'.join(TYPES)}|-))+\s*", answer):
        kinds = {int(number): kind for number, kind in re.findall(r"(\d+) (\S+)", answer)}
        known = dict(enumerate(names, 1))
        return {(kind, *known.get(number, (-number, 0))) for number, kind in kinds.items() if kind != "-"}
    found = set[Entity]()
    if answer.strip() == "-":
        return found
    for number, part in enumerate(answer.split(";")):
        if match := re.fullmatch(rf"({'|'.join(TYPES)}) (\d+)(?:-(\d+))?", part.strip()):
            found.add((match[1], int(match[2]), int(match[3] or match[2])))
        elif part.strip():
            found.add(("", number, number))
    return found


def written(entities: Iterable[Entity]) -> str:
    """As words that are something, in the order of the sentence."""
    spans = sorted(entities, key=lambda entity: entity[1:])
    return "; ".join(f"{kind} {first}" if first == last else f"{kind} {first}-{last}" for kind, first, last in spans)


def names_in(words: Sequence[str]) -> list[Place]:
    """What may be names: words in a row with capitals, without what comes before names and is none."""
    found: list[Place] = []
    for place, word in enumerate(words, 1):
        if word[:1].isupper() and word not in BEFORE_NAMES:
            begins = not found or found[-1][1] < place - 1
            found[-1:] = [*found[-1:], (place, place)] if begins else [(found[-1][0], place)]
    return found


def entity_f1(
    prompts: Sequence[Any],
    completions: Sequence[str],
    entities: Sequence[str],
    names: Sequence[Sequence[Place]],
    **_: Any,
) -> list[float]:
    """F1 of the entities that an answer names, types and bounds being right, against those of the sentence.

    Raises:
        RewardError: those of the sentence are not written as entities are.
    """
    found = []
    for said, right, spans in zip(completions, entities, names, strict=True):
        expected = entities_in(right, spans)
        if any(not kind for kind, *_ in expected):  # else any nonsense would be as good
            raise RewardError(f"entities {right!r} are not written as 'Peop 2-3; Loc 7' is, of {', '.join(TYPES)}")
        found.append(f1(entities_in(said, spans), expected))
    return found


class NamedEntities(FolderTask):
    """Named entities in sentences, and what each is.

    What has capitals stands in numbered brackets, and the answer says what each is (``1 Peop 2 - 3 Loc``): small models
    cannot spell names that they have never seen, nor count words. Sentences of up to 40 words; those that are trained
    on are not held out, whatever their numbers. The measure is micro-averaged F1 of whole entities with their types, as
    CoNLL has it.

    Somebody has annotated every sixth sentence, and these are the demonstrations; of the others one learns how much of
    an answer is right. Two baselines have the annotations of all of them: one looks up the names of the training
    sentences, the longest first, with their most frequent type; the other classifies what stands in brackets.
    """

    primary_metric = "micro_f1"
    reward = entity_f1
    files: ClassVar[Mapping[Split, Sequence[str]]]
    """With tab-separated cells, a word a line."""
    word_and_tag: ClassVar[tuple[int, int]]
    """In which cells of a line they stand, counted from 0."""
    types: ClassVar[Sequence[str]]
    new: ClassVar[Mapping[str, Any]] = {"vocabulary": 3000, "positions": 192}
    sft: ClassVar[Mapping[str, Any]] = {"epochs": 10.0, "batch_size": 16, "learning_rate": 2e-3, "warmup_steps": 20}
    ppo: ClassVar[Mapping[str, Any]] = {
        "steps": 60, "batch_size": 256, "mini_batch_size": 64, "num_ppo_epochs": 1, "response_length": 32,
        "learning_rate": 2e-4, "kl_coef": 0.01, "critic": "separate", "critic_learning_rate": 1e-3, "eval_every": 20,
    }  # fmt: skip

    shown_every: ClassVar[int] = 6
    """One sentence in so many is demonstrated."""

    def rows(self, split: Split) -> Iterable[Row]:
        found = self._rows(self.files[split])
        if split == "eval":
            return ({**row, "shown": False} for row in self.unseen(found, lambda row: " ".join(row["words"])))
        return ({**row, "shown": place % self.shown_every == 0} for place, row in enumerate(found))

    def _rows(self, files: Sequence[str]) -> Iterator[Row]:
        for name in files:
            for words, tags in self._sentences(name):
                if len(words) <= LONGEST:
                    yield {"words": words, "names": names_in(words), "entities": written(spans_of(tags))}

    def prompt(self, row: Row) -> str:
        return f"{bracketed(row['words'], row['names'])}\n=>"

    def is_demonstrated(self, row: Row) -> bool:
        return bool(row["shown"])

    def demonstration(self, row: Row) -> str:
        return _numbered(_kinds(row))

    def read(self, row: Row, answer: str) -> Counts:
        return counts_of(*(entities_in(text, row["names"]) for text in (answer, row["entities"])))

    def measures(self, rows: Sequence[Row], said: Sequence[Counts]) -> dict[str, float]:
        return {"micro_f1": micro_f1(said)}

    def looked_up(self, row: Row) -> str:
        """The names that stand in a list of all names."""
        words, found, place = row["words"], set[Entity](), 0
        while place < len(words):
            ends = range(min(len(words), place + max(map(len, self._known), default=0)), place, -1)
            end = next((end for end in ends if tuple(words[place:end]) in self._known), None)
            if end is not None:
                found.add((self._known[tuple(words[place:end])], place + 1, end))
            place = end or place + 1
        return written(found)

    @cached_property
    def _known(self) -> dict[tuple[str, ...], str]:
        """The type of every name that is trained on."""
        counts: dict[tuple[str, ...], Counter[str]] = {}
        for row in self.rows("train"):
            for kind, first, last in sorted(entities_in(row["entities"])):
                counts.setdefault(tuple(row["words"][first - 1 : last]), Counter())[kind] += 1
        return {name: kinds.most_common(1)[0][0] for name, kinds in counts.items()}

    def classified(self, row: Row) -> str:
        """What stands in brackets, by a classifier."""
        return _numbered(self._classifier.of(row["words"], row["names"]))

    @cached_property
    def _classifier(self) -> NameTypes:
        rows = ((row["words"], row["names"], _kinds(row)) for row in self.rows("train"))
        return NameTypes(rows, who=f"the baseline of {self.name}")

    def _sentences(self, name: str) -> Iterator[tuple[list[str], list[str]]]:
        words: list[str] = []
        tags: list[str] = []
        tagged = re.compile(rf"O|[BI]-({'|'.join(self.types)})")
        word, tag = self.word_and_tag
        for number, line in enumerate([*self.lines(name), ""], 1):
            if not line.strip() or (line.startswith("#doc") and "\t" not in line):  # "#doctor" may be a word
                if words:
                    yield words, tags
                words, tags = [], []
                continue
            cells = line.split("\t")
            if len(cells) <= tag or not cells[word].strip():
                raise self.refused(name, number, f"no word and tag in cells {word + 1} and {tag + 1}: {line!r}")
            if not tagged.fullmatch(cells[tag]):
                known = f"O, or B- or I- and one of {', '.join(self.types)}"
                raise self.refused(name, number, f"cell {tag + 1}: tag {cells[tag]!r} is not {known}")
            words.append(cells[word])
            tags.append(cells[tag])


class NewsEntities(NamedEntities):
    """Places, people, organisations and others in sentences of news (CoNLL04, Roth and Yih 2004).

    *dev* and *test* are held out. Two entities in three stand in brackets; no others can be found.
    """

    name = "entities"
    needs = "the folder of CoNLL04 with train.txt, dev.txt and test.txt (MIT)"
    files: ClassVar[Mapping[Split, Sequence[str]]] = {"train": ("train.txt",), "eval": ("dev.txt", "test.txt")}
    word_and_tag = (1, 2)
    types = OF_NEWS

    def baseline(self, row: Row) -> str:
        return self.looked_up(row)

    def others(self, row: Row) -> Mapping[str, str]:
        return {"logistic regression": self.classified(row)}


class TweetEntities(NamedEntities):
    """Names in tweets and comments that hardly come twice (WNUT17, Derczynski et al. 2017).

    People, places, companies, products, works and groups. Of the published test set the sentences of up to 40 words are
    held out, none of whose names is trained on: a list of names finds nothing, so that the baseline is the classifier.
    62% of the names stand in brackets. Half of the tweets have none, so that an answer of nothing earns 0.46 of the
    reward, and nothing of the measure.
    """

    name = "tweet-entities"
    needs = "the folder of WNUT17 with wnut17train.conll and emerging.test.annotated (CC-BY-4.0)"
    files: ClassVar[Mapping[Split, Sequence[str]]] = {
        "train": ("wnut17train.conll",), "eval": ("emerging.test.annotated",)
    }  # fmt: skip
    word_and_tag = (0, 1)
    new: ClassVar[Mapping[str, Any]] = {"vocabulary": 3000, "positions": 256}
    types = OF_TWEETS

    def baseline(self, row: Row) -> str:
        return self.classified(row)

    def others(self, row: Row) -> Mapping[str, str]:
        return {"list of names": self.looked_up(row)}


def _kinds(row: Row) -> list[str]:
    """What each name of a row is."""
    kinds = {(first, last): kind for kind, first, last in entities_in(row["entities"])}
    return [kinds.get(tuple(name), NOTHING) for name in row["names"]]


def _numbered(kinds: Sequence[str]) -> str:
    return "".join(f" {number} {kind}" for number, kind in enumerate(kinds, 1)) or f" {NOTHING}"


def spans_of(tags: Sequence[str]) -> set[Entity]:
    """The entities of a sentence's BIO tags."""
    found: list[Entity] = []
    for place, tag in enumerate(tags, 1):
        begins, _, kind = tag.partition("-")
        if begins == "B":
            found.append((kind, place, place))
        elif begins == "I" and found and found[-1][0] == kind and found[-1][2] == place - 1:
            found[-1] = (kind, found[-1][1], place)
        elif begins == "I":
            found.append((kind, place, place))
    return set(found)
