"""What knows nothing of language, to be compared with: a reward model that is no better has learnt no more."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from kedge.data.records import Preference, plain
from kedge.evaluation.trust.calibration import right
from kedge.rewards.library.words import words_of


def length_accuracy(train: Sequence[Preference], held: Sequence[Preference]) -> float:
    """Of always taking the longer text, or the shorter one: whichever is right more often in training."""
    differences = [[len(plain(pair.chosen)) - len(plain(pair.rejected)) for pair in pairs] for pairs in (train, held)]
    sign = 1 if sum(map(right, differences[0])) * 2 >= len(train) else -1
    return sum(right(sign * difference) for difference in differences[1]) / len(held)


def bag_of_words_accuracy(train: Sequence[Preference], held: Sequence[Preference], *, seed: int) -> float:
    """Of a logistic regression on the difference of two texts' TF-IDF vectors, of words and pairs of words.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    from sklearn.linear_model import LogisticRegression

    vectorizer = _vectorizer()
    vectorizer.fit([plain(text) for pair in train for text in (pair.chosen, pair.rejected)])

    def differences(pairs: Sequence[Preference]) -> Any:
        sides = [[plain(pair.chosen) for pair in pairs], [plain(pair.rejected) for pair in pairs]]
        return vectorizer.transform(sides[0]) - vectorizer.transform(sides[1])

    features = differences(train)
    flip = [1 if i % 2 else -1 for i in range(len(train))]  # both classes, by turning every second pair around
    model = LogisticRegression(C=1.0, fit_intercept=False, max_iter=1000, random_state=seed)
    model.fit(features.multiply([[sign] for sign in flip]).tocsr(), flip)
    return sum(right(float(margin)) for margin in model.decision_function(differences(held))) / len(held)


def bag_of_words_ratings(train: Sequence[tuple[str, float]], held: Sequence[str], *, seed: int) -> list[float]:
    """What a ridge regression on TF-IDF vectors gives held-out texts, from ``(text, rating)`` of others.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    from sklearn.linear_model import Ridge

    vectorizer = _vectorizer()
    features = vectorizer.fit_transform([text for text, _ in train])
    model = Ridge(alpha=1.0, random_state=seed).fit(features, [rating for _, rating in train])
    return [float(value) for value in model.predict(vectorizer.transform(held))]


def _vectorizer() -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(analyzer=_words_and_pairs, sublinear_tf=True, max_features=50_000)


def _words_and_pairs(text: str) -> list[str]:
    words = [word.lower() for word in words_of(text)]
    return words + [f"{a} {b}" for a, b in pairwise(words)]
