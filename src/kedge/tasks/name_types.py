"""What a name is, from its words and those beside it: a linear classifier, as one would try it first."""

from collections.abc import Iterable, Sequence

from kedge.config.optional import needed
from kedge.tasks.brackets import Place

NOTHING = "-"


class NameTypes:
    """Logistic regression of a name's words, their shapes and ends, and the two words on each side.

    Args:
        sentences: words, names in them, and what each name is, :data:`NOTHING` where it is none.
        who: needs it, for the message where scikit-learn is not installed.

    Raises:
        ConfigError: scikit-learn is not installed.
    """

    def __init__(self, sentences: Iterable[tuple[Sequence[str], Sequence[Place], Sequence[str]]], *, who: str) -> None:
        features = needed("sklearn.feature_extraction", who, "tasks")
        linear = needed("sklearn.linear_model", who, "tasks")
        pipeline = needed("sklearn.pipeline", who, "tasks")
        found: list[dict[str, bool]] = []
        kinds: list[str] = []
        for words, names, types in sentences:
            found += [_features(words, name) for name in names]
            kinds += types
        # Balanced: most of what stands in brackets is no name, and the rare kinds count as much in F1.
        linear_model = linear.LogisticRegression(class_weight="balanced", max_iter=1000)
        self._model = pipeline.make_pipeline(features.DictVectorizer(), linear_model)
        self._only = None if len({*kinds}) > 1 else next(iter(kinds), NOTHING)
        if self._only is None:
            self._model.fit(found, kinds)

    def of(self, words: Sequence[str], names: Sequence[Place]) -> list[str]:
        """What each name is.

        Args:
            words: of the sentence.
            names: in it.
        """
        if self._only is not None:
            return [self._only] * len(names)
        if not names:
            return []
        return [str(kind) for kind in self._model.predict([_features(words, name) for name in names])]


def _features(words: Sequence[str], name: Place) -> dict[str, bool]:
    first, last = name
    inside = words[first - 1 : last]
    keys = [f"length {min(len(inside), 4)}", f"begins {first == 1}", f"first {inside[0]}", f"last {inside[-1]}"]
    for word in inside:
        keys += [f"word {word.lower()}", f"end {word[-3:].lower()}", f"start {word[:3].lower()}"]
        keys += [f"upper {word.isupper()}", f"digits {any(map(str.isdigit, word))}"]
    for place in (first - 3, first - 2, last, last + 1):
        beside = words[place].lower() if 0 <= place < len(words) else ""
        keys.append(f"beside {place - (last - 1 if place >= last else first - 1)} {beside}")
    return dict.fromkeys(keys, True)
