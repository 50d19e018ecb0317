"""Dialogues and their summaries."""

import json
from importlib import import_module

import pytest

from kedge.data.records import read_prompts
from kedge.errors import DataError
from kedge.evaluation.evaluate import judge_answers
from kedge.sampling.completion import Completion
from kedge.tasks.summaries import Summaries

TALK = "#Person1#: Is Ann here?\n#Person2#: No, she is ill.\n#Person1#: " + "Oh " * 100
SUMMARIES = ["Ann is ill.", "#Person2# says Ann is ill.", "Ann is not here."]

HELD = TALK.replace("Ann", "Ben", 1)


@pytest.fixture
def dialogues(tmp_path):
    train = {"fname": "dev_0", "dialogue": TALK, "summary": SUMMARIES[0], "topic": "illness"}
    held = {"fname": "test_0", "dialogue": HELD} | {f"summary{i}": text for i, text in enumerate(SUMMARIES, start=1)}
    (tmp_path / "dialogsum.dev.jsonl").write_text(json.dumps(train) + "\n")
    lines = [json.dumps(row) for row in (held, {**held, "dialogue": f"{TALK} Bye."})]
    (tmp_path / "dialogsum.test.jsonl").write_text("\n".join(lines) + "\n")
    return Summaries(tmp_path)


def test_rows(dialogues):
    [row] = dialogues.rows("train")
    assert row["reference"] == SUMMARIES[:1]
    assert dialogues.demonstration(row) == " Ann is ill."
    assert dialogues.prompt(row).startswith("#Person1#: Is Ann here? #Person2#: No, she is ill. #Person1#: Oh Oh")
    assert len(dialogues.prompt(row).split()) == dialogues.words + 1
    [held] = dialogues.rows("eval")  # the other one begins as one that is trained on
    assert held["reference"] == SUMMARIES
    assert dialogues.baseline(held) == " #Person1#: Is Ben here? #Person2#: No, she is ill."


@pytest.mark.parametrize(
    ("answer", "rouge1", "rouge2"),
    [
        ("Ann is ill.", 1.0, 1.0),
        ("Ill is Ann.", 1.0, 0.0),
        ("Ann is ill. " * 3, 0.5, 0.4),
        ("", 0.0, 0.0),
        ("安病了。", 0.0, 0.0),
    ],
)
def test_what_summaries_are_worth(dialogues, answer, rouge1, rouge2):
    prompts = read_prompts([{"prompt": "?", "reference": SUMMARIES[:1]}])
    judged = judge_answers(prompts, [Completion([], [], [], answer, "eos")], dialogues.judges()).scores
    assert judged["rouge2"][0] == pytest.approx(rouge2)
    # Not imported while tests are collected: absl's logging keeps what stderr is then, and closes it later.
    scorer = import_module("rouge_score.rouge_scorer").RougeScorer(["rougeL"])
    longest = scorer.score("Ann is ill.", answer)["rougeL"].fmeasure
    assert judged["score"][0] == pytest.approx(rouge1 + longest)


def test_a_folder_without_it_says_what_is_missing(tmp_path, dialogues):
    with pytest.raises(DataError, match="there is no such folder; the folder of DialogSum"):
        next(iter(Summaries(tmp_path / "other").rows("train")))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"text": 1}', "is not DialogSum's: no 'dialogue', or no 'summary' nor"),
        ('{"dialogue": "A: Hi."}', "is not DialogSum's: no 'dialogue', or no 'summary' nor"),
        ('{"dialogue": ["A: Hi."], "summary": "Hi."}', r"'dialogue' is no text: \['A: Hi\.'\]"),
        ('{"dialogue": "A: Hi.", "summary": null}', "'summary' is no text: None"),
        ('{"dialogue": " ", "summary": "Hi."}', "'dialogue' is no text: ' '"),
        ('"Hi."', "is not DialogSum's"),
        ("", "is not DialogSum's: no JSON"),
    ],
)
def test_a_row_that_is_none(tmp_path, dialogues, line, said):
    (tmp_path / "dialogsum.dev.jsonl").write_text(f'{{"dialogue": "A: Hi.", "summary": "Hi."}}\n{line}\n')
    with pytest.raises(
        DataError, match=rf"dialogsum\.dev\.jsonl: line 2: {said}.*; mend the line .*; the folder of Dia"
    ):
        list(dialogues.rows("train"))


@pytest.mark.shared
def test_the_real_rows(shared):
    dialogues = Summaries(shared / "data/dialogsum")
    held = list(dialogues.rows("eval"))
    assert [len(list(dialogues.rows("train"))), len(held)] == [500, 493]
    assert {len(row["reference"]) for row in held} == {3}
    assert dialogues.baseline(held[0]).startswith(" #Person1#: Ms. Dawson, I need you to take a dictation for me.")
