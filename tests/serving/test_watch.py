"""Patterns and words in a text while it grows: nothing leaves that is stopped, however it comes."""

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kedge.serving.guard.rules import Rules
from kedge.serving.guard.watch import Watch, finders


def watch_of(*rules, hold=None, on="answer", seconds=5.0):
    named = [{"name": f"r{i}", "do": "block"} | rule for i, rule in enumerate(rules)]
    return Watch(finders(Rules(rule=named).looking_at(on)), on, hold, seconds)


def streamed(watch, pieces):
    """The pieces that leave, of pieces that come; nothing more comes after what stops it."""
    left = []
    for piece in pieces:
        watch.hear(piece)
        left.append(watch.settle())
        if watch.stopped:
            return left
    return [*left, watch.end()]


def whole(text, *rules):
    watch = watch_of(*rules)
    watch.hear(text)
    watch.end()
    return watch


def splits(text, parts):
    """Every way to cut a text into so many pieces."""
    if parts == 1:
        yield [text]
        return
    for end in range(len(text) + 1):
        for rest in splits(text[end:], parts - 1):
            yield [text[:end], *rest]


SECRET = {"pattern": r"sk-\d{3}", "do": "replace", "message": "[key]"}


@pytest.mark.parametrize("rule", [SECRET, {"words": ["sk-123"], "do": "replace", "message": "[key]"}])
def test_a_pattern_in_pieces_never_leaves(rule):
    text = "a sk-123 b sk-4 sk-123"
    want = whole(text, rule)
    assert want.told == "a [key] b sk-4 [key]"
    for pieces in splits(text, 3):
        watch = watch_of(rule, hold=8)
        assert "".join(streamed(watch, pieces)) == watch.told == want.told
        assert watch.decisions == want.decisions
        assert watch.altered


def test_nothing_of_what_blocks_leaves():
    text = "one two sk-123 three"
    for pieces in splits(text, 3):
        watch = watch_of({"pattern": r"sk-\d{3}", "message": "[no]"}, hold=8)
        left = "".join(streamed(watch, pieces))
        assert left == watch.told
        assert left.endswith("[no]")
        assert "one two ".startswith(left.removesuffix("[no]"))
        assert watch.stopped.did == "block"


def test_what_has_left_is_as_far_behind_as_it_must_be_and_no_further():
    watch = watch_of({"words": ["zebra"]}, hold=6)
    text = "of lions and of tigers and of bears"
    for end in range(1, len(text) + 1):
        watch.hear(text[end - 1])
        watch.settle()
        assert watch.told == text[: max(0, end - 6)]
    assert watch.end() == text[-6:]


RULES = [
    {"pattern": "ab+", "do": "replace", "message": "<1>"},
    {"pattern": r"b\b", "do": "replace", "message": "<2>"},
    {"pattern": r"(?<=c)a(?!b)", "do": "replace", "message": ""},
    {"words": ["cab", "猫"], "do": "replace", "message": "<3>"},
    {"pattern": r"\bbcb", "do": "review"},
    {"pattern": "aaaa", "do": "block", "message": "<no>"},
    {"pattern": "c c c", "do": "replace", "whole": True, "message": "<whole>"},
]


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(text=st.text(alphabet="abc 猫", max_size=40), seed=st.integers(0, 2**32), kinds=st.integers(1, 2**7 - 1))
def test_a_stream_is_what_all_of_it_at_once_is(text, seed, kinds):
    """Where what is found fits into what is held: of any rules, in any pieces."""
    rules = [rule for i, rule in enumerate(RULES) if kinds >> i & 1]
    if re.search("b{9}", text):
        return
    want, pieces, rng = whole(text, *rules), [], random.Random(seed)
    while text:
        size = rng.randint(1, 6)
        pieces.append(text[:size])
        text = text[size:]
    watch = watch_of(*rules, hold=12)
    left = "".join(streamed(watch, pieces))
    assert left == watch.told
    assert [decision.told() for decision in watch.decisions] == [decision.told() for decision in want.decisions]
    if want.stopped is None:
        assert left == want.told
    else:
        assert left.endswith(want.told)


@pytest.mark.parametrize(
    ("words", "text", "told"),
    [
        (["cat"], "Cat, cats, bobcat and category: the CAT", "*, cats, bobcat and category: the *"),
        (["武器"], "这是武器吗", "这是*吗"),
        (["cat"], "我的cat很好", "我的*很好"),
        (["New York"], "new  york, newyork", "*, newyork"),
        (["café"], "cafe\u0301 cafe", "* cafe"),
        (["cafe"], "cafe\u0301 cafe", "cafe\u0301 *"),
        (["c++"], "c++ and c", "* and c"),
        (["straße"], "STRASSE", "*"),
        (["cat", "cat food"], "cat food", "*"),
    ],
)
def test_words_are_whole_ones(words, text, told):
    assert whole(text, {"words": words, "do": "replace", "message": "*"}).told == told


@pytest.mark.parametrize(
    ("pattern", "text", "told"),
    [
        ("secret", "a SECRET", "a *"),
        ("(?-i:Secret)", "secret Secret", "secret *"),
        (r"\d+(?= dollars)", "10 dollars, 20 euros", "* dollars, 20 euros"),
        ("^ab", "ab ab", "* ab"),
        ("a.b", "a\nb", "a\nb"),
    ],
)
def test_patterns_are_those_of_re_in_any_case(pattern, text, told):
    assert whole(text, {"pattern": pattern, "do": "replace", "message": "*"}).told == told


def test_where_two_overlap_nothing_of_either_stays():
    rules = [{"pattern": "abcd", "do": "replace", "message": "1"}, {"pattern": "cdef", "do": "replace", "message": "2"}]
    watch = whole("xabcdefx", *rules)
    assert watch.told == "x1x"
    assert [decision.rule.name for decision in watch.decisions] == ["r0", "r1"]


def test_what_reaches_into_the_held_waits_for_what_may_overlap_it():
    """The second one is as long as what is held, and begins within the first."""
    rules = [{"pattern": "abcd", "do": "replace", "message": "1"}, {"pattern": "cdefgh", "do": "replace"}]
    for pieces in splits("xabcdefghx", 3):
        assert "".join(streamed(watch_of(*rules, hold=6), pieces)) == "x1x"
    assert "".join(streamed(watch_of(*rules, hold=6), "xabcdefghx")) == "x1x"


def test_what_comes_first_in_the_text_stops_it():
    rules = [{"words": ["late"], "message": "1"}, {"words": ["early"], "message": "2"}, {"words": ["early"]}]
    watch = whole("an early and a late one", *rules)
    assert watch.told == "2"
    assert [decision.rule.name for decision in watch.decisions] == ["r1"]


@pytest.mark.parametrize(("on_error", "told"), [("block", "no"), ("pass", "x" * 3000)])
def test_a_pattern_that_takes_for_ever_is_stopped(on_error, told):
    slow = {"pattern": "(x+x+)+y", "message": "no", "on_error": on_error}
    watch = watch_of(slow, {"words": ["z"]}, seconds=0.2)
    watch.hear("x" * 3000)
    assert watch.end() == told
    [decision] = watch.decisions
    assert (decision.did, decision.reason) == (on_error, "the test failed: it took longer than 0.2 seconds")


def test_a_decision_tells_nothing_of_the_text():
    [decision] = whole("my secret", {"words": ["secret"]}).decisions
    assert decision.told() == {
        "rule": "r0", "on": "answer", "did": "block", "reason": "words found",
        "matched": "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b",
    }  # fmt: skip
