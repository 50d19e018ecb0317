"""How little an answer repeats: itself, or the other answers to its prompt."""

from collections.abc import Sequence
from itertools import groupby
from typing import ClassVar, Literal

from pydantic import Field

from kedge.config.optional import needed
from kedge.rewards.library.base import Said, Sample, TextSpec
from kedge.rewards.library.words import distinct_n, words_of


def unrepeated(text: str, n: int) -> float:
    """The share of words that stand in no n-gram which the text had before (the repetition penalty of Yeo et al. 2025,
    taken off 1); 0 where it has no words."""
    words = words_of(text)
    seen: set[tuple[str, ...]] = set()
    again: set[int] = set()
    for i in range(len(words) - n + 1):
        gram = tuple(words[i : i + n])
        if gram in seen:
            again.update(range(i, i + n))
        seen.add(gram)
    return 1 - len(again) / len(words) if words else 0.0


def self_bleu(texts: Sequence[str]) -> list[float]:
    """Of each text the sentence BLEU (0..1) against all the others (Zhu et al. 2018), two texts at least; sacrebleu's,
    on words, or on characters in scripts without spaces."""
    bleu = needed("sacrebleu", "self_bleu").metrics.BLEU(tokenize="none", effective_order=True)
    split = [" ".join(words_of(text)) for text in texts]
    return [
        bleu.sentence_score(mine, split[:i] + split[i + 1 :]).score / 100 if mine else 0.0
        for i, mine in enumerate(split)
    ]


class Diversity(TextSpec):
    """How little an answer repeats itself, or the other answers to its prompt.

    ``distinct``: the share of n-grams that are distinct (Li et al. 2016). ``unrepeated``: the share of words outside
    repeated n-grams (Yeo et al. 2025). ``self_bleu``: 1 minus BLEU against the other answers to the prompt (Zhu et al.
    2018), for ``num_generations`` of two or more; an answer that is alone is not judged. An empty answer has 0.
    """

    KIND: ClassVar[str] = "diversity"
    RANGE: ClassVar[str] = "0..1"

    measure: Literal["distinct", "unrepeated", "self_bleu"] = "distinct"
    """``distinct``: n-grams; ``unrepeated``: words outside repeated n-grams; ``self_bleu``: 1 minus BLEU against the
    other answers to the prompt."""
    n: int = Field(2, ge=1)
    """Words of an n-gram; characters in scripts without spaces."""

    USED_WHEN: ClassVar = {"n": ("measure", ("distinct", "unrepeated"))}

    def prepare(self) -> None:
        if self.measure == "self_bleu":
            needed("sacrebleu", "diversity, measure=self_bleu")

    def judge(self, samples: Sequence[Sample]) -> Sequence[Said]:
        if self.measure != "self_bleu":
            measure = unrepeated if self.measure == "unrepeated" else _distinct
            return [Said(measure(sample.text, self.n)) for sample in samples]
        groups = [[s.text for s in group] for _, group in groupby(samples, key=lambda sample: sample.prompt)]
        return [said for group in groups for said in _of_group(group)]


def _distinct(text: str, n: int) -> float:
    return distinct_n([text], n)


def _of_group(texts: list[str]) -> list[Said]:
    if len(texts) == 1:
        return [Said(None)]
    return [Said(1 - bleu if words_of(text) else 0.0) for text, bleu in zip(texts, self_bleu(texts), strict=True)]
