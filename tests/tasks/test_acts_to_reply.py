"""Acts in replies: dialogues as they are published, and what replies are worth."""

import json

import pytest

from kedge.data.records import read_prompts
from kedge.errors import DataError
from kedge.evaluation.evaluate import judge_answers
from kedge.sampling.completion import Completion
from kedge.tasks.acts_to_reply import ActsToReply, coverage, delexicalised, slot_errors, truth_of

DUE = {"values": ["address", "check_in_date"], "do": ["number_of_adults"]}
GOOD = "The house is at ADDRESS from CHECKINDATE. How many people?"


def act(kind, slot="", *values):
    return {"act": kind, "slot": slot, "values": list(values), "canonical_values": []}


def turn(who, text, *acts):
    return {"speaker": who, "utterance": text, "frames": [{"service": "Hotels_2", "actions": list(acts), "slots": []}]}


def dialogue(name, *turns):
    return {"dialogue_id": name, "services": ["Hotels_2"], "turns": list(turns)}


def write(folder, *dialogues):
    (folder / "dev_dialogues_001.json").write_text(json.dumps(dialogues, indent=1))
    return ActsToReply(folder)


OFFER = (
    turn(
        "USER", "A house in Paris, please.", act("INFORM", "where_to", "Paris"), act("INFORM_INTENT", "intent", "Find")
    ),
    turn(
        "SYSTEM",
        "1 Rue Bayard, rated 4.5, is one of 10. It has no laundry; which day do you check in?",
        act("OFFER", "address", "1 Rue Bayard"),
        act("OFFER", "rating", "4.5"),
        act("INFORM_COUNT", "count", "10"),
        act("INFORM", "has_laundry_service", "False"),
        act("REQUEST", "check_in_date"),
    ),
)


def test_turns_are_rows(tmp_path):
    task = write(tmp_path, dialogue("1_00000", *OFFER))
    [row] = task._turns
    assert task.prompt(row) == (
        "A house in WHERETO, please.\n"
        "offer ADDRESS RATING; inform_count COUNT; inform has_laundry_service no; request check_in_date\n=>"
    )
    assert (
        task.demonstration(row)
        == " ADDRESS, rated RATING, is one of COUNT. It has no laundry; which day do you check in?"
    )
    assert row["due"] == {"values": ["address", "rating", "count"], "do": ["check_in_date"]}
    assert row["truths"] == {"has_laundry_service": "no"}
    assert slot_errors(row["reference"], row["due"], row["truths"]) == 0
    assert slot_errors(task.baseline(row), row["due"], row["truths"]) == 0


def test_a_dialogue_is_in_one_split_and_so_is_what_is_asked(tmp_path):
    bye = turn("USER", "No.", act("NEGATE")), turn("SYSTEM", "Bye.", act("GOODBYE"))
    own = [
        (
            turn("USER", f"House {'a' * n}.", act("INFORM_INTENT", "intent", "Find")),
            turn("SYSTEM", "?", act("REQ_MORE")),
        )
        for n in range(40)
    ]
    task = write(tmp_path, *(dialogue(f"1_{n:05}", *turns, *bye) for n, turns in enumerate(own)))
    train, held = (list(task.rows(split)) for split in ("train", "eval"))
    assert held
    assert not {task.group(row) for row in train} & {task.group(row) for row in held}
    assert not {task.prompt(row) for row in train} & {task.prompt(row) for row in held}
    assert len([row for row in train if row["acts"] == "goodbye"]) > 1


@pytest.mark.parametrize(
    ("text", "errors"),
    [
        (GOOD, 0),
        ("For what number of people is ADDRESS, CHECKINDATE?", 0),
        ("The house is at ADDRESS. How many people?", 1),
        (f"{GOOD} ADDRESS", 1),  # said twice
        (f"{GOOD} PHONENUMBER", 1),  # nobody asked for it
        (f"{GOOD} PHONENUMBER PHONENUMBER", 1),
        ("The house is at ADDRESS from CHECKINDATE.", 1),
        ("How many people?", 2),
        ("", 3),
        ("ADDRESS " * 30, 3),
        ("address from checkindate, how many?", 2),
        ("Das Haus ist in der ADDRESS.", 2),
        ("ADDRESSES CHECKINDATES how many", 4),
    ],
)
def test_slot_errors(text, errors):
    assert slot_errors(text, DUE, {}) == errors


@pytest.mark.parametrize(
    ("text", "truth"),
    [
        ("Yes, it has a laundry.", "yes"),
        ("There is no laundry service.", "no"),
        ("It doesn't have laundry service.", "no"),
        ("No, thanks. The laundry is in the cellar.", "yes"),
        ("The house has a garden.", ""),
        ("There is laundry. There is no laundry.", "no"),
        ("", ""),
    ],
)
def test_what_is_told_of_a_house(text, truth):
    assert truth_of(text, "has_laundry_service") == truth
    wrong = [slot_errors(text, {"values": [], "do": []}, {"has_laundry_service": right}) for right in ("yes", "no")]
    assert wrong == [int(truth != "yes"), int(truth != "no")]


@pytest.mark.parametrize(
    ("what", "right", "wrong"),
    [
        ("goodbye", "Have a nice day!", "Which city?"),
        ("req_more", "Anything else?", "Bye."),
        ("notify_success", "All booked for you!", "I am looking."),
        ("offer_intent", "Shall I buy the tickets?", "Hello."),
        ("where_to", "Where do you want to stay?", "When?"),
        ("check_in_date", "When are you checking in?", "When are you checking out?"),
        ("check_out_date", "When will you leave?", "When will you arrive?"),
        ("number_of_seats", "How many tickets?", "Which tickets?"),
        ("star_rating", "Of what rating?", "Of what price?"),  # by its name
    ],
)
def test_what_is_done_and_asked_for(what, right, wrong):
    assert slot_errors(right, {"values": [], "do": [what]}, {}) == 0
    assert slot_errors(wrong, {"values": [], "do": [what]}, {}) == 1


def test_the_reward(tmp_path):
    task = write(tmp_path, dialogue("1_00000", *OFFER))
    answers = [GOOD, f"{GOOD} " * 3, "ADDRESS CHECKINDATE many how many", "ADDRESS.", ""]
    row = {"prompt": "?", "due": DUE, "truths": {}, "reference": GOOD}
    said = [Completion([], [], [], text, "eos") for text in answers]
    judged = judge_answers(read_prompts([row] * len(answers)), said, task.judges()).scores["score"]
    parts = coverage([""] * 5, answers, due=[DUE] * 5, truths=[{}] * 5)
    assert parts == pytest.approx([1.0, 1 / 3, 1.0, 1 / 3, 0.0])
    assert judged[0] == pytest.approx(1.5)
    assert judged[2] < 1.1  # words beside each other
    assert sorted(judged, reverse=True)[:2] == [judged[0], judged[2]]
    assert judged[4] == 0.0


def test_measures_of_all_answers(tmp_path):
    task = write(tmp_path, dialogue("1_00000", *OFFER))
    rows = [{"due": DUE, "truths": {}, "reference": GOOD}, {"due": {"values": ["time"], "do": []}, "truths": {}}]
    rows[1]["reference"] = "It is at TIME today ."
    said = [task.read(row, text) for row, text in zip(rows, [GOOD, ""], strict=True)]
    found = task.measures(rows, said)
    assert found["slot_error_rate"] == pytest.approx(1 / 4)
    assert 0.5 < found["bleu"] < 1.0


def test_delexicalising():
    values = {"count": "1", "address": "1 Rue Bayard", "total_price": "$1,116"}
    assert delexicalised("1 Rue Bayard: 1  house for $1,116, not 11.", values) == (
        "ADDRESS: COUNT house for TOTALPRICE, not 11."
    )
    assert delexicalised("for $1", {"count": "1"}) == "for $1"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[\n{"dialogue_id": "1"}\n]', r"line 2: no dialogue: KeyError: 'turns'; write dialogue_id, and turns of"),
        ("[\n\n7]", "line 3: no dialogue: TypeError"),
        ('{"turns": []}', r"line 1: a dict and no list; write \[ \.\.\. \] around its items"),
        ("[\n1,\n]", "line 3: is no JSON at column 1: .*; mend the file"),
        ("", "line 1: is no JSON"),
    ],
)
def test_a_file_that_is_none(tmp_path, text, said):
    (tmp_path / "dev_dialogues_001.json").write_text(text)
    with pytest.raises(DataError, match=rf"dev_dialogues_001\.json: {said}.*; a folder with dialogues"):
        ActsToReply(tmp_path).rows("train")


@pytest.mark.parametrize("acts", [[], [act("INFORM", "rating")]])
def test_a_turn_without_what_it_says(tmp_path, acts):
    task = write(tmp_path, dialogue("1_00000", turn("USER", "Hi"), turn("SYSTEM", "Hello.", *acts)))
    with pytest.raises(DataError, match=r"dev_dialogues_001\.json: line 2: no dialogue: (ValueError|IndexError)"):
        task.rows("train")


def test_a_folder_without_it_says_what_is_missing(tmp_path):
    with pytest.raises(DataError, match=r"has neither \*dialogues_\*\.json nor .*; a folder with dialogues"):
        ActsToReply(tmp_path).rows("train")


@pytest.mark.shared
def test_the_real_rows_and_the_baseline(shared):
    task = ActsToReply(shared / "data/sgd")
    held = list(task.rows("eval"))
    assert (len(task.rows("train")), len(held), len({task.group(row) for row in held})) == (692, 191, 29)
    rows = task._turns
    said = [task.read(row, row["reference"]) for row in rows]
    assert task.measures(rows, said)["slot_error_rate"] < 0.01  # people do what they had to
    assert [slot_errors(task.baseline(row), row["due"], row["truths"]) for row in held] == [0] * 191
