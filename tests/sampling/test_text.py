"""Text that grows with its tokens is the text that all of them together give."""

import random
from types import SimpleNamespace

import pytest
from transformers import AutoTokenizer

from kedge.data.encode import HALF, decode_answer
from kedge.sampling.local.request import Request
from kedge.sampling.local.text import GrowingText
from kedge.sampling.settings import Sampling

TEXTS = [
    "Once upon a time, there was a little ship. It had 3 sails!\n\nThe end.",
    "naïve 雪☃ 👩‍🚀 the  two  spaces\t\ttabs",
    "我在京东买了一台笔记本电脑，用了三天就坏了。",
    "مرحبا بالعالم  ไทย",
]


@pytest.fixture(params=["tiny", "gpt2", "stories3M"])
def tokenizer(request, tiny_tokenizer):
    if request.param == "tiny":
        return tiny_tokenizer
    if request.param == "gpt2":
        return request.getfixturevalue("gpt2_tokenizer")
    return AutoTokenizer.from_pretrained(request.getfixturevalue("shared") / "models/stories3M")


def grown(tokenizer, prompt, answer):
    """Every text on the way."""
    text = GrowingText(tokenizer, prompt)
    return [text.of(answer[: n + 1]) for n in range(len(answer))]


@pytest.mark.shared
@pytest.mark.parametrize("prompt", ["", "Once upon", "雪", "你好世界，你好", "a b c d e f g h i j k l m n o p q r s"])
@pytest.mark.parametrize("text", TEXTS)
def test_real_text_is_never_other_than_whole(tokenizer, prompt, text):
    """Where a character is not whole yet, a tokenizer that falls back to bytes makes halves of those before it too."""
    ids = tokenizer(prompt + text).input_ids
    start = len(tokenizer(prompt).input_ids)
    asked, answer = ids[:start] or ids[:1], ids[start:] if start else ids[1:]
    for n, so_far in enumerate(grown(tokenizer, asked, answer)):
        whole = decode_answer(tokenizer, asked, answer[: n + 1])
        assert so_far == whole or (whole.endswith(HALF) and so_far.startswith(whole.rstrip(HALF)))
    assert so_far == whole


@pytest.mark.shared
def test_special_tokens_inside_and_before_are_no_text_and_cost_no_space(tokenizer):
    special = tokenizer.all_special_ids
    words = tokenizer(" the cat sat on the mat").input_ids
    for seed in range(20):
        rng = random.Random(seed)
        ids = [rng.choice(special) if rng.random() < 0.3 else rng.choice(words) for _ in range(40)]
        asked, answer = [*ids[:4], *[special[0]] * rng.choice([0, 1, 30])], ids[4:]
        for n, so_far in enumerate(grown(tokenizer, asked, answer)):
            assert so_far == decode_answer(tokenizer, asked, answer[: n + 1])


@pytest.mark.parametrize("seed", range(30))
def test_bytes_in_any_order(tiny_tokenizer, seed):
    """Characters that are never whole, or whole at last, of a tokenizer of bytes."""
    rng = random.Random(seed)
    ids = [rng.choice(range(5, 300)) for _ in range(60)]
    for n, so_far in enumerate(grown(tiny_tokenizer, ids[:7], ids[7:])):
        whole = decode_answer(tiny_tokenizer, ids[:7], ids[7 : 7 + n + 1])
        assert so_far.rstrip(HALF) == whole.rstrip(HALF)


def test_what_is_decoded_does_not_grow_with_the_answer(tiny_tokenizer):
    decoded = []

    def decode(ids, **how):
        decoded.append(len(ids))
        return tiny_tokenizer.decode(ids, **how)

    ids = tiny_tokenizer("the cat sat on the mat " * 80).input_ids
    grown(SimpleNamespace(decode=decode), ids[:100], ids[100:])
    assert len(ids) > 500
    assert max(decoded) < 20


@pytest.mark.shared
@pytest.mark.parametrize("tail", [1, 2])
@pytest.mark.parametrize("text", ["看，你好雪", "雪雪雪", " a ☃"])
def test_an_answer_that_ends_inside_a_character_keeps_those_before_it(tokenizer, text, tail):
    """In one piece, and as it was shown; though a tokenizer that falls back to bytes decodes them all to halves."""
    asked, end = tokenizer("Once").input_ids, tokenizer.eos_token_id
    cut = tokenizer("Once" + text).input_ids[len(asked) : -tail]
    if not tokenizer.decode(cut).endswith(HALF):
        pytest.skip("fewer tokens than that make a character")
    for answer in (cut, [*cut, end]):
        request = Request(asked, Sampling(len(answer), stop_strings=("@",)), [0.5] * 64, tokenizer, (end,))
        shown = ""
        for token in answer:
            request.take(token, -1.0, 0)
            shown += request.news()
        assert shown == request.text
        assert [shown.rstrip(HALF), decode_answer(tokenizer, asked, answer).rstrip(HALF)] == [text[:-1]] * 2


@pytest.mark.shared
def test_what_was_shown_stays_where_half_a_character_stands_inside(tokenizer):
    """A tokenizer that falls back to bytes decodes the whole characters beside it to halves as well."""
    asked = tokenizer("Once").input_ids
    snow, word = (tokenizer("Once" + text).input_ids[len(asked) :] for text in ("雪", " cat"))
    answer = [*snow, *snow[:-1], *word]
    request = Request(asked, Sampling(len(answer)), [0.5] * 64, tokenizer)
    shown = ""
    for token in answer:
        request.take(token, -1.0, 0)
        shown += request.news()
    assert shown == request.text
    assert (shown[0], shown[-4:], HALF in shown) == ("雪", " cat", len(snow) > 1)


@pytest.mark.shared
def test_a_stop_string_is_found_behind_a_prompt_that_begins_inside_a_character(tokenizer):
    asked = tokenizer("你好世界").input_ids
    answer = tokenizer("你好世界天气。很好").input_ids[len(asked) :]
    request = Request(asked, Sampling(len(answer), stop_strings=("。",)), [0.5] * 64, tokenizer)
    shown = ""
    for token in answer:
        if request.finish_reason is None:
            request.take(token, -1.0, 0)
            shown += request.news()
    assert (request.finish_reason, request.text, shown) == ("stop", "天气", "天气")
