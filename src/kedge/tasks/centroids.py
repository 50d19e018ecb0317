"""A classifier of few texts a class, and what more texts add to it."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kedge.config.optional import needed

SHARPNESS = 10.0
"""Of the classifier: cosines are multiplied by it before the softmax."""


@dataclass(frozen=True)
class Corpus:
    """Texts of customers, by what they are for."""

    examples: Mapping[str, Sequence[str]]
    """Few of each label."""
    tried: Sequence[tuple[str, str]]
    """``(text, label)``, for the reward."""
    unlabelled: Sequence[str]
    test: Sequence[tuple[str, str]]
    """``(text, label)``, of the published split."""


class Centroids:
    """The nearest centroid of TF-IDF vectors, with and without further texts.

    Args:
        corpus: whose examples it is fitted to.
    """

    def __init__(self, corpus: Corpus) -> None:
        features = needed("sklearn.feature_extraction.text", "augmentation", "tasks")
        self.labels = list(corpus.examples)
        examples = [text for texts in corpus.examples.values() for text in texts]
        self._tfidf = features.TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
        self._tfidf.fit([*examples, *corpus.unlabelled])
        own = [label for label, texts in corpus.examples.items() for _ in texts]
        self._sums = self._summed(self.vectors(examples), own)
        self._tried, self._right = self._pairs(corpus.tried)
        self._test, self._test_right = self._pairs(corpus.test)
        self._logits = SHARPNESS * (self._tried @ _unit(self._sums).T)
        self._likely = _log_of_right(self._logits, self._right)

    def vectors(self, texts: Sequence[str]) -> Any:
        """``[texts, features]``, sparse, each of length 1."""
        return self._tfidf.transform(texts) if len(texts) else self._tfidf.transform(["x"])[:0]

    def gain(self, text: str, label: str) -> float:
        """What a text of that label adds to the mean log-probability, nats, of the right labels of those tried."""
        which = self.labels.index(label)
        column = _unit(self._sums[which : which + 1] + self.vectors([text]).toarray())
        logits = self._logits.copy()
        logits[:, which] = SHARPNESS * (self._tried @ column.T)[:, 0]
        return float(_log_of_right(logits, self._right) - self._likely)

    def right(self, more: Any, labels: Sequence[str]) -> Any:
        """``[tests]``: which of them it names rightly, with more texts of those labels."""
        centroids = _unit(self._sums + self._summed(more, labels))
        return (self._test @ centroids.T).argmax(1) == self._test_right

    def shared_out(self, values: Any, labels: Sequence[str]) -> list[float]:
        """Values of the tests, to answers of their labels, in turn, and evenly to all where a label has no answer: an
        answer takes tests away from other labels, too. ``N / tests`` times the sum of each one's, so that the mean of
        all N is that of the tests."""
        sums, turns = [0.0] * len(labels), defaultdict(list)
        for place, label in enumerate(labels):
            turns[self.labels.index(label)].append(place)
        met: dict[int, int] = defaultdict(int)
        elsewhere = 0.0
        for which, value in zip(self._test_right.tolist(), values.tolist(), strict=True):
            if which in turns:
                places = turns[which]
                sums[places[met[which] % len(places)]] += value
                met[which] += 1
            else:
                elsewhere += value
        sums = [each + elsewhere / len(labels) for each in sums]
        return [len(labels) * each / len(values) for each in sums]

    def _summed(self, vectors: Any, labels: Sequence[str]) -> Any:
        """``[labels, features]``: the sum of the vectors of each."""
        sparse = needed("scipy.sparse", "augmentation", "tasks")
        where = [self.labels.index(label) for label in labels]
        shape = (len(self.labels), len(labels))
        return (sparse.csr_matrix((np.ones(len(labels)), (where, range(len(labels)))), shape) @ vectors).toarray()

    def _pairs(self, pairs: Sequence[tuple[str, str]]) -> tuple[Any, Any]:
        return self.vectors([text for text, _ in pairs]), np.array([self.labels.index(label) for _, label in pairs])


def _unit(rows: Any) -> Any:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)


def _log_of_right(logits: Any, right: Any) -> float:
    top = logits.max(1, keepdims=True)
    total = top[:, 0] + np.log(np.exp(logits - top).sum(1))
    return float((logits[np.arange(len(right)), right] - total).mean())
