"""Intents of customers' questions: labels from the file, who has labelled what, and what an answer is worth."""

import pytest

from kedge.data.records import read_prompts
from kedge.errors import DataError
from kedge.evaluation.evaluate import judge_answers
from kedge.sampling.completion import Completion
from kedge.tasks.intents import BankingIntents, SupportIntents

TRAIN = "text,category\nWhere is my card?,card_arrival\nMy card was eaten.,card_swallowed\nNo card yet?,card_arrival\n"


@pytest.fixture
def bank(tmp_path):
    (tmp_path / "train.csv").write_text(TRAIN)
    (tmp_path / "test.csv").write_text("text,category\nA hole ate it.,card_swallowed\nwhere is my  CARD,card_arrival\n")
    return BankingIntents(tmp_path)


def test_rows_labels_and_demonstrations(bank):
    assert bank.labels == ("card arrival", "card swallowed")
    assert [row["label"] for row in bank.rows("train")] == ["card arrival", "card swallowed", "card arrival"]
    [held] = bank.rows("eval")  # the other one is trained on
    assert bank.prompt(held) == "A hole ate it.\n=>"
    assert bank.demonstration(held) == " card swallowed"
    assert bank.demonstrations() == [{"prompt": "Where is my card?\n=>", "completion": " card arrival"}]  # one in ten
    assert bank.demonstrations("eval") == []


@pytest.mark.parametrize(
    ("answer", "score", "read"),
    [
        (" card swallowed", 1.0, "card swallowed"),
        ("Card Swallowed.", 1.0, "card swallowed"),
        (" card arrival", 0.0, "card arrival"),
        (" card arrival card swallowed", 0.0, None),
        (" card", 0.0, None),
        (" swallowed card", 0.0, None),
        ("", 0.0, None),
        (" card_swallowed", 0.0, None),
    ],
)
def test_answers(bank, answer, score, read):
    [row] = bank.rows("eval")
    prompts = read_prompts(bank.prompts_of([row], "eval"))
    said = judge_answers(prompts, [Completion([], [], [], answer, "eos")], bank.judges())
    assert said.scores["score"] == [score]
    assert bank.read(row, answer) == read


@pytest.mark.parametrize(
    ("file", "text", "error"),
    [
        ("test.csv", "text,category\nHi,card_arrivals\n", "line 2: no label 'card arrivals'; did you mean 'card arr"),
        ("test.csv", "text,intent\nHi,card_arrival\n", "line 1: has no column 'category', but 'text', 'intent'"),
        ("train.csv", "text,category\nHi,\n", "line 2: nothing in column 'category'"),
    ],
)
def test_lines_that_are_no_questions_are_refused(bank, file, text, error):
    (bank.folder / file).write_text(text)
    with pytest.raises(DataError, match=error):
        list(bank.rows("eval"))


@pytest.mark.shared
@pytest.mark.parametrize(
    ("task", "folder", "sizes", "labels"),
    [
        (BankingIntents, "banking77", (10_003, 3_049, 1_001), 77),
        (SupportIntents, "bitext-customer-service", (6_480, 714, 130), 27),
    ],
)
def test_the_real_rows(shared, task, folder, sizes, labels):
    whole = task(shared / "data" / folder)
    held = whole.all_rows("eval")
    assert (len(whole.all_rows("train")), len(held), len(whole.demonstrations())) == sizes
    assert {row["label"] for row in held} == set(whole.labels)
    assert len(whole.labels) == labels
