"""Whether an answer names the right labels, or the right entities."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar, Literal, Self

from pydantic import model_validator

from kedge.errors import RewardError
from kedge.rewards.library.base import Said, Sample, TextSpec
from kedge.rewards.library.words import after_last, entries_of, items_of, mentions, normalised, same


def f1(found: Collection[object], right: Collection[object]) -> float:
    """The harmonic mean of precision and recall of one set against another, 0..1 (van Rijsbergen 1979); two empty sets
    agree."""
    both = len(set(found) & set(right))
    return 2 * both / (len(set(found)) + len(set(right))) if found or right else 1.0


def labels_in(text: str, labels: Sequence[str]) -> list[str]:
    """Those of the labels that a text names as whole words, in any case; a single letter (``A`` to ``D``) in its own.
    Where one label holds another (``not toxic``, ``toxic``) the longer one is named."""
    named = []
    plain = normalised(text, articles=True)
    for label in sorted(labels, key=lambda label: -len(_plain(label))):
        if len(label) == 1 and label.isascii() and label.isalpha():
            spans = []
            named += [label] if mentions(text, label) else []
        else:
            spans = mentions(plain, _plain(label)) if _plain(label) else []
            named += [label] if spans else []
        for start, end in spans:
            plain = f"{plain[:start]}{chr(0) * (end - start)}{plain[end:]}"
    return named


def macro_f1_parts(said: Sequence[str | None], right: Sequence[str]) -> list[float]:
    """What each of N answers adds to their macro-averaged F1: the mean of the parts is it.

    A right answer to class c, of K classes, has ``2 N / (K (said c + should be c))``: rare classes earn more, and a
    class that is named too often earns less. A wrong answer has 0. The classes are those said or right here.
    """
    counts = Counter(right) + Counter(label for label in said if label is not None)
    return [
        2 * len(right) / (len(counts) * counts[label]) if mine == label else 0.0
        for mine, label in zip(said, right, strict=True)
    ]


class Classification(TextSpec):
    """Whether an answer names the right label: accuracy, or its part of F1.

    An answer that names several labels where one is right has named none. ``macro_f1`` compares the answers of a call:
    its mean is their macro-averaged F1, and rare labels earn more.
    """

    KIND: ClassVar[str] = "classification"
    RANGE: ClassVar[str] = "0 or 1; f1 0..1; macro_f1 from 0"

    labels: tuple[str, ...]
    """All there are; they are looked for in the answer as whole words, in any case."""
    column: str = "label"
    """Of the data: the right label, or for ``f1`` a list of them."""
    measure: Literal["accuracy", "f1", "macro_f1"] = "accuracy"
    """``accuracy``: right or not; ``f1``: of the labels named against a list of right ones; ``macro_f1``: parts of the
    call's macro-averaged F1."""
    after: str | None = None
    """Only what follows its last occurrence is the answer, and without it there is none."""

    @model_validator(mode="after")
    def _are_labels(self) -> Self:
        if len({_plain(label) for label in self.labels}) < max(2, len(self.labels)):
            raise ValueError(f"labels: two or more that differ by more than case and punctuation, got {self.labels!r}")
        return self

    def wanted(self) -> Mapping[str, str]:
        return {"column": self.column}

    def judge(self, samples: Sequence[Sample]) -> Sequence[Said]:
        right = [self._right(sample) for sample in samples]
        named = [labels_in(after_last(sample.text, self.after), self.labels) for sample in samples]
        if self.measure == "f1":
            return [Said(None if r is None else f1(n, r)) for n, r in zip(named, right, strict=True)]
        one = [n[0] if len(n) == 1 else None for n in named]
        if self.measure == "accuracy":
            return [Said(None if r is None else float([n] == r)) for n, r in zip(one, right, strict=True)]
        judged = [i for i, r in enumerate(right) if r is not None]
        parts = macro_f1_parts([one[i] for i in judged], [label for r in right if r is not None for label in r])
        by_sample = dict(zip(judged, parts, strict=True))
        return [Said(by_sample.get(i)) for i in range(len(samples))]

    def _right(self, sample: Sample) -> list[str] | None:
        """The right labels, as :attr:`labels` writes them."""
        value = sample.columns.get(self.column)
        given = [] if isinstance(value, list) and not value else sample.texts(self.column)
        if given is None:
            return None
        known = {_plain(label): label for label in self.labels}
        for each in given:
            if _plain(each) not in known:
                raise RewardError(
                    f"{sample.where}: column {self.column!r} says {each!r}, which is not in labels: "
                    f"{', '.join(self.labels)}"
                )
        if self.measure != "f1" and len(given) != 1:
            raise RewardError(f"{sample.where}: column {self.column!r} holds {len(given)} labels; set measure to f1")
        return [known[_plain(each)] for each in given]


class Entities(TextSpec):
    """F1 of the entities that an answer lists, against those of a column.

    The answer is a JSON list, a line each, or separated by commas; ``[["LOC", "Paris"]]`` and ``{"LOC": ["Paris"]}``
    are entities with their types. Case, punctuation and order do not count, nor does what is named twice. What is
    missing and what is too much is remarked on.
    """

    KIND: ClassVar[str] = "entities"
    RANGE: ClassVar[str] = "0..1"

    column: str = "entities"
    """Of the data: a list of texts, or of ``[type, text]``; or a text with them as the answer has them."""
    after: str | None = None
    """Only what follows its last occurrence is the answer, and without it there is none."""

    def wanted(self) -> Mapping[str, str]:
        return {"column": self.column}

    def one(self, sample: Sample) -> Said:
        value = sample.columns.get(self.column)
        if value is None:
            return Said(None)
        if not isinstance(value, str | list | dict):
            raise RewardError(f"{sample.where}: column {self.column!r} must hold a list of entities; it is {value!r}")
        right = _set_of(items_of(value) if isinstance(value, str) else entries_of(value))
        found = _set_of(items_of(after_last(sample.text, self.after)))
        missing, extra = [", ".join(sorted(side)) for side in (right - found, found - right)]
        remark = "; ".join([*([f"missing: {missing}"] if missing else []), *([f"too much: {extra}"] if extra else [])])
        return Said(f1(found, right), remark)


def _plain(label: str) -> str:
    return normalised(label, articles=True)


def _set_of(items: Sequence[object]) -> set[str]:
    return {same(item) for item in items} - {""}
