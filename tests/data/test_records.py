"""Prompts, demonstrations and preferences from rows, in every form that is allowed, and errors for the rest."""

from collections import Counter

import pytest

from kedge.data.files import Row
from kedge.data.records import (
    Demonstration,
    Preference,
    demonstrations,
    held_out,
    joined,
    plain,
    preferences,
    prompts,
    read_prompts,
)
from kedge.errors import DataError

USER, BOT, AGAIN = ({"role": r, "content": c} for r, c in (("user", "hi"), ("assistant", "yes"), ("assistant", "no")))

SYSTEM = {"role": "system", "content": "be kind"}


def says(content):
    return {"role": "assistant", "content": content}


def rows(*columns):
    return [Row(c, f"f.jsonl: row {i}") for i, c in enumerate(columns, start=1)]


def test_prompts_and_what_travels_along():
    text, chat = prompts(rows({"prompt": "hi", "answer": 4}, {"prompt": [USER], "x": None}))
    assert (text.text, text.columns, text.origin) == ("hi", {"answer": 4}, "f.jsonl: row 1")
    assert (chat.text, chat.columns, chat.origin) == ([USER], {"x": None}, "f.jsonl: row 2")


def test_every_prompt_has_the_columns_of_all():
    found = read_prompts([{"prompt": "a", "answer": 4}, {"prompt": "b", "level": 1}])
    assert [prompt.columns for prompt in found] == [{"answer": 4, "level": None}, {"answer": None, "level": 1}]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "a", "completion": "b"}, ("a", "b")),
        ({"prompt": [USER], "completion": [BOT]}, ([USER], [BOT])),
        ({"prompt": [USER], "completion": "yes"}, ([USER], [BOT])),
        ({"messages": [USER, BOT, USER, AGAIN]}, ([USER, BOT, USER], [AGAIN])),
        ({"messages": [USER, BOT, AGAIN]}, ([USER, BOT], [AGAIN])),
        ({"prompt": [USER, BOT], "completion": "!"}, ([USER, BOT], [says("!")])),
        ({"text": "all of it"}, ("", "all of it")),
        ({"text": "not this", "prompt": "a", "completion": "b"}, ("a", "b")),
    ],
)
def test_demonstrations(row, expected):
    [found] = demonstrations(rows(row))
    assert found == Demonstration(*expected, origin="f.jsonl: row 1", begins_a_turn="messages" in row)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "a ", "chosen": "b", "rejected": "c"}, ("a b", "a c")),
        ({"chosen": "a b", "rejected": "a c"}, ("a b", "a c")),
        ({"prompt": [USER], "chosen": [BOT], "rejected": [AGAIN]}, ([USER, BOT], [USER, AGAIN])),
        ({"prompt": [USER], "chosen": "yes", "rejected": "no"}, ([USER, BOT], [USER, AGAIN])),
        ({"chosen": [USER, BOT], "rejected": [USER, AGAIN]}, ([USER, BOT], [USER, AGAIN])),
        ({"prompt": [USER, BOT], "chosen": "!", "rejected": [AGAIN]}, ([USER, says("yes!")], [USER, says("yesno")])),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "label": 1}, ("ab", "ac")),
        ({"prompt": "hi", "chosen": [USER, BOT], "rejected": [USER, AGAIN]}, ([USER, BOT], [USER, AGAIN])),
        ({"prompt": [USER], "chosen": [USER, BOT], "rejected": [USER, AGAIN]}, ([USER, BOT], [USER, AGAIN])),
        (
            {"prompt": [SYSTEM, USER], "chosen": [USER, BOT], "rejected": [AGAIN]},
            ([SYSTEM, USER, BOT], [SYSTEM, USER, AGAIN]),
        ),
        (
            {"prompt": "hi ", "chosen": [SYSTEM, USER, BOT], "rejected": [USER, AGAIN]},
            ([SYSTEM, USER, BOT], [USER, AGAIN]),
        ),
        (  # answers that happen to begin like the prompt are answers
            {"prompt": [USER, BOT, USER], "chosen": [BOT], "rejected": [AGAIN]},
            ([USER, BOT, USER, BOT], [USER, BOT, USER, AGAIN]),
        ),
        ({"prompt": "a", "chosen": "a b", "rejected": "a c"}, ("aa b", "aa c")),  # text says nothing of where it begins
    ],
)
def test_preferences(row, expected):
    assert preferences(rows(row)) == [Preference(*expected, origin="f.jsonl: row 1")]


@pytest.mark.parametrize(
    ("read", "row", "message"),
    [
        (prompts, {"text": "a"}, "no column 'prompt'; columns there are: text"),
        (prompts, {"prompt": None}, "empty column 'prompt'"),
        (prompts, {"prompt": ""}, "column 'prompt' is empty"),
        (prompts, {"prompt": 3}, "'prompt' must be text or a list of messages .*not int: '3'"),
        (prompts, {"prompt": []}, "'prompt' must be text or a list of messages"),
        (prompts, {"prompt": [{"role": "user"}]}, "'prompt' must be text or a list of messages"),
        (prompts, {"prompt": ["hi"]}, "'prompt' must be text or a list of messages"),
        (demonstrations, {"prompt": "a"}, "no column 'completion'"),
        (demonstrations, {"messages": [BOT, USER]}, "ends with role 'assistant'"),
        (demonstrations, {"messages": "a"}, "must be a list of messages"),
        (demonstrations, {"prompt": "a", "completion": [BOT]}, "'prompt' is text but 'completion' is messages"),
        (preferences, {"chosen": "a"}, "no column 'rejected'"),
        (preferences, {"chosen": "a", "rejected": [BOT]}, "must both be text or both be messages"),
        (preferences, {"prompt": "a", "chosen": [BOT], "rejected": "b"}, "'prompt' is text but 'chosen' is messages"),
        (
            preferences,
            {"prompt": "yes", "chosen": [BOT], "rejected": [BOT]},
            "chosen' is messages, which do not begin",
        ),
        (preferences, {"prompt": None, "chosen": "a", "rejected": "b"}, "empty column 'prompt'"),
        (preferences, {"text": "a", "label": 2}, "label 2; labels are 1"),
        (preferences, {"text": "a", "label": 0.5}, r"label 0\.5; labels are 1"),
        (preferences, {"text": "a", "label": 1}, "all labels are alike"),
    ],
)
def test_errors_name_row_and_column(read, row, message):
    with pytest.raises(DataError, match=message) as error:
        read(rows(row))
    assert str(error.value).startswith("f.jsonl: ")


@pytest.mark.parametrize(("good", "bad"), [(3, 7), (7, 3), (4, 4), (1, 9)])
@pytest.mark.parametrize("kind", [int, str, float, bool, lambda x: str(float(x)), lambda x: str(bool(x))])
def test_labelled_pairs_use_every_row(good, bad, kind):
    labelled = rows(*({"text": f"{'gb'[i >= good]}{i}", "label": kind(i < good)} for i in range(good + bad)))
    labelled = [Row(r.columns | {"label": kind(int(r.columns["text"][0] == "g"))}, r.origin) for r in labelled]
    pairs = preferences(labelled, seed=1)
    assert len(pairs) == max(good, bad)
    assert {p.chosen for p in pairs} == {f"g{i}" for i in range(good)}
    assert {p.rejected for p in pairs} == {f"b{i}" for i in range(good, good + bad)}
    for side in (Counter(p.chosen for p in pairs), Counter(p.rejected for p in pairs)):
        assert max(side.values()) - min(side.values()) <= 1  # none is worn out
    assert preferences(labelled, seed=1) == pairs
    if min(good, bad) > 1:
        assert preferences(labelled, seed=2) != pairs


def test_held_out():
    items = [f"x{i}" for i in range(10)]
    train, test = held_out(items, 3, seed=0, what="f")
    assert (len(train), len(test)) == (7, 3)
    assert sorted(train + test) == items
    assert train == sorted(train)  # both stay in the file's order
    assert test == sorted(test)
    assert held_out(items, 3, seed=0, what="f") == (train, test)
    assert any(held_out(items, 3, seed=s, what="f") != (train, test) for s in range(1, 4))
    assert held_out(items, 0, seed=0, what="f") == (items, [])
    with pytest.raises(DataError, match=r"prompts: 10 rows; eval_size=10 leaves none to train on"):
        held_out(items, 10, seed=0, what="prompts")


def test_plain_and_joined():
    assert plain("a") == "a"
    assert plain([USER, BOT]) == "user: hi\nassistant: yes"
    assert joined("a", "b") == "ab"
    prompt = [USER]
    assert joined(prompt, "yes") == [USER, BOT]
    assert prompt == [USER]
    assert joined([USER, BOT], " sir") == [USER, says("yes sir")]  # one message, not two turns
    parts = [{"type": "text", "text": "yes"}]
    assert joined([USER, says(parts)], "!") == [USER, says([*parts, {"type": "text", "text": "!"}])]
