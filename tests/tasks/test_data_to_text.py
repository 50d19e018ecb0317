"""Facts in sentences: rows as E2E NLG publishes them, and what sentences are worth."""

import gzip

import pytest
import sacrebleu

from kedge.data.records import read_prompts
from kedge.errors import DataError
from kedge.evaluation.evaluate import judge_answers
from kedge.sampling.completion import Completion
from kedge.tasks.corpus_bleu import corpus_bleu, counts_of
from kedge.tasks.data_to_text import DataToText, coverage, delexicalised, facts_of, slot_errors

HEADER = "mr,ref\n"
TRAINED = """"name[Aromi], eatType[pub], area[riverside]","Aromi is a pub by the river."
"name[Cotto], eatType[coffee shop], area[riverside]","In riverside, Cotto is a coffee shop."
"name[Cotto], food[Chinese], area[city centre]","Cotto has Chinese food."
"""
HELD = '"name[The Mill], food[Fast food], area[city centre]","The Mill sells fast food in the city centre."\n'

FACTS = {"name": "NAME", "eatType": "KIND", "customer rating": "3 out of 5", "familyFriendly": "no"}


@pytest.fixture
def e2e(tmp_path):
    (tmp_path / "devset.csv").write_text(HEADER + TRAINED, encoding="utf-8")
    with gzip.open(tmp_path / "testset_w_refs.csv.gz", "wt", encoding="utf-8") as file:
        file.write(HEADER + HELD)
    return DataToText(tmp_path)


def test_sets_of_facts_are_rows(e2e):
    [held] = e2e.rows("eval")
    assert held == {
        "facts": {"name": "NAME", "food": "FOOD", "area": "city centre"},
        "reference": ["NAME sells FOOD in the city centre."],
    }
    shown = list(e2e.rows("train"))
    assert [row["shown"] for row in shown] == ["NAME is a KIND by the river.", "In riverside, NAME is a KIND."]
    assert shown[0]["reference"] == shown[1]["reference"] == [row["shown"] for row in shown]
    assert e2e.prompt(shown[0]) == "name NAME, eatType KIND, area riverside\n=>"
    assert e2e.demonstration(shown[0]) == " NAME is a KIND by the river."


def test_what_is_held_out_is_not_trained_on(e2e):
    asked = {row["prompt"] for row in e2e.prompts("eval")}
    trained = {row["prompt"] for row in e2e.prompts("train")}
    assert asked
    assert not asked & trained


@pytest.mark.parametrize(
    ("text", "errors"),
    [
        ("NAME is a KIND with a customer rating of 3 out of 5, and not family-friendly.", 0),
        ("The three star KIND NAME does not welcome children.", 0),
        ("NAME is a 3 out of 5 rated KIND for adults only.", 0),
        ("NAME is a KIND.", 2),
        ("NAME is a family-friendly KIND rated 3 out of 5.", 1),  # the wrong value
        ("NAME is a KIND rated 3 out of 5 near NEAR, with FOOD food; no kids.", 2),  # two that nobody knows
        ("NAME is a cheap KIND by the river, rated 3 out of 5. It is not for families.", 2),
        ("NAME KIND 1 out of 5 3 out of 5 5 out of 5 low average high families not families", 1),
        ("", 4),
        ("NAME " * 30, 3),
        ("NAME ist eine Kneipe.", 3),
        ("Named KINDLY", 4),
        ("NAME is not a KIND, not rated 3 out of 5, and not family-friendly.", 2),  # both denied
        ("NAME is a KIND, average, with a rating of 3 out of 5, for adults.", 0),  # the word besides the number
        ("NAME is an average KIND for adults.", 1),  # the word alone
        ("NAME is a KIND with 3 out of 5 stars, unsuitable for children.", 0),
        ("NAME is a KIND with 3 out of 5  stars. It is not cheap and family-friendly.", 1),
    ],
)
def test_slot_errors(text, errors):
    assert slot_errors(text, FACTS) == errors


@pytest.mark.parametrize(
    ("slot", "value", "texts"),
    [
        ("priceRange", "cheap", ["a cheap place", "It has low prices.", "inexpensive"]),
        ("priceRange", "high", ["an expensive place", "high-priced", "The price range is high."]),
        ("priceRange", "less than £20", ["for less than £20", "under £20"]),
        ("priceRange", "£20-25", ["prices of £20-25", "from £20 to £25"]),
        ("customer rating", "low", ["low customer rating", "It is rated low.", "poor"]),
        ("customer rating", "high", ["highly rated", "a high customer rating"]),
        ("customer rating", "average", ["an average rating"]),
        ("area", "city centre", ["in the center of the city", "central"]),
        ("priceRange", "cheap", ["is not expensive", "is low in price", "isn't too expensive", "has a low price"]),
        ("priceRange", "less than £20", ["costs less than 20 pounds", "£20 or less", "is cheap, under £20"]),
        ("priceRange", "more than £30", ["above 30 euros", "has high prices of £30 or more"]),
        ("priceRange", "moderate", ["has average prices", "The prices are average.", "is fairly priced"]),
        ("customer rating", "high", ["Customers rate it highly.", "is highly recommended", "has top-rated dishes"]),
        ("customer rating", "low", ["has a low rating", "Customers rate it poorly.", "has low reviews"]),
        ("customer rating", "average", ["has moderate ratings"]),
        ("familyFriendly", "yes", ["good for kids", "family friendly", "not cheap but family-friendly"]),
        ("familyFriendly", "no", ["child free", "unsuitable for children", "for adults", "Don't bring the kids."]),
        ("familyFriendly", "no", ["non family-friendly", "Families are not welcome.", "isn't for children"]),
    ],
)
def test_ways_to_say_a_value(slot, value, texts):
    assert [slot_errors(f"NAME {text}", {"name": "NAME", slot: value}) for text in texts] == [0] * len(texts)


@pytest.mark.parametrize(
    "text",
    [
        "is not near NEAR",
        "isn't close to NEAR",
        "is not cheap",
        "is not by the river",
        "has no FOOD",
        "doesn't serve FOOD",
    ],
)
def test_what_is_denied_is_not_said(text):
    """Neither the fact nor another: what is asked for is an error, what is not asked for is none."""
    facts = {"near": "NEAR", "priceRange": "cheap", "area": "riverside", "food": "FOOD"}
    assert slot_errors(f"NAME {text}.", {"name": "NAME"}) == 0
    assert slot_errors(f"NAME {text}.", {"name": "NAME", **facts}) == 4


def test_words_beside_each_other_are_for_bleu_to_punish(e2e):
    facts = {"name": "NAME", "near": "NEAR", "eatType": "KIND", "food": "FOOD", "area": "riverside"}
    facts |= {"priceRange": "cheap", "customer rating": "high", "familyFriendly": "yes"}
    salad, good = "NAME NEAR KIND FOOD river cheap high rat family", "NAME is a cheap KIND near NEAR by the river."
    assert slot_errors(salad, facts) == 0
    prompts = read_prompts(
        [{"prompt": "?", "facts": facts, "reference": [f"{good} Families rate its FOOD highly."]}] * 2
    )
    answers = [Completion([], [], [], text, "eos") for text in (salad, f"{good} Its FOOD is rated high by families.")]
    bad, fine = judge_answers(prompts, answers, e2e.judges()).scores["score"]
    assert bad < 1.05
    assert fine > 1.2


def test_the_reward(e2e):
    good = "NAME is a KIND rated 3 out of 5 for adults only."
    answers = [good, f"{good} " * 3, "NAME is a KIND.", "", "NAME, KIND, three star, adults only", "Das NAME ist gut."]
    prompts = read_prompts([{"prompt": "?", "facts": FACTS, "reference": [good]}] * len(answers))
    judged = judge_answers(prompts, [Completion([], [], [], text, "eos") for text in answers], e2e.judges()).scores
    assert coverage([""] * 6, answers, facts=[FACTS] * 6) == [1.0, 1.0, 0.5, 0.0, 1.0, 0.25]
    assert judged["score"][0] == pytest.approx(1.5)
    assert sorted(judged["score"], reverse=True)[:3] == [judged["score"][i] for i in (0, 1, 4)]
    assert judged["score"][1] < 1.4  # said three times
    assert judged["score"][3] == 0.0


def test_delexicalising():
    facts = facts_of("name[The Mill], near[Café Rouge], food[Fast food]")
    assert facts == {"name": "The Mill", "near": "Café Rouge", "food": "Fast food"}
    said = delexicalised("The mill sells fast food by Café Rouge; the Millers do not.", facts)
    assert said == "NAME sells FOOD by NEAR; the Millers do not."


def test_measures_of_all_answers(e2e):
    answers = ["NAME sells FOOD in the city centre.", "NAME is in the centre of the city and sells food."]
    [row] = e2e.rows("eval")
    rows = [row, {**row, "reference": ["The NAME does.", "NAME is in the city and sells FOOD."]}]
    said = [e2e.read(one, answer) for one, answer in zip(rows, answers, strict=True)]
    references = [
        [rows[0]["reference"][0], rows[1]["reference"][0]],
        [rows[0]["reference"][0], rows[1]["reference"][1]],
    ]
    bleu = sacrebleu.corpus_bleu(answers, references).score / 100
    assert e2e.measures(rows, said) == pytest.approx({"slot_error_rate": 1 / 6, "bleu": bleu})


def test_bleu_of_several_is_no_mean():
    both = [counts_of("a b c d e", ["a b c d e"]), counts_of("x y z v w", ["a b c d e"])]
    # 5 of 10, 4 of 8, 3 of 6 and 2 of 4 n-grams are right.
    assert corpus_bleu(both) == pytest.approx(0.5)


def test_a_folder_without_it_says_what_is_missing(tmp_path):
    with pytest.raises(DataError, match=r"neither testset_w_refs\.csv nor testset_w_refs\.csv\.gz; the folder of E2E"):
        next(iter(DataToText(tmp_path).rows("train")))
    (tmp_path / "testset_w_refs.csv").write_text("text\nhello\n")
    with pytest.raises(DataError, match=r"testset_w_refs\.csv: line 1: has no column 'mr', but 'text'"):
        next(iter(DataToText(tmp_path).rows("eval")))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("name The Mill,It is there.", r"line 3: column 'mr' has no name\[\.\.\.\]: 'name The Mill'; write facts as"),
        ('"area[riverside]",It is there.', r"line 3: column 'mr' has no name"),
        ("name[The Mill],", "line 3: nothing in column 'ref'"),
        (",It is there.", "line 3: nothing in column 'mr'"),
        ("name[The Mill]", "line 3: nothing in column 'ref'"),
        ('"name[The Mill]" x,"It', "is no CSV in or behind line 2: .*; mend its quotes"),
    ],
)
def test_a_row_that_is_none(tmp_path, line, said):
    (tmp_path / "testset_w_refs.csv").write_text(f"{HEADER}{HELD}{line}\n")
    with pytest.raises(DataError, match=rf"testset_w_refs\.csv: {said}.*; the folder of E2E"):
        list(DataToText(tmp_path).rows("eval"))


@pytest.mark.shared
def test_the_real_rows_and_the_baseline(shared):
    e2e = DataToText(shared / "data/e2e-nlg")
    held = list(e2e.rows("eval"))
    assert len(held) == 96
    assert sum(len(row["reference"]) for row in held) == 4693
    assert len(list(e2e.rows("train"))) == 3891
    assert [slot_errors(e2e.baseline(row), row["facts"]) for row in held] == [0] * 96
    errors = [slot_errors(text, row["facts"]) > 0 for row in held for text in row["reference"]]
    assert sum(errors) / 4693 == pytest.approx(0.405, abs=0.005)  # people leave facts out, and get some wrong
    whole = [row for row in held if len(row["facts"]) == 8]
    assert e2e.baseline(whole[0]).startswith(" NAME is a non-family-friendly FOOD KIND in the city centre near")
