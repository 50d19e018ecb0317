"""Named entities: rows as CoNLL04 is published, answers that point to words, and what they are worth."""

import pytest
from seqeval.metrics import f1_score

from kedge.data.records import read_prompts
from kedge.errors import DataError, RewardError
from kedge.evaluation.evaluate import judge_answers
from kedge.sampling.completion import Completion
from kedge.tasks.entities import NewsEntities, TweetEntities, entities_in, entity_f1, names_in, spans_of, written
from kedge.tasks.name_types import NameTypes

SENTENCE = """#doc 1
0	Dennis	B-Peop	['N']	[0]
1	DeConcini	I-Peop	['Live_In']	[3]
2	of	O	['N']	[2]
3	Arizona	B-Loc	['N']	[3]
4	.	O	['N']	[4]
"""
LONG = "#doc 2\n" + "".join(f"{place}\tword\tO\t['N']\t[{place}]\n" for place in range(41))
HELD = "#doc 3\n0\tArizona\tB-Loc\t['N']\t[0]\n1\tsued\tO\t['N']\t[1]\n2\tDennis\tB-Peop\t['N']\t[2]\n"


@pytest.fixture
def task(tmp_path):
    (tmp_path / "train.txt").write_text(SENTENCE + LONG)
    (tmp_path / "dev.txt").write_text(HELD)
    (tmp_path / "test.txt").write_text(SENTENCE + SENTENCE.replace("of", "in") + "\n")  # the first is trained on
    return NewsEntities(tmp_path)


def test_rows_prompt_and_demonstration(task):
    [row] = task.rows("train")  # the long sentence is left out
    assert task.prompt(row) == "[1 Dennis DeConcini] of [2 Arizona] .\n=>"
    assert task.demonstration(row) == " 1 Peop 2 Loc"
    assert [len(row["words"]) for row in task.rows("eval")] == [3, 5]
    assert task.demonstrations("eval") == []


@pytest.mark.shared
def test_one_sentence_in_six_is_demonstrated(shared):
    task = NewsEntities(shared / "data/conll04")
    assert (len(task.demonstrations()), len(task.all_rows("train"))) == (121, 722)


def test_a_sentence_that_is_trained_on_is_not_held_out_in_another_spelling(task, tmp_path):
    (tmp_path / "dev.txt").write_text(SENTENCE.replace("\tof\t", "\tOF\t").replace("\t.\t", "\t!\t"))
    (tmp_path / "test.txt").write_text(HELD)
    assert [row["words"][0] for row in task.rows("eval")] == ["Arizona"]


def test_the_baseline_looks_names_up(task):
    dev, test = task.rows("eval")
    assert task.baseline(dev) == "Loc 1"  # Dennis alone is no name that it knows
    assert task.baseline(test) == "Peop 1-2; Loc 4"


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        (" Peop 1-2; Loc 4", 1.0),
        (" 1 Peop 2 Loc", 1.0),  # the names in brackets
        ("2 Loc 1 Peop", 1.0),
        (" 1 - 2 Loc", 2 / 3),
        (" 1 Peop 2 Loc 3 Loc", 4 / 5),  # there is no third
        (" 1 Peop 2 Loc 3 Peop", 4 / 5),
        (" 1 Peop 1 Org 2 Loc", 0.5),  # the last counts
        (" 1 - 2 -", 0.0),
        (" 1 Peop 2", 0.0),
        (" 1 Peop, 2 Loc", 0.0),
        ("Loc 4; Peop 1-2; Loc 4", 1.0),  # named twice is named once
        (" Peop 1-2", 2 / 3),
        (" Peop 1; Loc 4", 0.5),  # wrong bounds are wrong
        (" Org 1-2; Peop 4", 0.0),
        ("", 0.0),
        ("Peop 1-2 Loc 4", 0.0),
        ("地点 4", 0.0),
        ("; ".join(f"{kind} {place}" for kind in ("Loc", "Peop", "Org", "Other") for place in range(1, 6)), 2 / 22),
        ("Peop 1-2; " * 100, 2 / 3),
        ("Peop 1-2; Loc 4; nonsense; nonsense", 2 * 2 / 6),
    ],
)
def test_what_an_answer_is_worth(task, answer, score):
    [row] = task.rows("train")
    [prompt] = read_prompts(task.prompts("train"))
    judged = judge_answers([prompt], [Completion([], [], [], answer, "eos")], task.judges())
    assert judged.scores["score"] == [pytest.approx(score)]
    assert task.measures([row], [task.read(row, answer)])["micro_f1"] == pytest.approx(score)


def test_micro_f1_counts_entities_and_not_sentences(task):
    rows = [{"names": [], "entities": entities} for entities in ("Loc 1", "Peop 1-2; Org 4; Loc 6")]
    said = [task.read(row, answer) for row, answer in zip(rows, ["Loc 1", "Peop 1; Org 4"], strict=True)]
    assert task.measures(rows, said)["micro_f1"] == pytest.approx(4 / 7)  # 2 right of 3 named, 4 there
    empty = [{"names": [], "entities": ""}]
    for nothing in ("", " -"):
        assert task.measures(empty, [task.read(empty[0], nothing)])["micro_f1"] == 1.0


def test_micro_f1_is_that_of_seqeval(task):
    right = [["B-Peop", "I-Peop", "O", "B-Loc", "O"], ["B-Org", "B-Org", "I-Org", "O"], ["O", "B-Other"]]
    said = [["B-Peop", "I-Peop", "O", "B-Org", "O"], ["B-Org", "I-Org", "I-Org", "O"], ["B-Loc", "B-Other"]]
    rows = [{"names": [], "entities": written(spans_of(tags))} for tags in right]
    read = [task.read(row, written(spans_of(tags))) for row, tags in zip(rows, said, strict=True)]
    assert task.measures(rows, read)["micro_f1"] == pytest.approx(f1_score(right, said))


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Lee Harvey Oswald shot Kennedy", [(1, 3), (5, 5)]),
        ("In Dallas , Texas", [(2, 2), (4, 4)]),
        ("President Bush and the Warren Commission", [(2, 2), (5, 6)]),
        ("nothing at all", []),
        ("The", []),
        ("Rome", [(1, 1)]),
    ],
)
def test_what_may_be_names(text, names):
    assert names_in(text.split()) == names


def test_what_is_in_no_bracket_is_not_demonstrated(task):
    row = {"words": ["the", "Ides", "of", "March"], "names": [(2, 2), (4, 4)], "entities": "Other 2-4; Loc 4"}
    row["shown"] = True
    assert task.demonstration(row) == " 1 - 2 Loc"
    assert task.demonstration({**row, "names": []}) == " -"
    assert task.read(row, "Other 2-4; Loc 4") == (2, 2, 2)


def test_tags_are_spans():
    tags = ["I-Loc", "I-Loc", "B-Loc", "O", "I-Org", "I-Peop"]
    assert spans_of(tags) == {("Loc", 1, 2), ("Loc", 3, 3), ("Org", 5, 5), ("Peop", 6, 6)}
    assert entities_in(written(spans_of(tags))) == spans_of(tags)


def test_a_folder_without_it_says_what_is_missing(tmp_path):
    with pytest.raises(DataError, match=r"neither train\.txt nor train\.txt\.gz; the folder of CoNLL04"):
        NewsEntities(tmp_path).all_rows("train")
    (tmp_path / "train.txt").write_text("#doc\nDennis DeConcini\n")
    with pytest.raises(DataError, match=r"train\.txt: line 2: no word and tag in cells 2 and 3"):
        NewsEntities(tmp_path).all_rows("train")


@pytest.mark.parametrize("tag", ["B-Per", "Peop", "B", "b-Peop", "E-Loc", ""])
def test_a_tag_that_is_none(tmp_path, tag):
    (tmp_path / "train.txt").write_text(SENTENCE.replace("B-Peop", tag))
    said = rf"train\.txt: line 2: cell 3: tag '{tag}' is not O, or B- or I- and one of Loc, Org, Other, Peop"
    with pytest.raises(DataError, match=said):
        NewsEntities(tmp_path).all_rows("train")


@pytest.mark.parametrize("answer", ["I do not know", "Per 1", "1 Per", ";;", "Loc", "0 Loc", "-1 Loc", "Loc 1-"])
def test_nonsense_is_never_right(answer):
    for right in ("Loc 1", "Peop 1; Loc 2"):
        assert entity_f1([""], [answer], entities=[right], names=[[(1, 1)]]) == [0.0]
    for wrong in ("Per 1", "Peop 1; I do not know"):
        with pytest.raises(RewardError, match=rf"entities '{wrong}' are not written as"):
            entity_f1([""], [answer], entities=[wrong], names=[[(1, 1)]])


@pytest.mark.shared
def test_the_real_rows(shared):
    task = NewsEntities(shared / "data/conll04")
    held = task.all_rows("eval")
    assert (len(task.all_rows("train")), len(held)) == (722, 391)
    found = task.measures(held, [task.read(row, task.baseline(row)) for row in held])
    assert found["micro_f1"] == pytest.approx(0.526, abs=0.001)


TWEETS = "@ann\tO\nloves\tO\nNew\tB-location\nYork\tI-location\n\t\nno\tO\nnames\tO\n\nAda\tB-person\nsings\tO\n"


@pytest.fixture
def tweets(tmp_path):
    (tmp_path / "wnut17train.conll").write_text(TWEETS)
    (tmp_path / "emerging.test.annotated").write_text("Bob\tB-person\nloves\tO\nDover\tB-location\n\n")
    return TweetEntities(tmp_path)


def test_tweets_stand_between_empty_lines(tweets):
    rows = tweets.all_rows("train")
    assert [row["entities"] for row in rows] == ["location 3-4", "", "person 1"]
    assert tweets.prompt(rows[0]) == "@ann loves [1 New York]\n=>"
    assert list(map(tweets.demonstration, rows)) == [" 1 location", " -", " 1 person"]
    [held] = tweets.rows("eval")
    assert tweets.others(held) == {"list of names": ""}
    assert tweets.read(held, " 1 person 2 location") == (2, 2, 2)
    assert tweets.read(held, " 1 Peop 2 Loc") == (0, 2, 2)  # types of the other data


def test_a_word_that_begins_as_a_separator_does_is_a_word(tweets):
    (tweets.folder / "wnut17train.conll").write_text("#doctorwho\tO\nRome\tB-location\n")
    assert [row["words"] for row in tweets.rows("train")] == [["#doctorwho", "Rome"]]


def test_a_classifier_of_one_kind_or_none_says_that():
    assert NameTypes([(["Ann"], [(1, 1)], ["person"])], who="the test").of(["Bea"], [(1, 1)]) == ["person"]
    assert NameTypes([(["no"], [], [])], who="the test").of(["Bea"], [(1, 1)]) == ["-"]


def test_the_classifier_goes_by_what_stands_beside_a_name():
    loves = [([name, "loves", place], [(1, 1), (3, 3)], ["person", "location"])
             for name, place in [("Ann", "Rome"), ("Bea", "Oslo"), ("Carl", "Lima"), ("Dora", "Cairo")]]  # fmt: skip
    says = [(["so", "says", name], [(3, 3)], ["-"]) for name in ("Will", "Bill", "Jim", "Tom")]
    classifier = NameTypes([*loves, *says], who="the test")
    assert classifier.of(["Zed", "loves", "Delhi"], [(1, 1), (3, 3)]) == ["person", "location"]
    assert classifier.of(["so", "says", "Delhi"], [(3, 3)]) == ["-"]
    assert classifier.of(["nobody"], []) == []


@pytest.mark.shared
def test_no_list_of_names_finds_those_of_real_tweets(shared):
    task = TweetEntities(shared / "data/wnut17")
    held = task.all_rows("eval")
    assert (len(task.all_rows("train")), len(held), len(task.demonstrations())) == (3393, 1216, 566)
    found = task.measures(held, [task.read(row, task.others(row)["list of names"]) for row in held])
    assert found["micro_f1"] == 0.0
