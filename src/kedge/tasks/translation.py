"""English to German: image captions (Multi30k)."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

from kedge.config.optional import needed
from kedge.data.records import Text
from kedge.errors import DataError
from kedge.tasks.corpus_bleu import Counts, corpus_bleu, counts_of
from kedge.tasks.files import FolderTask
from kedge.tasks.task import Row, Split

LONGEST = 10
"""Words of a caption."""


class Translation(FolderTask):
    """Translate image captions from English to German (Multi30k, Elliott et al. 2016), those of up to ten words.

    Published splits: *train*, and of the tests that of 2016. A small model from nothing sees the pairs three times and
    knows the commonest words. The reward is chrF, and what is longer than captions are is punished; the baseline
    translates each word by itself, with the lexicon of IBM's model 1 (Brown et al. 1993).
    """

    name = "translation"
    primary_metric = "chrf"
    needs = "the folder of Multi30k with train.en, train.de, test_2016_flickr.en and .de (non-commercial)"
    reward = (
        {"kind": "chrf"},
        {"kind": "length", "shape": "overlong", "unit": "words", "limit": 20.0, "buffer": 6.0},
    )
    metrics = ({"kind": "chrf"},)
    new: ClassVar[Mapping[str, Any]] = {"vocabulary": 4000, "hidden": 128, "layers": 3, "positions": 160}
    sft: ClassVar[Mapping[str, Any]] = {"epochs": 3.0, "batch_size": 16, "learning_rate": 2e-3, "warmup_steps": 50}
    ppo: ClassVar[Mapping[str, Any]] = {
        "steps": 40, "batch_size": 256, "mini_batch_size": 128, "num_ppo_epochs": 1, "response_length": 32,
        "learning_rate": 1e-4, "kl_coef": 0.01, "critic": "separate", "critic_learning_rate": 1e-3, "eval_every": 20,
    }  # fmt: skip

    def rows(self, split: Split) -> Iterable[Row]:
        name = "train" if split == "train" else "test_2016_flickr"
        english, german = list(self.lines(f"{name}.en")), list(self.lines(f"{name}.de"))
        if len(english) != len(german):
            raise DataError(
                f"{self.folder}: {name}.en has {len(english)} lines and {name}.de {len(german)}; {self.needs}"
            )
        for text, translation in zip(english, german, strict=True):
            if 0 < len(text.split()) <= LONGEST:
                yield {"text": text.strip(), "reference": translation.strip()}

    def prompt(self, row: Row) -> Text:
        return f"{row['text']} =>"

    def demonstration(self, row: Row) -> str:
        return f" {row['reference']}"

    def read(self, row: Row, answer: str) -> Counts:
        return counts_of(answer.strip(), [row["reference"]])

    def measures(self, rows: Sequence[Row], said: Sequence[Counts]) -> dict[str, float]:
        return {"bleu": corpus_bleu(said)}

    def baseline(self, row: Row) -> str:
        words = " ".join(filter(None, (self._lexicon.get(word) for word in words_of(row["text"].casefold()))))
        return f" {words[:1].upper()}{words[1:]}."

    @cached_property
    def _lexicon(self) -> Mapping[str, str]:
        rows = list(self.rows("train"))
        return lexicon_of([(words_of(row["text"].casefold()), words_of(row["reference"])) for row in rows])


def words_of(text: str) -> list[str]:
    """Of a sentence, without its capital and its full stop."""
    return (text[:1].lower() + text[1:]).rstrip(".").split()


def lexicon_of(pairs: Sequence[tuple[Sequence[str], Sequence[str]]], rounds: int = 5) -> dict[str, str]:
    """The likeliest translation of each word, by expectation maximisation of IBM's model 1 (Brown et al. 1993).

    It knows nothing of order. What comes from no word of a sentence comes from the empty one, ``""``.
    """
    numpy = needed("numpy", "the baseline of translation")
    words = {word: i for i, word in enumerate(dict.fromkeys(["", *(w for english, _ in pairs for w in english)]))}
    others = {word: i for i, word in enumerate(dict.fromkeys(w for _, german in pairs for w in german))}
    links = [
        (words[a], others[b], place)
        for place, (b, english) in enumerate((b, english) for english, german in pairs for b in german)
        for a in ("", *english)
    ]
    source, target, place = numpy.array(links).T
    both, pair = numpy.unique(source * len(others) + target, return_inverse=True)
    source_of, target_of = both // len(others), both % len(others)
    chance = numpy.ones(len(both))
    for _ in range(rounds):
        share = chance[pair]
        share = share / numpy.bincount(place, share)[place]  # which word of the sentence this one comes from
        expected = numpy.bincount(pair, share)
        chance = expected / numpy.bincount(source_of, expected)[source_of]
    best = numpy.lexsort((chance, source_of))
    last = numpy.append(source_of[best][1:] != source_of[best][:-1], True)
    english, german = list(words), list(others)
    return {english[source_of[i]]: german[target_of[i]] for i in best[last]}
