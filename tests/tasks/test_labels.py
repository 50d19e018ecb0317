"""Tasks whose answer is a label: rows as people publish them, and what answers are worth."""

import gzip

import pytest

from kedge.data.records import read_prompts
from kedge.errors import DataError
from kedge.evaluation.evaluate import judge_answers
from kedge.sampling.completion import Completion
from kedge.tasks.files import FolderTask
from kedge.tasks.labels import FinancialOpinion, NewsTitles

SENTENCES = """Sales rose by 12 % .@positive
The company has an office in Espoo .@neutral
Profit fell to EUR 3 mn .@negative
Sales rose by 12 % .@positive
A mail to ir@firm.fi is answered .@neutral
"""


@pytest.fixture
def opinion(tmp_path):
    (tmp_path / "Sentences_AllAgree.txt").write_text(SENTENCES)
    return FinancialOpinion(tmp_path)


def test_a_sentence_is_in_one_split_once(opinion):
    train, held = ([row["text"] for row in opinion.rows(split)] for split in ("train", "eval"))
    assert len(train) + len(held) == 4
    assert not set(train) & set(held)
    assert "A mail to ir@firm.fi is answered ." in [*train, *held]


@pytest.mark.parametrize(
    ("answers", "accuracy", "macro_f1"),
    [
        ([" positive", " neutral", " neutral"], 1.0, 1.0),
        ([" Positive.", " neutral", " negative"], 2 / 3, (1 + 2 / 3 + 0) / 3),
        ([" positive neutral negative", " positive or neutral", ""], 0.0, 0.0),  # all of them is none of them
        ([" unpositive", " neutrally", " 中性"], 0.0, 0.0),
    ],
)
def test_what_answers_are_worth(opinion, answers, accuracy, macro_f1):
    rows = [{"text": "", "label": label} for label in ("positive", "neutral", "neutral")]
    said = [opinion.read(row, answer) for row, answer in zip(rows, answers, strict=True)]
    assert opinion.measures(rows, said) == pytest.approx({"accuracy": accuracy, "macro_f1": macro_f1})
    prompts = read_prompts([{"prompt": "?", **row} for row in rows])
    judged = judge_answers(prompts, [Completion([], [], [], text, "eos") for text in answers], opinion.judges())
    assert sum(judged.scores["score"]) / 3 == pytest.approx(accuracy)


def test_titles_in_chinese(tmp_path):
    lines = ["60年铁树开花形状似玉米芯(组图)\t5\n", "金证顾问：过山车行情意味着什么\t2\n"]
    (tmp_path / "dev.txt").write_text("".join(lines), encoding="utf-8")
    with gzip.open(tmp_path / "test.txt.gz", "wt", encoding="utf-8") as file:
        file.write("同步A股首秀：港股缩量回调\t2\n")
    titles = NewsTitles(tmp_path)
    row, other = titles.rows("train")
    assert (titles.prompt(row), titles.demonstration(row)) == ("60年铁树开花形状似玉米芯(组图)\n=>", " society")
    assert titles.demonstration(other) == " stocks"
    assert [*map(titles.is_demonstrated, (row, other))] == [True, False], "one in ten is"
    assert list(titles.rows("eval")) == [{"text": "同步A股首秀：港股缩量回调", "label": "stocks", "shown": False}]


def test_what_is_trained_on_is_not_held_out_in_another_spelling(tmp_path):
    """Case, spacing, punctuation, width and numbers; one other word makes another title."""
    (tmp_path / "dev.txt").write_text("3月22日：Nokia 新机\t4\n2010\t4\n", encoding="utf-8")
    held = [
        "3月22日：NOKIA新机\t4",
        "12月1日 nokia，新机！\t4",
        "3月22日：Ｎokia 新机\t4",
        "3月22日：Nokia 老机\t4",
        "2011\t4",
    ]
    (tmp_path / "test.txt").write_text("\n".join(held), encoding="utf-8")
    assert [row["text"] for row in NewsTitles(tmp_path).rows("eval")] == ["3月22日：Nokia 老机", "2011"]


def test_a_sentence_with_another_amount_is_not_held_out(tmp_path):
    sentences = [f"Sales rose by {n} % .@positive" for n in range(40)] + [
        f"Sales, fell {'a' * n}@neutral" for n in range(40)
    ]
    (tmp_path / "Sentences_AllAgree.txt").write_text("\n".join(sentences))
    train, held = (list(FinancialOpinion(tmp_path).rows(split)) for split in ("train", "eval"))
    assert {row["label"] for row in train} == {"positive", "neutral"}
    assert {row["label"] for row in held} == {"neutral"}


def test_a_folder_without_it_says_what_is_missing(tmp_path):
    with pytest.raises(DataError, match=r"neither dev\.txt nor dev\.txt\.gz; the folder of THUCNews"):
        next(iter(NewsTitles(tmp_path).rows("train")))
    (tmp_path / "dev.txt").write_bytes("标题\t1\n".encode("gbk"))
    with pytest.raises(DataError, match="is not utf-8 at byte 0; convert it"):
        next(iter(NewsTitles(tmp_path).rows("train")))
    with pytest.raises(DataError, match=r"dev\.txt: is no folder"):
        next(iter(NewsTitles(tmp_path / "dev.txt").rows("train")))


class Table(FolderTask):
    def rows(self, split):
        return [row for _, row in self.table(f"{split}.csv", ["text", "label"])]

    def prompt(self, row):
        return row["text"]


def test_tables_as_spreadsheets_write_them(tmp_path):
    """With a mark before them, and cells of several lines."""
    (tmp_path / "train.csv").write_text('text,label\r\n"第一行\n第二行",a\r\nb,c\r\n', encoding="utf-8-sig", newline="")
    assert Table(tmp_path).rows("train") == [{"text": "第一行\n第二行", "label": "a"}, {"text": "b", "label": "c"}]
    (tmp_path / "eval.csv").write_text("text,label\na,b,c,d\n")
    with pytest.raises(DataError, match=r"eval\.csv: line 2: more cells than the 2 columns: \['c', 'd'\]"):
        Table(tmp_path).rows("eval")


@pytest.mark.parametrize("line", ["标题\tabc", "", "标题", "标题\t10", "标题\t-1", "标题 1", "\t1", "标题\t１"])
def test_a_title_that_is_none(tmp_path, line):
    (tmp_path / "dev.txt").write_text(f"标题\t1\n{line}\n", encoding="utf-8")
    said = (
        "no text" if line == "\t1" else f"'{line.rpartition(chr(9))[2]}' behind the last tab is no number from 0 to 9"
    )
    with pytest.raises(DataError, match=rf"dev\.txt: line 2: {said}.*; the folder of THUCNews"):
        list(NewsTitles(tmp_path).rows("train"))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("Sales rose .", "no @ between text and label: 'Sales rose .'; mend the line or leave it out"),
        ("", "no @ between text and label"),
        ("Sales rose .@postive", "no label 'postive'; did you mean 'positive'"),
        ("Sales rose .@", "no label ''"),
        ("@positive", "no text"),
    ],
)
def test_a_sentence_that_is_none(tmp_path, line, said):
    (tmp_path / "Sentences_AllAgree.txt").write_text(f"Fine .@neutral\n{line}\n")
    with pytest.raises(DataError, match=rf"Sentences_AllAgree\.txt: line 2: {said}.*; the folder of Financial"):
        list(FinancialOpinion(tmp_path).rows("train"))


@pytest.mark.shared
@pytest.mark.parametrize(
    ("task", "folder", "sizes"),
    [(FinancialOpinion, "financial-phrasebank", (1850, 401)), (NewsTitles, "thucnews-titles", (10_000, 9_962))],
)
def test_the_real_rows(shared, task, folder, sizes):
    whole = task(shared / "data" / folder)
    assert tuple(len(list(whole.rows(split))) for split in ("train", "eval")) == sizes
    labels = {row["label"] for row in whole.rows("eval")}
    assert labels == set(whole.labels)


@pytest.mark.shared
def test_the_baseline_on_real_rows(shared):
    opinion = FinancialOpinion(shared / "data/financial-phrasebank")
    scores = opinion.evaluate_baseline(limit=100).scores["score"]
    assert 0.75 < sum(scores) / 100 < 1.0
