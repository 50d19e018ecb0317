"""School arithmetic: problems, their steps, and what answers are worth."""

import re

import pytest

from kedge.data.records import read_prompts
from kedge.evaluation.evaluate import judge_answers
from kedge.sampling.completion import Completion
from kedge.tasks.sums import Sums


def scores(task, rows, answers):
    prompts = read_prompts([{"prompt": task.prompt(row), **row} for row in rows])
    said = [Completion([], [], [], text, "eos") for text in answers]
    return judge_answers(prompts, said, task.judges()).scores["score"]


def test_steps_are_right_and_lead_to_the_result():
    rows = [*Sums().rows("eval")]
    assert len(rows) == 1000
    for row in rows:
        lines = row["steps"].splitlines()
        for line in lines:
            a, sign, b, result = re.fullmatch(r"(\d+) ([+-]) (\d+) = (\d+)", line).groups()
            assert int(result) == int(a) + (int(b) if sign == "+" else -int(b)) >= 0
        assert lines[-1].endswith(f"= {row['result']}")
        assert [n for n in re.findall(r"\d+", row["text"]) if n not in row["steps"].split()] == []


def test_nothing_held_out_has_numbers_that_are_trained_on():
    """In any order."""

    def numbers(row):
        first, *_ = row["steps"].split()
        return tuple(sorted([first, *(line.split()[2] for line in row["steps"].splitlines())]))

    task = Sums(shown=50, posed=4000)
    train, held = ({numbers(row) for row in task.rows(split)} for split in ("train", "eval"))
    assert not train & held
    assert {len(each) for each in held} == {2, 3}


def test_one_is_no_plural():
    rows = [*Sums().rows("train")]
    for row in rows:
        for number, word in re.findall(r"(\d) (apple|book|coin|card|shell|stamp|pen|cake)(?!\w)", row["text"]):
            assert number == "1", row["text"] + word
        assert not re.search(r"\b1 \w+s\b", row["text"]), row["text"]
        assert not re.search(r"\d (is|are|was|were|break|come|fall)\b|[tT]here (is|are)", row["text"]), row["text"]
    assert any(re.search(r"\b1 coin\b", row["text"]) for row in rows)


def test_few_are_written_out():
    task = Sums(shown=50, posed=500)
    assert len(task.demonstrations()) == 50
    assert len(task.prompts("train")) == 500
    first, *_ = task.demonstrations()
    assert re.fullmatch(r".*How many are there\?\n", first["prompt"])
    assert re.search(r"= (\d+)\n#### \1$", first["completion"])


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("12 + 19 = 31\n31 - 14 = 17\n#### 17", 1.0),
        ("#### 17", 1.0),
        ("12 + 19 = 31\n31 - 14 = 18\n#### 18", 0.0),
        ("17", 0.0),  # not where the result belongs
        ("", 0.0),
        ("#### 15 16 17 18", 0.0),  # all there are
        ("#### 17 #### 18", 0.0),
        ("#### 十七", 0.0),
        ("#### 12 + 19 - 14", 0.0),  # not worked out
        ("#### 12 or 17", 0.0),
        ("\\boxed{12 + 5}", 0.0),
        ("#### 34/2", 0.0),
        ("#### 17.", 1.0),
        ("#### 17" + "7" * 500, 0.0),
    ],
)
def test_what_answers_are_worth(answer, score):
    row = {"text": "Mia has 12 pens, gets 19 more and loses 14.", "result": 17}
    assert scores(Sums(), [row], [answer]) == [score]


def test_the_generator_draws_the_same_again():
    assert [*Sums(posed=20).rows("train")] == [*Sums(posed=20).rows("train")]
    assert [*Sums(posed=20).rows("train")] != [*Sums(posed=20, seed=1).rows("train")]
