"""Text to ids and back: the prompt's ids begin the whole, and only the assistant's tokens are trained on."""

import pytest

from kedge.data.encode import answer_start, decode_answer, encode_demonstration, encode_prompt, encode_whole
from kedge.data.records import Demonstration, joined
from kedge.errors import DataError

CHAT = [
    {"role": "system", "content": "be the cat"},
    {"role": "user", "content": "sat?"},
    {"role": "assistant", "content": "on the mat"},
    {"role": "user", "content": "and?"},
]
ANSWER = [{"role": "assistant", "content": "the dog ran"}]


def trained(tokenizer, ids, mask):
    """The text of each run of tokens that the loss sees."""
    assert len(ids) == len(mask)
    runs, before = [], False
    for token, on in zip(ids, mask, strict=True):
        if on:
            runs = [*runs[:-1], [*runs[-1], token]] if before else [*runs, [token]]
        before = on
    return [tokenizer.decode(run) for run in runs]


@pytest.mark.parametrize(
    ("prompt", "completion", "expected"),
    [
        ("the cat", " sat on", " sat on<eos>"),
        ("the c", "at sat", "at sat<eos>"),  # would merge across the seam
        ("def f():\n", "    return 1\n", "    return 1\n<eos>"),
        ("naïve ", "☃ in the 雪", "☃ in the 雪<eos>"),
    ],
)
def test_plain_text(tiny_tokenizer, prompt, completion, expected):
    ids, mask = encode_demonstration(tiny_tokenizer, Demonstration(prompt, completion), ends=[1])
    assert tiny_tokenizer.decode(ids) == prompt + completion + "<eos>"
    asked = encode_prompt(tiny_tokenizer, prompt)
    assert ids[: len(asked)] == asked
    assert mask == [False] * len(asked) + [True] * (len(ids) - len(asked))
    assert trained(tiny_tokenizer, ids, mask) == [expected]


@pytest.mark.shared
def test_pad_equal_to_eos_keeps_the_eos_in_the_mask(gpt2_tokenizer):
    gpt2_tokenizer.pad_token = gpt2_tokenizer.eos_token
    ids, mask = encode_demonstration(gpt2_tokenizer, Demonstration("Hello", " world"), ends=[50256])
    assert (ids, mask) == ([15496, 995, 50256], [False, True, True])


@pytest.mark.shared
def test_a_tokenizer_with_bos(stories):
    prompt = encode_prompt(stories.tokenizer, "Once upon a time")
    assert prompt == [1, 403, 407, 261, 378]
    ids, mask = encode_demonstration(
        stories.tokenizer, Demonstration("Once upon a time", " there was"), ends=stories.eos_ids
    )
    assert ids[:5] == prompt
    assert ids[-1] == 2
    assert mask == [False] * 5 + [True] * (len(ids) - 5)


def test_chat_with_earlier_turns(tiny_tokenizer):
    ids, mask = encode_demonstration(tiny_tokenizer, Demonstration(CHAT, ANSWER), ends=[1])
    asked = encode_prompt(tiny_tokenizer, CHAT)
    assert ids[: len(asked)] == asked
    assert tiny_tokenizer.decode(asked).endswith("<|user|>and?<eos><|assistant|>")
    assert trained(tiny_tokenizer, ids, mask) == ["on the mat<eos>", "the dog ran<eos>"]
    assert ids.count(1) == 5  # the template's EOS is not doubled


def test_a_template_that_forgets_earlier_turns(tiny_tokenizer):
    """Where a turn is rendered otherwise in the middle than at the end, only the last answer is trained on."""
    whole = tiny_tokenizer.chat_template
    tiny_tokenizer.chat_template = (
        "{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' and loop.last %}<think>{% endif %}"
        "{{ m.content }}<eos>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    try:
        ids, mask = encode_demonstration(tiny_tokenizer, Demonstration(CHAT, ANSWER), ends=[1])
    finally:
        tiny_tokenizer.chat_template = whole
    assert trained(tiny_tokenizer, ids, mask) == ["<think>the dog ran<eos>"]


TRIMMING = "{% for m in messages %}<|{{ m.role }}|>{{ m.content | trim }}<eos>\n{% endfor %}"
TRIMMING += "{% if add_generation_prompt %}<|assistant|>{% endif %}"
BEGUN = [*CHAT[:2], {"role": "assistant", "content": "on the "}]


@pytest.fixture
def template(tiny_tokenizer):
    """``template(text)`` for the length of a test."""
    before = tiny_tokenizer.chat_template
    yield lambda text: setattr(tiny_tokenizer, "chat_template", text or before)
    tiny_tokenizer.chat_template = before


@pytest.mark.parametrize(("own", "seen"), [(None, "on the "), (TRIMMING, "on the")], ids=["as it is", "trimming"])
def test_a_message_of_the_assistants_is_continued(tiny_tokenizer, template, own, seen):
    """The prompt ends in it, open; the answer is the rest of it, in training as in asking; no second turn begins."""
    template(own)
    asked = encode_prompt(tiny_tokenizer, BEGUN)
    assert tiny_tokenizer.decode(asked).endswith(f"<|user|>sat?<eos>{chr(10) * bool(own)}<|assistant|>{seen}")
    rest = [{"role": "assistant", "content": "mat"}]
    for completion in (rest, [rest[0] | {"name": "cat"}]):
        ids, mask = encode_demonstration(tiny_tokenizer, Demonstration(BEGUN, completion), ends=[1])
        assert ids == encode_whole(tiny_tokenizer, joined(BEGUN, "mat"), ends=[1])
        assert tiny_tokenizer.decode(ids).strip().endswith("<|assistant|>on the mat<eos>")
        assert trained(tiny_tokenizer, ids, mask)[-1].strip() == "mat<eos>"
        common = answer_start(asked, ids)
        assert tiny_tokenizer.decode(asked[common:]).strip() == ""  # but for a space that merges with the next word
        assert mask[:common] == [False] * common


def test_two_turns_of_the_assistants_in_a_conversation_stay_two(tiny_tokenizer):
    turns = Demonstration(BEGUN, ANSWER, begins_a_turn=True)
    ids, mask = encode_demonstration(tiny_tokenizer, turns, ends=[1])
    assert tiny_tokenizer.decode(ids).endswith("<|assistant|>on the <eos><|assistant|>the dog ran<eos>")
    assert trained(tiny_tokenizer, ids, mask) == ["on the <eos>", "the dog ran<eos>"]


def test_a_conversation_that_the_assistant_opens(tiny_tokenizer):
    ids, mask = encode_demonstration(tiny_tokenizer, Demonstration([CHAT[2], CHAT[3]], ANSWER), ends=[1])
    assert trained(tiny_tokenizer, ids, mask)[-1] == "the dog ran<eos>"
    assert encode_demonstration(tiny_tokenizer, Demonstration([], ANSWER, begins_a_turn=True), ends=[1])[0]
    with pytest.raises(DataError, match="x: no tokens in it"):
        encode_prompt(tiny_tokenizer, [], origin="x")


def test_a_template_that_cannot_be_continued(tiny_tokenizer, template):
    template("{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}")
    with pytest.raises(DataError, match=r"f: row 1: the messages end with the assistant's, .*mend the template"):
        encode_prompt(tiny_tokenizer, BEGUN, origin="f: row 1")


def test_a_template_that_ends_with_a_newline_is_not_ended_twice(tiny_tokenizer):
    whole = tiny_tokenizer.chat_template
    tiny_tokenizer.chat_template = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<eos>\n{% endfor %}"
    try:
        ids = encode_whole(tiny_tokenizer, CHAT[:3], ends=[1])
    finally:
        tiny_tokenizer.chat_template = whole
    assert ids.count(1) == 3


def test_whole_text_as_completion(tiny_tokenizer):
    ids, mask = encode_demonstration(tiny_tokenizer, Demonstration("", "the cat sat"), ends=[1])
    assert tiny_tokenizer.decode(ids) == "<eos>the cat sat<eos>"
    assert mask == [False] + [True] * (len(ids) - 1)  # all but what it begins from


def test_an_empty_prompt_begins_the_whole_too(tiny_tokenizer):
    asked = encode_prompt(tiny_tokenizer, "")  # no BOS: the EOS to begin from
    ids, _ = encode_demonstration(tiny_tokenizer, Demonstration("", "the cat sat"), ends=[1])
    assert asked == [1]
    assert ids[:1] == asked


def test_ends(tiny_tokenizer):
    [cat] = tiny_tokenizer("the").input_ids
    assert encode_whole(tiny_tokenizer, "the", ends=[7, 1]) == [cat, 7]  # the first of them
    assert encode_whole(tiny_tokenizer, "the", ends=[]) == [cat]
    assert encode_whole(tiny_tokenizer, "the<|user|>", ends=[1, 3]) == [cat, 3]  # it has ended already


@pytest.mark.shared
def test_a_short_text_is_ended_too(stories):
    bos, token = stories.tokenizer("a").input_ids
    assert bos in stories.eos_ids
    assert encode_whole(stories.tokenizer, "a", ends=stories.eos_ids) == [bos, token, 2]


@pytest.mark.shared
def test_a_text_that_was_rendered_before_has_one_bos(stories):
    tokenizer = stories.tokenizer
    assert tokenizer("<s>Once upon a time").input_ids[:2] == [1, 1]  # what careless encoding gives
    prompt = encode_prompt(tokenizer, "<s>Once upon a time")
    assert prompt == tokenizer("<s>Once upon a time").input_ids[1:]
    ids, _ = encode_demonstration(tokenizer, Demonstration("<s>Once upon a time", " there was"), ends=[2])
    assert ids[: len(prompt)] == prompt


@pytest.mark.parametrize(
    "text", ["a cat \ud83d", [{"role": "user", "content": "a cat \udc8d!"}]], ids=["text", "messages"]
)
def test_half_a_character_is_named(tiny_tokenizer, text):
    for encode in (encode_prompt, lambda *a, **k: encode_whole(*a, ends=[1], **k)):
        with pytest.raises(DataError, match=r"f\.jsonl: line 3: half a character, '\\ud.*after 'a cat '"):
            encode(tiny_tokenizer, text, origin="f.jsonl: line 3")
    assert encode_prompt(tiny_tokenizer, "\U0001f40d")  # a whole one


@pytest.mark.shared
def test_chat_without_a_template(gpt2_tokenizer):
    for encode in (encode_prompt, lambda *a, **k: encode_whole(*a, ends=[0], **k)):
        with pytest.raises(DataError, match=r"f\.jsonl: row 2: chat messages, but .* no chat template"):
            encode(gpt2_tokenizer, CHAT, origin="f.jsonl: row 2")


@pytest.mark.parametrize(
    ("prompt", "whole", "expected"),
    [([1, 2], [1, 2, 3], 2), ([1, 2], [1, 9, 3], 1), ([1, 2, 3], [1, 2], 2), ([], [1], 0), ([5], [1], 0)],
)
def test_answer_start(prompt, whole, expected):
    assert answer_start(prompt, whole) == expected


@pytest.mark.shared
def test_decoding_keeps_the_leading_space(stories):
    tokenizer = stories.tokenizer
    prompt, whole = tokenizer("Once upon").input_ids, tokenizer("Once upon a time there").input_ids
    assert tokenizer.decode(whole[len(prompt) :]) == "a time there"  # what careless decoding gives
    assert decode_answer(tokenizer, prompt, whole[len(prompt) :]) == " a time there"
    assert decode_answer(tokenizer, prompt, [*whole[len(prompt) :], 1]) == " a time there"  # without special tokens
    assert decode_answer(tokenizer, prompt, []) == ""


def test_decoding_round_trip(tiny_tokenizer):
    for answer in (" sat", "☃雪", "  two\n"):
        assert decode_answer(tiny_tokenizer, tiny_tokenizer("the cat").input_ids, tiny_tokenizer(answer).input_ids) == (
            answer
        )


@pytest.mark.shared
def test_what_cannot_be_tokenized_apart_stays_whole(stories):
    """SentencePiece puts a space in front of a text: "t" + "ime" is "time" only together."""
    ids, mask = encode_demonstration(stories.tokenizer, Demonstration("Once upon a t", "ime"), ends=[2])
    assert stories.tokenizer.decode(ids, skip_special_tokens=True) == "Once upon a time"
    assert stories.tokenizer.decode([token for token, on in zip(ids, mask, strict=True) if on]) == "time</s>"
