"""Triples from texts: rows as WebNLG is published, and what answers are worth."""

import io
import tarfile

import pytest

from kedge.data.records import read_prompts
from kedge.errors import DataError
from kedge.evaluation.evaluate import judge_answers
from kedge.sampling.completion import Completion
from kedge.tasks.brackets import bracketed
from kedge.tasks.knowledge_graph import TextToTriples, said_in
from kedge.tasks.webnlg import ARCHIVE


def entry(category, triples, *texts):
    inner = "".join(f"<mtriple>{triple}</mtriple>" for triple in triples)
    lexes = "".join(f'<lex comment="good" lid="Id1">{text}</lex>' for text in texts)
    return (
        f'<entry category="{category}" eid="Id1" size="{len(triples)}"><originaltripleset/>'
        f"<modifiedtripleset>{inner}</modifiedtripleset>{lexes}</entry>"
    )


FILES = {
    "train/1triples/1triple_Food.xml": [
        entry("Food", ["Ajoblanco | country | Spain"], "Ajoblanco is from\n Spain.", "Spain has ajoblanco."),
        entry("Food", ["Ajoblanco | mainIngredient | &quot;Bread, garlic&quot;"], "Ajoblanco has bread, garlic in it."),
    ],
    "train/3triples/3triples_Food.xml": [entry("Food", ["A | b | C"] * 3, "Too large.")],
    "dev/1triples/1triple_Food.xml": [entry("Food", ["D | e | F"], "Neither trained on nor held out.")],
    "test/testdata_with_lex.xml": [
        entry("Food", ["Ajoblanco | country | Spain", "Spain | leaderName | Felipe_VI"],
              "Felipe VI leads Spain since 2014."),
        entry("Athlete", ["G | h | I"], "Of a category that is not seen."),
    ],
}  # fmt: skip


@pytest.fixture
def task(tmp_path):
    with tarfile.open(tmp_path / ARCHIVE, "w:gz") as archive:
        for name, entries in FILES.items():
            data = f"<benchmark><entries>{''.join(entries)}</entries></benchmark>".encode()
            info = tarfile.TarInfo(f"webnlg_challenge_2017/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return TextToTriples(tmp_path)


def test_rows_prompt_and_demonstration(task):
    first, second, third = task.rows("train")
    assert task.prompt(first) == "[1 Ajoblanco] is from [2 Spain.]\n=>"
    assert task.demonstration(first) == " 1 country 2"
    assert task.prompt(second) == "[1 Spain] has [2 ajoblanco.]\n=>"  # two texts say it
    assert task.demonstration(second) == " 2 country 1"
    assert task.group(first) == task.group(second) != task.group(third)
    assert third["triples"] == "Ajoblanco | mainIngredient | Bread, garlic"
    assert task.prompt(third) == "[1 Ajoblanco] has [2 bread, garlic] in it.\n=>"
    assert task.demonstration(third) == " 1 mainIngredient 2"
    assert [*map(task.is_demonstrated, (first, second, third))] == [True, True, False], "one entry in four is"
    [held] = task.rows("eval")
    assert task.prompt(held) == "Felipe VI leads [1 Spain] since [2 2014.]\n=>"  # a name that no training triple has
    assert task.demonstration(held) is None


def test_names_in_brackets():
    assert bracketed(["a", "b", "c", "d"], [(1, 2), (4, 4)]) == "[1 a b] c [2 d]"
    assert bracketed(["a"], []) == "a"


@pytest.mark.parametrize(
    ("answer", "triples"),
    [
        (" 1 country 2", {("ajoblanco", "country", "spain")}),
        ("1 has part 2; 2 in 1;", {("ajoblanco", "has part", "spain"), ("spain", "in", "ajoblanco")}),
        ("1 country 3", {("", "", "1 country 3")}),
        ("0 country 2", {("", "", "0 country 2")}),
        ("1 2", {("", "", "1 2")}),
        ("country", {("", "", "country")}),
        (" ; ", set()),
    ],
)
def test_an_answer_points(answer, triples):
    assert said_in(answer, ["Ajoblanco", "Spain."]) == triples


def test_the_baseline_joins_names_that_it_knows(task):
    [held] = task.rows("eval")
    assert task.baseline(held) == ""
    assert task.baseline({"text": "Ajoblanco? Of Spain!"}) == "ajoblanco | country | spain"
    assert task.baseline({"text": "Nothing of that."}) == ""


@pytest.mark.parametrize(
    ("answer", "whole", "parts"),
    [
        (" Ajoblanco | country | Spain\nSpain | leaderName | Felipe VI", 1.0, 1.0),
        ("1 leaderName 2", 0.0, 2 * 2 / 9),  # 2014 leads nobody
        ("spain|leadername|felipe vi\nAJOBLANCO | country | Spain\nAjoblanco | country | Spain", 1.0, 1.0),
        ("Ajoblanco | country | Spain", 2 / 3, 2 * 3 / 9),
        ("Spain | country | Ajoblanco", 0.0, 2 * 2 / 9),  # the wrong way round: a subject and a relation that there are
        ("", 0.0, 0.0),
        ("Ajoblanco country Spain", 0.0, 0.0),
        ("Ajoblanco | country | Spain | Felipe VI", 0.0, 0.0),
        ("西班牙 | 国家 | 菜", 0.0, 0.0),
        ("Ajoblanco | country | Spain\n" * 50, 2 / 3, 2 * 3 / 9),
    ],
)
def test_what_an_answer_is_worth(task, answer, whole, parts):
    [held] = task.rows("eval")
    prompts = read_prompts(task.prompts("eval"))
    judged = judge_answers(prompts, [Completion([], [], [], answer, "eos")], task.judges())
    assert judged.scores["score"] == [pytest.approx(whole + parts)]
    assert judged.scores["exact"] == [float(whole == 1.0)]
    assert task.measures([held], [task.read(held, answer)])["triple_f1"] == pytest.approx(whole)


def test_triple_f1_counts_triples_and_not_texts(task):
    rows = [{"triples": "a | b | c", "names": ()}, {"triples": "d | e | f\nd | g | h", "names": ()}]
    said = [task.read(row, answer) for row, answer in zip(rows, ["a | b | c", "x | e | f"], strict=True)]
    assert task.measures(rows, said)["triple_f1"] == pytest.approx(2 / 5)
    assert task.measures(rows, [(0, 0, 1), (0, 0, 2)])["triple_f1"] == 0.0


def test_a_folder_without_it_says_what_is_missing(tmp_path):
    with pytest.raises(DataError, match=r"has no webnlg_challenge_2017\.tar\.gz; the folder of WebNLG 2017"):
        TextToTriples(tmp_path).all_rows("train")
    (tmp_path / ARCHIVE).write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"tar\.gz: is broken"):
        TextToTriples(tmp_path).all_rows("train")


@pytest.mark.shared
def test_the_real_rows(shared):
    task = TextToTriples(shared / "data/webnlg-2017")
    held = task.all_rows("eval")
    assert (len(task.all_rows("train")), len(held), len(task.demonstrations())) == (7713, 1004, 1424)
    found = task.measures(held[:100], [task.read(row, task.baseline(row)) for row in held[:100]])
    assert 0.4 < found["triple_f1"] < 0.8
