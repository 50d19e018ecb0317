"""Words of abuse by lists: in disguise, not within other words, and how far a list gets on real data."""

import csv
import gzip
import json

import pytest

from kedge.errors import ConfigError
from kedge.rewards.library import Toxicity, WordList, abuse_in
from kedge.rewards.library.words_of_abuse import CHINESE, ENGLISH


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("You IDIOT!", "idiot"),
        ("you id10t", "idiot"),
        ("you 1d1ot", "idiot"),
        ("i d i o t", "idiot"),
        ("i.d.i.o.t.", "idiot"),
        ("idiiiiooot", "idiot"),
        ("ＩＤＩＯＴ", "idiot"),
        ("id\u200biot", "idiot"),
        ("ídïöt", "idiot"),
        ("іdіоt", "idiot"),  # three Cyrillic letters
        ("id-iot", "idiot"),
        ("id**t", "idiot"),
        ("#idiots", "idiot"),
        ("$tup!d", "stupid"),
        ("a$$hole", "asshole"),
        ("shut  up", "shut up"),
        ("5hut up!!!", "shut up"),
        ("你这个混蛋", "混蛋"),
        ("混*蛋", "混蛋"),
        ("混 . 蛋", "混蛋"),
        ("王\u200b八蛋", "王八蛋"),
        ("你這個腦殘", "脑残"),
    ],
)
def test_disguises(text, word):
    assert word in abuse_in(text)


@pytest.mark.parametrize(
    "text",
    ["classic assessment, as soon as S. S. Smith", "he'll do it", "455", "**a**", "Essex, Scunthorpe", "idiotic? no",
     "妈妈的书", "过去的事", "shut the door up there", "a s i d e", "", "🙂", "1,2,3"],
)  # fmt: skip
def test_what_is_left_alone(text):
    assert abuse_in(text) == []


def test_the_list_as_it_stands():
    plain = WordList(["darn", "hells bells", "🖕"], disguised=False, endings=False)
    assert plain.found_in("Darn! Hells bells 🖕") == ["darn", "hells bells", "🖕"]
    assert plain.found_in("d4rn darns d a r n") == []
    assert WordList(["darn"]).found_in("d4rn, darned, darning") == ["darn"]
    assert WordList(["as"]).found_in("ass") == ["as"]  # longer than it is
    assert WordList(["ass"]).found_in("as") == []


def test_scores_and_lists(tmp_path):
    assert Toxicity()(["fine", "you idiot, shut up", "Idiot"]) == [0, -1, -1]
    assert Toxicity(measure="share")(["fine", "you idiot, shut up", "Idiot"]) == [0, -0.5, -1]
    (tmp_path / "w.txt").write_text("# mine\nkedge\n\nanchor\n")
    spec = Toxicity(lists=[tmp_path / "w.txt"], allowed=["Anchor"])
    assert spec(["a kedg3", "an anchor", "you idiot", "# mine"]) == [-1, 0, 0, 0]
    (tmp_path / "none.txt").write_text("#\n")
    with pytest.raises(ConfigError, match="toxicity: no words in the lists"):
        Toxicity(lists=[tmp_path / "none.txt"])([""])
    with pytest.raises(ConfigError, match=r"toxicity: .*no\.txt cannot be read"):
        Toxicity(lists=[tmp_path / "no.txt"]).refuse_missing_columns([])


def precision_and_recall(words, rows):
    hits = [(bool(words.found_in(text)), bad) for text, bad in rows]
    right = sum(hit and bad for hit, bad in hits)
    return right / sum(hit for hit, _ in hits), right / sum(bad for _, bad in hits)


@pytest.fixture(scope="module")
def published(shared):
    """A published list, in both of its languages."""
    folder = shared / "data/ldnoobw"
    return {name: (folder / name).read_text(encoding="utf-8").splitlines() for name in ("en", "zh")}


@pytest.mark.shared
def test_tweets(shared, published):
    with gzip.open(shared / "data/hate-offensive/labeled_data.csv.gz", "rt", encoding="utf-8") as file:
        rows = [(row["tweet"], row["class"] != "2") for row in csv.DictReader(file)][:2000]
    precision, recall = precision_and_recall(WordList(published["en"]), rows)
    assert precision > 0.97
    assert recall > 0.74
    _, as_listed = precision_and_recall(WordList(published["en"], disguised=False, endings=False), rows)
    assert recall > as_listed + 0.01


@pytest.mark.shared
def test_hatecheck(shared, published):
    with (shared / "data/hatecheck/test_suite_cases.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    words, listed = WordList(published["en"]), WordList(published["en"], disguised=False)
    for name, more in (("spell_leet_h", 30), ("spell_space_add_h", 50)):
        texts = [row["test_case"] for row in rows if row["functionality"] == name]
        found = [sum(bool(each.found_in(text)) for text in texts) for each in (listed, words)]
        assert found[1] >= found[0] + more
    identities = [row["test_case"] for row in rows if row["functionality"] in ("ident_neutral_nh", "ident_pos_nh")]
    assert not any(words.found_in(text) for text in identities)  # naming a group is no abuse


@pytest.mark.shared
def test_innocent_texts(shared, published):
    lines = (shared / "data/gsm8k/test.jsonl").read_text(encoding="utf-8").splitlines()[:600]
    assert sum(bool(abuse_in(json.loads(line)["question"])) for line in lines) == 0
    with gzip.open(shared / "data/thucnews-titles/test.txt.gz", "rt", encoding="utf-8") as file:
        titles = file.read().splitlines()[:3000]
    assert sum(bool(abuse_in(title)) for title in titles) <= 2
    mine = {word.casefold() for word in (*ENGLISH, *CHINESE)}
    assert len(mine & set(published["en"] + published["zh"])) < len(mine)  # a list of kedge's own
