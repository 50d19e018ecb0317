"""Captions in two languages, and the lexicon that is learnt from them."""

import gzip

import pytest
import sacrebleu

from kedge.data.records import read_prompts
from kedge.errors import DataError
from kedge.evaluation.evaluate import judge_answers
from kedge.sampling.completion import Completion
from kedge.tasks.translation import Translation, lexicon_of

ENGLISH = "A man sleeps.\nA dog sleeps.\nA man runs.\n" + "long " * 11 + "\n"
GERMAN = "Ein Mann schläft.\nEin Hund schläft.\nEin Mann rennt.\n" + "lang " * 11 + "\n"


@pytest.fixture
def captions(tmp_path):
    for name, text in (("train.en", ENGLISH), ("train.de", GERMAN)):
        (tmp_path / name).write_text(text, encoding="utf-8")
    for name, text in (("test_2016_flickr.en", "A dog runs.\n"), ("test_2016_flickr.de", "Ein Hund rennt.\n")):
        with gzip.open(tmp_path / f"{name}.gz", "wt", encoding="utf-8") as file:
            file.write(text)
    return Translation(tmp_path)


def test_short_captions_are_rows(captions):
    rows = list(captions.rows("train"))
    assert [row["text"] for row in rows] == ["A man sleeps.", "A dog sleeps.", "A man runs."]
    assert captions.prompt(rows[0]) == "A man sleeps. =>"
    assert captions.demonstration(rows[0]) == " Ein Mann schläft."
    assert list(captions.rows("eval")) == [{"text": "A dog runs.", "reference": "Ein Hund rennt."}]


def test_the_baseline_goes_word_by_word(captions):
    [row] = captions.rows("eval")
    assert captions.baseline(row) == " Ein Hund rennt."
    assert captions.baseline({"text": "A blue dog sleeps."}) == " Ein Hund schläft."  # nobody knows blue


def test_a_lexicon():
    pairs = [("the house", "das Haus"), ("the book", "das Buch"), ("a book", "ein Buch")]  # Koehn's example
    learnt = lexicon_of([(english.split(), german.split()) for english, german in pairs], rounds=20)
    del learnt[""]
    assert learnt == {"the": "das", "house": "Haus", "book": "Buch", "a": "ein"}


@pytest.mark.parametrize(
    ("answer", "least", "most"),
    [
        ("Ein Hund rennt.", 1.0, 1.0),
        ("Ein Hund rennt. Ein Mann schläft.", 0.4, 0.8),
        ("", 0.0, 0.0),
        ("A dog runs.", 0.0, 0.2),
        ("Ein Hund rennt. " * 8, -1.0, -0.5),  # over-long
    ],
)
def test_the_reward(captions, answer, least, most):
    prompts = read_prompts(captions.prompts("eval"))
    judged = judge_answers(prompts, [Completion([], [], [], answer, "eos")], captions.judges())
    assert least <= judged.scores["score"][0] <= most


def test_bleu_of_all_answers(captions):
    rows = [{"reference": "Ein Hund rennt über die Wiese."}, {"reference": "Ein Mann schläft auf einer Bank."}]
    answers = ["Ein Hund rennt über eine Wiese.", "Mann schläft auf einer Bank"]
    said = [captions.read(row, f" {answer}") for row, answer in zip(rows, answers, strict=True)]
    bleu = sacrebleu.corpus_bleu(answers, [[row["reference"] for row in rows]]).score / 100
    assert captions.measures(rows, said) == pytest.approx({"bleu": bleu})
    assert 0.3 < bleu < 0.9


def test_a_folder_without_it_says_what_is_missing(tmp_path, captions):
    with pytest.raises(DataError, match="there is no such folder; the folder of Multi30k"):
        next(iter(Translation(tmp_path / "other").rows("train")))
    (tmp_path / "train.de").write_text("Ein Mann.\n")
    with pytest.raises(DataError, match=r"train\.en has 4 lines and train\.de 1"):
        next(iter(captions.rows("train")))


@pytest.mark.shared
def test_the_real_rows(shared):
    captions = Translation(shared / "data/multi30k")
    assert [len(list(captions.rows(split))) for split in ("train", "eval")] == [11_833, 412]
    some = [row for _, row in zip(range(1500), captions.rows("train"), strict=False)]
    learnt = lexicon_of([(row["text"].lower().split(), row["reference"].split()) for row in some])
    assert [learnt[word] for word in ("man", "dog", "street", "two")] == ["Mann", "Hund", "Straße", "Zwei"]
