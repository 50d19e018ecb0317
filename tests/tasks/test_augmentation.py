"""Texts to train a classifier on: which are copies, what they are worth, and what all of them gain."""

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.neighbors import NearestCentroid

from kedge.errors import DataError
from kedge.tasks.augmentation import SHOTS, TRIED, Augmentation, copies, is_copy

KINDS = {"card_arrival": ("card", "come"), "lost_phone": ("phone", "lost"), "top_up": ("money", "add")}
EXTRA = ("today", "again", "yet", "please", "now", "still", "here", "ever", "soon", "really")


def rows_of(count, first):
    for label, (thing, verb) in KINDS.items():
        for i in range(count):
            words = [EXTRA[(first + i) % 10], EXTRA[(first + i // 10 + 3 * i) % 10]]
            yield f'"Why, {thing} number {i} {verb} {" ".join(words)}?",{label}'


@pytest.fixture
def bank(tmp_path):
    """A shop of three intents, in the format of BANKING77."""
    (tmp_path / "train.csv").write_text("text,category\n" + "\n".join(rows_of(40, 0)) + "\n")
    (tmp_path / "test.csv").write_text("text,category\n" + "\n".join(rows_of(10, 5)) + "\n")
    return Augmentation(tmp_path)


def test_rows(bank):
    train, held = (list(bank.rows(split)) for split in ("train", "eval"))
    assert len(train) == 3 * SHOTS * 2
    assert len(held) == 3 * SHOTS
    first = held[0]
    assert first["label"] == "card_arrival"
    assert bank.prompt(first) == f"- {first['examples'][0]}\n- {first['examples'][1]}\n-"
    texts = [text for row in train for text in row["examples"]]
    assert len(set(texts)) == 3 * SHOTS


def test_no_pair_is_in_both_splits(bank):
    train, held = ({frozenset(row["examples"]) for row in bank.rows(split)} for split in ("train", "eval"))
    assert not train & held


def test_demonstrations_are_neighbours_without_labels(bank):
    shown = bank.demonstrations()
    assert len(shown) == 3 * (40 - SHOTS - TRIED)
    alike = 0
    for row in shown:
        answer = row["completion"].strip()
        assert f"- {answer}\n" not in row["prompt"]
        thing = next(thing for thing, _ in KINDS.values() if f" {thing} " in answer)
        alike += row["prompt"].count(f" {thing} ")
    assert alike > 0.6 * 2 * len(shown)  # the most like it are of its own kind; by chance a third
    assert bank.demonstrations("eval") == []


@pytest.mark.parametrize(
    ("text", "copy"),
    [
        ("Where is my card?", True),
        ("where is MY card", True),
        ("my card, where is", True),  # swapped
        ("Where is card", True),  # deleted
        ("Where is my new card?", False),
        ("", True),
        ("?!", True),
        ("我的卡在哪里", False),
    ],
)
def test_copies(text, copy):
    assert is_copy(text, ["Where is my card?", "Card not here"]) is copy


def test_what_a_text_is_worth(bank):
    row = next(row for row in bank.rows("eval") if row["label"] == "lost_phone")
    texts = ["Lost phone, alas, phone number lost!", "card come card come", row["examples"][0], "", "zzz qqq"]
    right, wrong, copy, empty, strange = bank.surer([""] * 5, texts, [row["label"]] * 5, [row["examples"]] * 5)
    assert right > 0 > wrong
    assert copy == empty == 0
    assert abs(strange) < abs(wrong)


def test_the_classifier_is_scikit_learns(bank):
    """Nearest centroids of unit length are the nearest by cosine; accuracy with texts added."""
    corpus, own = bank._corpus, bank._classifier
    examples = [(text, label) for label, texts in corpus.examples.items() for text in texts]
    more = [("card come", "card_arrival"), ("phone lost lost", "lost_phone")]
    tfidf = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    tfidf.fit([*(text for text, _ in examples), *corpus.unlabelled])
    texts, labels = zip(*examples, *more, strict=True)
    vectors = tfidf.transform(texts).toarray()
    centroids = np.array([vectors[np.array(labels) == label].sum(0) for label in own.labels])
    centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
    nearest = NearestCentroid().fit(centroids, own.labels)
    expected = nearest.score(tfidf.transform([text for text, _ in corpus.test]).toarray(), [y for _, y in corpus.test])
    added = own.vectors([text for text, _ in more])
    assert own.right(added, [label for _, label in more]).mean() == pytest.approx(expected)


def test_the_gain_is_shared_out(bank):
    """Its mean over all answers is what the accuracy on all tests gains."""
    rows = list(bank.rows("eval"))
    labels = [row["label"] for row in rows]
    assert (
        bank.gain([""] * 15, [row["examples"][0] for row in rows], labels) == [0.0] * 15
    )  # centroids stay as they are
    wrong = ["phone lost" if label == "card_arrival" else "card come" for label in labels]
    own = bank._classifier
    before, after = (own.right(own.vectors(texts), labels[: len(texts)]).mean() for texts in ([], wrong))
    gains = bank.gain([""] * 15, wrong, labels)
    assert after < before
    assert sum(gains) / 15 == pytest.approx(after - before)


def test_copies_are_counted(bank):
    rows = list(bank.rows("eval"))[:2]
    given = [row["examples"] for row in rows]
    assert copies(["", ""], [given[0][0], f"{given[1][0]} zzz"], given) == [1.0, 0.0]


def test_the_gain_of_some_labels_is_the_whole_gain(bank):
    """What the tests of the others lose is lost."""
    own = bank._classifier
    own._test_right = np.array([0, 0, 1, 2])
    changes = np.array([1.0, 0.0, -1.0, -1.0])
    assert own.shared_out(changes, ["card_arrival"] * 2) == [0.0, -0.5]  # 2 / 4 * (1 - 1) and 2 / 4 * (0 - 1)
    assert own.shared_out(changes, ["top_up"]) == [-0.25]
    assert own.shared_out(changes, [*KINDS]) == [0.75, -0.75, -0.75]
    assert own.shared_out(changes, []) == []


def test_the_baseline_swaps_deletes_and_inserts(bank):
    row = {"label": "x", "examples": ["Where is my new card", "The card did not come!"]}
    words, edited = row["examples"][0].split(), bank.baseline(row).split()
    assert len(edited) == len(words)
    [new] = set(edited) - set(words)
    assert new in {"did", "not", "come!"}  # The is no word, and card no new one
    assert edited == bank.baseline(row).split()
    assert bank.baseline({"examples": ["Help!", "Help"]}) == "Help!"
    assert sorted(bank.baseline({"examples": ["Help!", "x"]}).split()) == ["Help!", "x"]


def test_a_folder_without_it(tmp_path):
    with pytest.raises(DataError, match=r"neither train\.csv nor train\.csv\.gz; the folder of BANKING77"):
        list(Augmentation(tmp_path).rows("train"))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("train.csv", "text,label\nHi,x\n", "line 1: has no column 'category', but 'text', 'label'; name its columns"),
        ("train.csv", "", "line 1: has no column 'text', but nothing"),
        ("train.csv", "text,category\nHi,x\nHo,x\n", "only 2 texts of category 'x': 5 are examples"),
        ("train.csv", "text,category\nHi,\n", "line 2: nothing in column 'category'"),
        ("test.csv", "text,category\nHi,top_up\nHi,top_upp\n", "line 3: train.csv has no category 'top_upp'; did you"),
    ],
)
def test_files_of_another_form(bank, tmp_path, name, content, said):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=rf"{name}: {said}.*; the folder of BANKING77"):
        list(bank.rows("train"))


@pytest.mark.shared
def test_the_real_rows(shared):
    bank = Augmentation(shared / "data/banking77")
    assert len(list(bank.rows("train"))) == 77 * 10
    assert len(list(bank.rows("eval"))) == 77 * 5
    assert len(bank._corpus.test) == 3080
    assert len(bank._corpus.tried) == 77 * TRIED
    held = list(bank.rows("eval"))
    assert (
        sum(copies([""] * 385, [bank.baseline(row) for row in held], [row["examples"] for row in held])) < 40
    )  # short ones
    assert 0.4 < bank._classifier.right(bank._classifier.vectors([]), []).mean() < 0.7
