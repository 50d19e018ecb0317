"""Turns of an agent that sells tickets: as people rated them, and what answers are worth."""

import gzip
import json

import pytest

from kedge.errors import DataError
from kedge.tasks.tickets import Tickets, act_of, asked_of, delexicalised

HELLO = {"role": "agent", "text": "Hi, I'm moviebot."}
RESOLVE = {"role": "agent", "api": {"resolve_movie": {"name.movie": "Nope"}}}
RESOLVED = {"role": "api", "response": {"resolve_movie": {"name.movie": "Nope (R)"}}}
PLOT = {"role": "agent", "api": {"get_movie_attribute": {"name.movie": "Nope (R)", "attribute": "description.plot"}}}


def user(text):
    return {"role": "user", "text": text}


def say(text):
    return {"role": "agent", "text": text}


def rated(context, generation, reward, **other):
    return {
        "conversation_id": "dlg-1",
        "context": json.dumps(context),
        "generation": json.dumps(generation),
        "reward": reward,
        **other,
    }


def write(folder, *rows):
    (folder / "reward_00.json").write_text(json.dumps(rows, indent=1))
    return Tickets(folder)


def test_turns_are_rows(tmp_path):
    context = [HELLO, user("What is Nope about?"), RESOLVE, RESOLVED]
    (tmp_path / "reward_00.json").write_text(json.dumps([rated(context, PLOT, 1.0)]))
    with gzip.open(tmp_path / "reward_01.json.gz", "wt") as file:
        json.dump([rated([HELLO, user("Hi")], say("Which film?"), 0.0)], file)
    task = Tickets(tmp_path)
    first, second = task._rated
    assert task.prompt(first) == (
        "known: name.movie\nuser: what is MOVIE about?\nagent: resolve_movie name.movie\napi: name.movie 1\n=>"
    )
    assert task.demonstration(first) == " get_movie_attribute attribute=description.plot name.movie"
    assert (first["label"], second["label"]) == (1, 0)
    assert task.prompt(second) == "known: \nagent: hi, i'm moviebot.\nuser: hi\n=>"
    assert task.demonstration(second) == " say which film?"


def test_what_was_not_found_is_counted_as_nothing():
    for value, count in (("empty", 0), ("Nope _NOT_PLAYING", 0), (["Nope", "Scream"], 2), ([], None)):
        turns = [HELLO, user("Nope?"), RESOLVE, {"role": "api", "response": {"find_movies": {"name.movie": value}}}]
        assert asked_of(turns).endswith("api: " if count is None else f"api: name.movie {count}")


def test_delexicalising():
    turns = [RESOLVED, {"role": "api", "response": {"find_theaters": {"name.theater": ["AMC 20", "AMC 20 Plaza"]}}}]
    said = delexicalised("NOPE (R) and nope at AMC 20  Plaza or AMC 20. Nopes?".replace("  ", " "), turns)
    assert said == "MOVIE and MOVIE at THEATER or THEATER. nopes?"


def conversations(count):
    """Each has an opening of its own, a rated first turn, and a rated second one."""
    for n in range(count):
        first = [HELLO, user(f"Is {'a' * (n + 1)} playing?")]
        yield rated(first, say(f"yes {n}"), n % 2)
        yield rated([*first, RESOLVED, say("Yes."), user("thanks")], say(f"bye {'b' * n}"), 1 - n % 2)


def test_a_conversation_is_in_one_split_and_so_is_what_is_asked(tmp_path):
    """Though its turns have different ids, as published, and end alike."""
    rows = [{**row, "conversation_id": f"dlg-{n}"} for n, row in enumerate(conversations(60))]
    task = write(tmp_path, *rows)
    train, held = (task.rows(split) for split in ("train", "eval"))
    assert held
    assert {row["label"] for row in held} == {1}
    assert {row["label"] for row in train} == {0, 1}
    assert not {row["opening"] for row in train} & {row["opening"] for row in held}
    assert not {task.prompt(row) for row in train} & {task.prompt(row) for row in held}


def test_an_opening_is_one_in_any_spelling(tmp_path):
    task = write(tmp_path, *(rated([HELLO, user(text)], RESOLVE, 1) for text in ("Is Nope on?", "is nope on")))
    assert len({task.group(row) for row in task._rated}) == 1


def test_pairs_are_of_what_people_labelled_in_like_contexts(tmp_path):
    rows = []
    for n in range(40):
        opening = [HELLO, user(f"{'q' * (n + 1)}?")]
        rows += [
            rated([*opening, say("When?"), user("today please")], say(f"good {n}"), 1),
            rated([*opening, say("When?"), user("today please")], say(f"good {(n + 1) % 40}"), 0),
            rated([*opening, say("How many?"), user("three tickets")], say("bad"), 0),
        ]
    task = write(tmp_path, *rows)
    pairs = task.preferences("train")
    good = [row for row in task.rows("train") if row["label"] == 1]
    assert len(pairs) == 4 * len(good)
    for pair in pairs:
        (asked, chosen), (other, rejected) = (pair[key].split("\n=>") for key in ("chosen", "rejected"))
        assert asked == other == "known: \nagent: when?\nuser: today please"
        assert chosen != rejected
    assert task.preferences("eval") == []  # all that was asked there is asked in training


def test_pairs_of_held_out_conversations_are_apart(tmp_path):
    task = write(tmp_path, *conversations(60))
    train, held = (task.preferences(split) for split in ("train", "eval"))
    assert held
    assert not {row["chosen"].split("\n=>")[0] for row in train} & {row["chosen"].split("\n=>")[0] for row in held}


@pytest.mark.parametrize(
    ("answer", "act"),
    [
        (" find_theaters name.movie location", "find_theaters location name.movie"),
        (" say find_theaters location", "say"),
        ("", ""),
        ("saying", "saying"),
        (" find_theaters location location", "find_theaters location location"),
        (" 好", "好"),
    ],
)
def test_what_an_answer_does(answer, act):
    assert act_of(answer) == act


def test_what_answers_are_worth(tmp_path):
    task = write(tmp_path, *conversations(2))
    rows = [{"answer": "find_theaters location name.movie"}, {"answer": "say which film do you want?"}]

    def worth(*answers):
        return task.measures(rows, [task.read(row, answer) for row, answer in zip(rows, answers, strict=True)])

    right = worth(" find_theaters name.movie location", " say which film do you want?")
    assert right == pytest.approx({"act": 1.0, "api": 1.0, "text_bleu": 1.0})
    near = worth(" find_theaters location", " say no")
    assert (near["act"], near["api"]) == (0.5, 1.0)
    assert near["text_bleu"] < 0.1
    every = " find_theaters location name.movie say resolve_movie find_movies"
    assert worth(every, every)["act"] == 0.0
    assert worth("", "")["api"] == 0.0
    assert "text_bleu" not in task.measures(rows[:1], [task.read(rows[0], "say x")])


def test_the_baseline_is_the_good_turn_to_what_is_most_similar(tmp_path):
    rows = []
    for n in range(30):
        opening = [HELLO, user(f"{'q' * (n + 1)}?")]
        rows += [
            rated([*opening, say("When?"), user(f"today {n}")], say("today it is"), 1),
            rated([*opening, say("How many?"), user(f"tickets {n}")], say("so many"), 1),
            rated([*opening, say("How many?"), user(f"tickets {n} !")], say("no"), 0),
        ]
    task = write(tmp_path, *rows)
    held = task.rows("eval")
    assert {row["answer"] for row in held} == {"say today it is", "say so many"}
    assert [task.baseline(row) for row in held] == [f" {row['answer']}" for row in held]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (rated([HELLO, user("Hi")], say("Hi"), 0.5), "reward 0.5 is neither 0 nor 1; mend the line"),
        (rated([HELLO, user("Hi")], say("Hi"), None), "reward None is neither"),
        (rated([HELLO], say("Hi"), 1), "no rated turn: StopIteration"),
        (rated([HELLO, user("Hi")], {"role": "agent"}, 1), "no rated turn: KeyError: 'text'; write context and"),
        (rated([HELLO, user("Hi")], {"api": {"a": {}, "b": {}}}, 1), "no rated turn: ValueError"),
        ({"context": "[", "generation": "{}", "reward": 1}, "no rated turn: JSONDecodeError"),
        ({"generation": "{}", "reward": 1}, "no rated turn: KeyError: 'context'"),
        ("hello", "no rated turn: TypeError"),
    ],
)
def test_a_row_that_is_none(tmp_path, row, said):
    fine = json.dumps(rated([HELLO, user("Hi")], say("Hi"), 1))
    (tmp_path / "reward_00.json").write_text(f"[\n{fine},\n{json.dumps(row)}\n]")
    with pytest.raises(DataError, match=rf"reward_00\.json: line 3: {said}.*; the folder of rated TicketTalk"):
        Tickets(tmp_path).rows("train")


def test_a_folder_without_it_says_what_is_missing(tmp_path):
    with pytest.raises(DataError, match=r"has neither reward_\*\.json nor reward_\*\.json\.gz; the folder of rated"):
        Tickets(tmp_path).rows("train")


@pytest.mark.shared
def test_the_real_rows_and_the_baseline(shared):
    task = Tickets(shared / "data/taskmaster3-reward")
    train, held = (task.rows(split) for split in ("train", "eval"))
    assert (len(train), len(held), len({row["opening"] for row in held})) == (2757, 113, 20)
    assert sum(row["label"] for row in train) == 453
    acts = task.measures(held, [task.read(row, task.baseline(row)) for row in held])["act"]
    assert 0.35 < acts < 0.5
