"""Questions about paragraphs: made-up ones, and those in SQuAD's format."""

import json

import pytest

from kedge.errors import DataError
from kedge.rewards.library.matching import Match
from kedge.tasks.paragraphs import LANGUAGES
from kedge.tasks.questions import Questions, f1, sliding_window, token_f1
from kedge.tasks.xquad import XQuAD, nearest_sentence


@pytest.fixture(scope="module")
def made_up():
    questions = Questions()
    return {split: list(questions.rows(split)) for split in ("train", "eval")}


def test_rows_are_always_the_same(made_up):
    assert [len(rows) for rows in made_up.values()] == [20_000, 1000]
    assert list(Questions().rows("eval")) == made_up["eval"]
    assert {row["language"] for row in made_up["eval"]} == {"en", "zh"}
    sentences = [row["text"].count(".") + row["text"].count("。") for row in made_up["eval"]]
    assert (min(sentences), max(sentences)) == (3, 5)


def facts_of(text):
    return frozenset(sentence.strip() for sentence in text.replace("。", ".").split(".") if sentence.strip())


def test_held_out_paragraphs_are_others(made_up):
    """Also where the same facts are told in another order, or something else is asked of them."""
    trained, held = ({facts_of(row["text"]) for row in made_up[split]} for split in ("train", "eval"))
    assert not trained & held
    world = LANGUAGES["en"]
    homes = {(name, place) for row in made_up["train"] for name in world.people for place in world.places
             if f"{name} lives in {place}." in row["text"]}  # fmt: skip
    assert len(homes) == 64  # everybody lives everywhere: there is nothing to know by heart


def test_answers_stand_in_the_text_or_nowhere(made_up):
    for row in made_up["eval"]:
        if row["known"]:
            assert row["answer"] in row["text"]
        else:
            assert row["answer"] in ("no answer", "没有答案")


def test_where_somebody_moved_is_where_they_live(made_up):
    moved = [row for row in made_up["eval"] if " moved to " in row["text"] and row["question"].startswith("Where")]
    last = [row for row in moved if row["question"].split()[2] == row["text"].split(". ")[-1].split()[0]]
    assert len(last) > 10
    assert all(row["text"].endswith(f" moved to {row['answer']}.") for row in last)


def test_few_are_demonstrated():
    questions = Questions()
    shown = questions.demonstrations()
    assert len(shown) == questions.demonstrated
    prompt = shown[0]["prompt"]
    assert prompt.endswith("\n=>")
    assert shown[0]["completion"].startswith(" ")


@pytest.mark.parametrize(
    ("answer", "right", "score"),
    [
        ("A cat.", "a cat", 1.0),
        ("cat dog", "a cat", 2 / 3),
        ("a cat a dog a horse a bike", "a cat", 2 / 5),  # all candidates at once
        ("cat cat cat", "a cat", 1 / 2),
        ("", "a cat", 0.0),
        ("一只猫", "a cat", 0.0),
        ("北京。", "北京", 1.0),
        ("南京", "北京", 1 / 2),
        ("她住在北京", "北京", 4 / 7),
    ],
)
def test_token_f1(answer, right, score):
    assert token_f1(answer, right) == pytest.approx(score)


def test_the_nearest_of_several_answers():
    assert f1(["?", "?"], ["Rome", "Oslo now"], answer=[["Paris", "Rome"], "Oslo"]) == pytest.approx([1.0, 2 / 3])


def test_measures(made_up):
    row = {"answer": "Rome", "known": True}
    rows = [row, row, {"answer": "no answer", "known": False}]
    questions = Questions()
    said = [questions.read(each, text) for each, text in zip(rows, ["Rome.", "Rome Oslo", "No answer"], strict=True)]
    assert questions.measures(rows, said) == {"answered": 0.5, "no_answer": 1.0}


def test_sliding_window():
    text = "Anna has a kite. We all know that Ben has a drum."
    # Four words wide: "Anna has kite we" is worth log 1.5 + log 2, "that Ben has drum" log 1.5 + 2 log 2.
    assert sliding_window(text, "What has Ben?", ["kite", "drum"]) == "drum"
    assert sliding_window("小明住在北京。今天的天气真好。小红住在上海。", "小红住在哪里？", ["北京", "上海"]) == "上海"


def test_the_baseline(made_up):
    questions = Questions()
    right = [questions.baseline(row).strip() == row["answer"] for row in made_up["eval"][:100]]
    assert 0.2 < sum(right) / 100 < 0.5


SQUAD = {
    "data": [
        {
            "paragraphs": [
                {
                    "context": f"Town {i} lies in the north. Its mayor is Jo{i}. It has 3 churches.",
                    "qas": [{"id": str(i), "question": "Who is the mayor?", "answers": [{"text": f"Jo{i}"}]}],
                }
            ]
        }
        for i in range(6)
    ]
}


@pytest.fixture
def xquad(tmp_path):
    for language in ("en", "zh"):
        (tmp_path / f"xquad.{language}.json").write_text(json.dumps(SQUAD))
    return XQuAD(tmp_path)


def test_rows_in_squads_format(xquad):
    row = next(iter(xquad.rows("eval")))
    assert row == {"text": "Its mayor is Jo0.", "question": "Who is the mayor?", "answer": ["Jo0"], "article": 0}
    assert [xquad.group(row) for row in xquad.rows("eval")] == [0, 5, 0, 5]  # in both languages
    assert xquad.prompt(row) == "Its mayor is Jo0.\nWho is the mayor?\n=>"
    assert xquad.demonstration(row) == " Jo0"
    assert [row["answer"] for row in xquad.rows("eval")] == [["Jo0"], ["Jo5"]] * 2
    assert [row["answer"] for row in xquad.rows("train")] == [["Jo1"], ["Jo2"], ["Jo3"], ["Jo4"]] * 2


def test_what_the_sentence_does_not_say_is_not_demonstrated(xquad):
    row = {"text": "Its mayor is Jo0.", "question": "Who is the mayor?", "answer": ["Ann", "Jo0"]}
    assert xquad.demonstration(row) == " Jo0"
    assert xquad.demonstration({**row, "answer": ["Ann"]}) is None


def test_the_sentence_that_is_read():
    text = "巴黎在法国。罗马是意大利的首都。"
    assert nearest_sentence(text, "意大利的首都是哪里？") == "罗马是意大利的首都"


def test_the_reward_takes_any_of_the_answers(xquad):
    match = Match(**{key: value for key, value in xquad.reward[0].items() if key != "kind"})
    assert match(["the churches", "3", "3 churches Jo"], answer=[["3 churches", "churches"]] * 3) == [1.0, 0.0, 0.0]


def test_a_folder_without_it_says_what_is_missing(tmp_path, xquad):
    with pytest.raises(DataError, match="there is no such folder; the folder of XQuAD"):
        next(iter(XQuAD(tmp_path / "other").rows("train")))
    (tmp_path / "xquad.en.json").write_text('{"rows": []}')
    with pytest.raises(DataError, match=r"xquad\.en\.json: is not in SQuAD's format"):
        next(iter(xquad.rows("train")))


@pytest.mark.parametrize(
    ("article", "said"),
    [
        ({"paragraphs": []}, "no questions"),
        ({"title": "x"}, "KeyError.'paragraphs'"),
        ({"paragraphs": [{**SQUAD["data"][0]["paragraphs"][0], "context": " "}]}, "an empty context"),
        ({"paragraphs": [{"context": "x", "qas": [{"question": "Who?", "answers": []}]}]}, "or no answer, by .*'Who"),
        ({"paragraphs": [{"context": "x", "qas": [{"answers": []}]}]}, "KeyError.'question'"),
        ("x", "TypeError"),
    ],
)
def test_an_article_of_another_form(tmp_path, xquad, article, said):
    (tmp_path / "xquad.en.json").write_text(json.dumps({"data": [SQUAD["data"][0], article]}))
    with pytest.raises(DataError, match=rf"xquad\.en\.json: article 2 of its data is not in SQuAD's format: .*{said}"):
        list(xquad.rows("train"))


@pytest.mark.shared
def test_the_real_rows(shared):
    xquad = XQuAD(shared / "data/xquad")
    train, held = (list(xquad.rows(split)) for split in ("train", "eval"))
    assert len(train) + len(held) == 2 * 1190
    said = [any(answer in row["text"] for answer in row["answer"]) for row in held]
    assert (sum(said), len(said)) == (473, 582)
    assert len(xquad.demonstrations()) == 1422
    scores = f1(["?"] * 60, [xquad.baseline(row) for row in held[:60]], [row["answer"] for row in held[:60]])
    assert sum(scores) / 60 > 0.1
