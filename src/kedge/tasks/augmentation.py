"""More training texts for a classifier that has five a class."""

import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from kedge.config.settings import nearest
from kedge.errors import DataError
from kedge.rewards.library.words import normalised
from kedge.tasks.centroids import Centroids, Corpus
from kedge.tasks.files import FolderTask
from kedge.tasks.task import Row, Split

SHOTS = 5
"""Labelled texts a class that the classifier has."""
TRIED = 20
"""Labelled texts a class on which the reward tries it."""


class Augmentation(FolderTask):
    """A customer's question like two that are given, as training data: a classifier has five a class, and wants more.

    SFT learns to write a text like its two neighbours from texts without labels. The reward is how much surer of 20
    labelled texts a class the classifier is once it has the new one too, and nothing for a copy; ``gain`` is what the
    accuracy on the published test set gains by all answers together. The classifier is the nearest centroid of TF-IDF
    vectors (Rocchio 1971). The baseline is easy data augmentation (Wei and Zou 2019) of the first text: a swap, a
    deletion, and an insertion; the word that is inserted is the second text's, without which it would be a copy.
    """

    name = "augmentation"
    primary_metric = "gain"
    temperature = 1.0
    needs = "the folder of BANKING77 with train.csv and test.csv (CC-BY-4.0)"
    new: ClassVar[Mapping[str, Any]] = {"vocabulary": 2000, "positions": 320}
    sft: ClassVar[Mapping[str, Any]] = {"epochs": 2.0, "batch_size": 16, "learning_rate": 3e-3, "warmup_steps": 50}
    ppo: ClassVar[Mapping[str, Any]] = {
        "steps": 150, "batch_size": 128, "mini_batch_size": 64, "num_ppo_epochs": 2, "response_length": 28,
        "learning_rate": 3e-4, "kl_coef": 0.02, "critic": "separate", "critic_learning_rate": 1e-3, "eval_every": 50,
    }  # fmt: skip

    def rows(self, split: Split) -> Iterable[Row]:
        for label, texts in self._corpus.examples.items():
            for i in range(SHOTS):
                for far in (1, 4) if split == "train" else (2,):  # no pair is in both, in either order: 4 is 1 turned
                    pair = [texts[i], texts[(i + far) % SHOTS]]
                    yield {"label": label, "examples": pair}

    def prompt(self, row: Row) -> str:
        return _prompt(row["examples"])

    def demonstrations(self, split: Split = "train") -> list[dict[str, Any]]:
        self.refuse_unknown(split)
        return [] if split == "eval" else self._neighbours

    def baseline(self, row: Row) -> str:
        rng = random.Random(" ".join(row["examples"]))
        first, second = row["examples"]
        words, known = first.split(), set(normalised(first).split())
        if len(words) > 1:
            i, j = rng.sample(range(len(words)), 2)
            words[i], words[j] = words[j], words[i]
            del words[rng.randrange(len(words))]
        if new := [word for word in second.split() if normalised(word) and normalised(word) not in known]:
            words.insert(rng.randint(0, len(words)), rng.choice(new))
        return " ".join(words)

    @property
    def reward(self) -> Any:  # type: ignore[override]
        return self.surer

    def surer(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        label: Sequence[str],
        examples: Sequence[Sequence[str]],
    ) -> list[float]:
        """A thousand times what a text adds to the mean log-probability of the right labels; nothing for a copy."""
        return [
            0.0 if is_copy(text, given) else 1000 * self._classifier.gain(text, name)
            for text, name, given in zip(completions, label, examples, strict=True)
        ]

    @property
    def metrics(self) -> Any:  # type: ignore[override]
        return [self.gain, copies]

    def gain(self, prompts: Sequence[str], completions: Sequence[str], label: Sequence[str]) -> list[float]:
        """What the accuracy on the test set gains by all the answers together, in parts: each answer stands for a share
        of its label's test texts, all of them for those of labels without an answer, and their mean is the gain."""
        more = self._classifier.right(self._classifier.vectors(completions), label)
        changes = more.astype(float) - self._classifier.right(self._classifier.vectors([]), [])
        return self._classifier.shared_out(changes, label)

    @cached_property
    def _classifier(self) -> Centroids:
        return Centroids(self._corpus)

    @cached_property
    def _neighbours(self) -> list[dict[str, Any]]:
        """Texts without labels, each asked for by the two that are most like it."""
        texts = self._corpus.unlabelled
        vectors = self._classifier.vectors(texts)
        rows = []
        for start in range(0, len(texts), 512):
            likeness = (vectors[start : start + 512] @ vectors.T).toarray()
            likeness[np.arange(len(likeness)), np.arange(start, start + len(likeness))] = 0  # itself
            for i, near in enumerate(np.argsort(-likeness, axis=1)[:, :2], start):
                rows.append({"prompt": _prompt([texts[j] for j in near]), "completion": f" {texts[i]}"})
        return rows

    @cached_property
    def _corpus(self) -> Corpus:
        rows, test = self._labelled("train.csv"), self._labelled("test.csv")
        random.Random(0).shuffle(rows)
        of: dict[str, list[str]] = defaultdict(list)
        for text, label, _ in rows:
            of[label].append(text)
        for label, texts in of.items():
            if len(texts) <= SHOTS:
                what = f"only {len(texts)} texts of category {label!r}: {SHOTS} are examples, more are for the reward"
                raise DataError(f"{self.folder / 'train.csv'}: {what}; add some, or leave its lines out; {self.needs}")
        for _, label, line in test:
            if label not in of:
                raise self.refused("test.csv", line, f"train.csv has no category {label!r}", nearest(label, list(of)))
        tried = [(text, label) for label in sorted(of) for text in of[label][SHOTS : SHOTS + TRIED]]
        rest = [text for label in sorted(of) for text in of[label][SHOTS + TRIED :]]
        random.Random(1).shuffle(rest)
        return Corpus(
            {label: of[label][:SHOTS] for label in sorted(of)}, tried, rest[:4000], [each[:2] for each in test]
        )

    def _labelled(self, name: str) -> list[tuple[str, str, int]]:
        """Texts, their categories, and in which line they stand."""
        return [(row["text"].strip(), row["category"], line) for line, row in self.table(name, ("text", "category"))]


def copies(prompts: Sequence[str], completions: Sequence[str], examples: Sequence[Sequence[str]]) -> list[float]:
    """Which are copies."""
    return [float(is_copy(text, given)) for text, given in zip(completions, examples, strict=True)]


def is_copy(text: str, examples: Sequence[str]) -> bool:
    """Whether it has nothing but words of one of the examples, in any order, or nothing at all: one word left out would
    else be a cheap way to be paid for copying."""
    words = set(normalised(text).split())
    return not words or any(words <= set(normalised(example).split()) for example in examples)


def _prompt(examples: Sequence[str]) -> str:
    return "".join(f"- {text}\n" for text in examples) + "-"
