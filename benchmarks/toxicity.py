"""A small classifier of harm that `kedge reward` trains, beside the word list and a bag of words: precision and recall.

    python benchmarks/toxicity.py [--texts 12000] [--threads 2]

Trained on labels of tweets (hate-offensive) and of sentences about groups (ToxiGen), 1 where there is no harm; tested
on others of the same, and on HateCheck, by functionality, of which nothing was seen. The trunk is a Llama of half a
million parameters with a tokenizer of the data's, which has read the training texts once. A text counts as harmful
below the score at which the fewest training texts are wrong.
"""

import argparse
import csv
import gzip
import json
import random
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from workload import SHARED, show

from kedge import SFT, RewardModeling
from kedge.models.tiny import new_llama, new_tokenizer
from kedge.rewards.library import abuse_in

DATA = SHARED / "data"
HELD = 2000
Labelled = list[tuple[str, bool]]
"""Texts, and whether they do harm."""


def tweets() -> Labelled:
    """As many with harm (hate, or offensive) as without."""
    with gzip.open(DATA / "hate-offensive/labeled_data.csv.gz", "rt", encoding="utf-8") as file:
        rows = [(row["tweet"], row["class"] != "2") for row in csv.DictReader(file)]
    clean = [row for row in rows if not row[1]]
    return clean + random.Random(0).sample([row for row in rows if row[1]], len(clean))


def about_groups() -> Labelled:
    """ToxiGen's sentences."""
    with gzip.open(DATA / "toxigen/toxiGen.json.gz", "rt", encoding="utf-8") as file:
        return [(row["text"].strip(), row["label"] == "hate") for row in json.load(file)]


def hatecheck() -> dict[str, Labelled]:
    """``{functionality: cases}``."""
    found: dict[str, Labelled] = {}
    with (DATA / "hatecheck/test_suite_cases.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["functionality"], []).append((row["test_case"], row["label_gold"] == "hateful"))
    return found


class BagOfWords:
    """Logistic regression on TF-IDF of words and pairs of words."""

    def __init__(self, train: Labelled) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression

        self.vectorizer: Any = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, max_features=50_000)
        features = self.vectorizer.fit_transform([text for text, _ in train])
        self.model = LogisticRegression(max_iter=1000).fit(features, [harm for _, harm in train])

    def __call__(self, texts: Sequence[str]) -> list[bool]:
        return [bool(each) for each in self.model.predict(self.vectorizer.transform(texts))]


class Trained:
    """The reward model, and the score below which a text counts as harmful."""

    def __init__(self, train: Labelled, folder: Path) -> None:
        texts = [text for text, _ in train]
        tokenizer = new_tokenizer(texts, vocabulary=4096)
        new_llama(tokenizer, hidden=96, layers=3, heads=4, positions=256, seed=0).save(folder / "base")
        settings = {"batch_size": 32, "max_length": 128, "too_long": "truncate", "device": "cpu", "warmup_ratio": 0.05}
        SFT(folder / "base", [{"text": text} for text in texts], settings | {"epochs": 1, "learning_rate": 3e-3},
            run=folder / "sft", progress=False).train()  # fmt: skip
        rows = [{"text": text, "label": int(not harm)} for text, harm in train]
        modeling = RewardModeling(folder / "sft", rows, settings | {"epochs": 3, "learning_rate": 1e-3}, progress=False)
        modeling.train()
        self.model = modeling.model
        told = sorted(zip(self.model.score(texts), [harm for _, harm in train], strict=True))
        wrong = best = sum(harm for _, harm in told)  # where nothing counts as harmful
        self.limit = told[0][0]
        for score, harm in told:
            wrong += -1 if harm else 1
            if wrong < best:
                best, self.limit = wrong, score

    def __call__(self, texts: Sequence[str]) -> list[bool]:
        return [score <= self.limit for score in self.model.score(texts)]


def words(texts: Sequence[str]) -> list[bool]:
    """What kedge's own list finds."""
    return [bool(abuse_in(text)) for text in texts]


def measured(judge: Any, cases: Labelled) -> dict[str, float]:
    """Precision, recall, and the share of what is right."""
    found = judge([text for text, _ in cases])
    hits = sum(each and harm for each, (_, harm) in zip(found, cases, strict=True))
    return {
        "precision": hits / max(1, sum(found)),
        "recall": hits / max(1, sum(harm for _, harm in cases)),
        "accuracy": statistics.fmean(each == harm for each, (_, harm) in zip(found, cases, strict=True)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=12_000)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rng = random.Random(0)
    parts = {name: rng.sample(rows, len(rows)) for name, rows in (("tweets", tweets()), ("ToxiGen", about_groups()))}
    train = [row for rows in parts.values() for row in rows[HELD // 2 :]]
    train = rng.sample(train, min(arguments.texts, len(train)))
    tests = {f"{name}, held out": rows[: HELD // 2] for name, rows in parts.items()}
    functions = hatecheck()
    tests |= {"HateCheck": [case for cases in functions.values() for case in cases]} | functions
    with tempfile.TemporaryDirectory() as temporary:
        judges = {"list": words, "TF-IDF": BagOfWords(train), "kedge reward": Trained(train, Path(temporary))}
        results = {
            name: {who: measured(judge, cases) for who, judge in judges.items()} for name, cases in tests.items()
        }
    table = []
    for name, found in results.items():
        whole = name not in functions
        cells = [
            f"{x['precision']:.2f} / {x['recall']:.2f}" if whole else f"{x['accuracy']:.2f}" for x in found.values()
        ]
        table.append((name, len(tests[name]), *cells))
    title = f"Harm: precision / recall; of HateCheck's functionalities the share that is right ({len(train):,} texts)"
    show(title, ("test", "cases", *judges), table, {"benchmark": "toxicity", "results": results})


if __name__ == "__main__":
    main()
