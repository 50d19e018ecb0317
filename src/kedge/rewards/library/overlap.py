"""How much of a reference's wording an answer has: BLEU, chrF, ROUGE."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from kedge.config.optional import needed
from kedge.rewards.library.base import Said, Sample, TextSpec
from kedge.rewards.library.words import has_unspaced, words_of


def sentence_bleu(text: str, references: Sequence[str], tokenize: str = "auto") -> float:
    """sacrebleu's BLEU of one text, 0..1, of n-grams no longer than the text (Papineni et al. 2002; Post 2018)."""
    if tokenize == "auto":
        tokenize = "zh" if has_unspaced("".join(references)) else "13a"
    return float(_bleu(tokenize).sentence_score(text, list(references)).score) / 100


def sentence_chrf(text: str, references: Sequence[str], word_order: int = 0) -> float:
    """sacrebleu's chrF of one text, 0..1 (Popović 2015); chrF++ with ``word_order`` 2."""
    return float(_chrf(word_order).sentence_score(text, list(references)).score) / 100


def rouge(text: str, references: Sequence[str], measure: str = "rougeL", stemmer: bool = False) -> float:
    """rouge-score's F1 of one text against the nearest reference, 0..1 (Lin 2004)."""
    spaced = not has_unspaced("".join([text, *references]))
    return max(float(_rouge(measure, stemmer, spaced).score(each, text)[measure].fmeasure) for each in references)


@cache
def _bleu(tokenize: str) -> Any:
    return needed("sacrebleu", "bleu").metrics.BLEU(tokenize=tokenize, effective_order=True)


@cache
def _chrf(word_order: int) -> Any:
    return needed("sacrebleu", "chrf").metrics.CHRF(word_order=word_order)


@cache
def _rouge(measure: str, stemmer: bool, spaced: bool) -> Any:
    scorer = needed("rouge_score.rouge_scorer", "rouge").RougeScorer
    # Its own tokenizer keeps nothing but Latin letters and digits.
    return scorer([measure], use_stemmer=stemmer, tokenizer=None if spaced else _Characters())


class _Characters:
    def tokenize(self, text: str) -> list[str]:
        return [word.casefold() for word in words_of(text)]


class _AgainstReferences(TextSpec):
    """What has a reference in a column."""

    column: str = "reference"
    """Of the data: a reference, or a list of them."""

    def wanted(self) -> Mapping[str, str]:
        return {"column": self.column}

    def one(self, sample: Sample) -> Said:
        references = sample.texts(self.column)
        return Said(None if references is None else self.against(sample.text, references))

    def against(self, text: str, references: Sequence[str]) -> float:
        raise NotImplementedError


class BLEU(_AgainstReferences):
    """BLEU of one answer against its references (Papineni et al. 2002), by sacrebleu (Post 2018).

    With ``effective_order``, as sacrebleu advises for single sentences.
    """

    KIND: ClassVar[str] = "bleu"
    RANGE: ClassVar[str] = "0..1"

    tokenize: Literal["auto", "13a", "intl", "char", "zh", "none"] = "auto"
    """sacrebleu's tokenizer; ``auto``: ``zh`` where a reference has characters of a script without spaces, else
    ``13a``."""

    def prepare(self) -> None:
        needed("sacrebleu", "bleu")

    def against(self, text: str, references: Sequence[str]) -> float:
        return sentence_bleu(text, references, self.tokenize)


class CHRF(_AgainstReferences):
    """chrF of one answer against its references (Popović 2015), by sacrebleu: n-grams of characters, any script."""

    KIND: ClassVar[str] = "chrf"
    RANGE: ClassVar[str] = "0..1"

    word_order: int = Field(0, ge=0)
    """N-grams of words too, up to this; 2 is chrF++."""

    def prepare(self) -> None:
        needed("sacrebleu", "chrf")

    def against(self, text: str, references: Sequence[str]) -> float:
        return sentence_chrf(text, references, self.word_order)


class ROUGE(_AgainstReferences):
    """ROUGE of one answer against its nearest reference (Lin 2004), F1, by rouge-score.

    In scripts without spaces a character is a word.
    """

    KIND: ClassVar[str] = "rouge"
    RANGE: ClassVar[str] = "0..1"

    measure: Literal["rouge1", "rouge2", "rougeL"] = "rougeL"
    """Single words, pairs, or the longest common subsequence."""
    stemmer: bool = False
    """Compare English words by their stems (Porter)."""

    def prepare(self) -> None:
        needed("rouge_score.rouge_scorer", "rouge")

    def against(self, text: str, references: Sequence[str]) -> float:
        return rouge(text, references, self.measure, self.stemmer)
