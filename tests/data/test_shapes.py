"""ShareGPT's and Alpaca's columns, and unpaired labels, by hand and from the real files of other projects."""

import pytest

from kedge.data.encode import encode_demonstration, encode_prompt
from kedge.data.files import Row, read_rows
from kedge.data.records import demonstrations, plain, preferences, prompts, read_prompts
from kedge.errors import DataError


def row(**columns):
    return [Row(columns, "f.json: row 1")]


def turns(*texts):
    return [{"from": who, "value": text} for who, text in (text.split(": ") for text in texts)]


def chat(*texts):
    return [{"role": who, "content": text} for who, text in (text.split(": ") for text in texts)]


SHAREGPT = {"conversations": turns("human: hi", "gpt: yes?", "human: 2+2", "gpt: 4"), "system": "be short"}
ALPACA = {"instruction": "add", "input": "2+2", "output": "4", "history": [["hi", "yes?"]], "system": "be short"}


@pytest.mark.parametrize(
    ("columns", "prompt", "answer"),
    [
        (SHAREGPT, chat("system: be short", "user: hi", "assistant: yes?", "user: 2+2"), "4"),
        (ALPACA, chat("system: be short", "user: hi", "assistant: yes?", "user: add\n2+2"), "4"),
        ({"instruction": "add", "input": "", "output": "4"}, chat("user: add"), "4"),
        ({"instruction": "add", "output": "4", "history": [], "system": None}, chat("user: add"), "4"),
        (
            {"conversations": turns("system: s", "human: u", "function_call: f()", "observation: 3", "gpt: a")},
            chat("system: s", "user: u", "assistant: f()", "tool: 3"),
            "a",
        ),
        ({"conversations": chat("user: u", "assistant: a")}, chat("user: u"), "a"),
        (
            ALPACA | {"text": "Below is ..."},
            chat("system: be short", "user: hi", "assistant: yes?", "user: add\n2+2"),
            "4",
        ),
    ],
)
def test_demonstrations_and_prompts(columns, prompt, answer):
    [shown] = demonstrations(row(**columns))
    assert (shown.prompt, shown.completion) == (prompt, chat(f"assistant: {answer}"))
    [asked] = prompts(row(**columns))
    assert asked.text == prompt
    assert asked.columns == columns  # for the reward


def test_a_conversation_that_ends_with_the_question_is_all_prompt():
    [asked] = prompts(row(conversations=turns("human: hi", "gpt: yes?", "human: 2+2")))
    assert asked.text == chat("user: hi", "assistant: yes?", "user: 2+2")


def test_kedges_own_columns_come_first():
    [asked] = prompts(row(prompt="p", conversations=turns("human: hi"), instruction="add"))
    assert asked.text == "p"
    [shown] = demonstrations(row(prompt="p", completion="c", instruction="add"))
    assert shown.whole == "pc"


def test_a_conversation_has_one_system_message():
    """Its own, and not the column's besides."""
    [shown] = demonstrations(row(conversations=turns("system: s", "human: q", "gpt: a"), system="t"))
    assert shown.whole == chat("system: s", "user: q", "assistant: a")


@pytest.mark.parametrize(
    ("columns", "whole"),
    [
        (
            {"conversations": turns("human: q"), "chosen": turns("gpt: y")[0], "rejected": turns("gpt: n")[0]},
            ("user: q", "assistant: y"),
        ),
        (
            {"conversations": turns("human: q"), "chosen": turns("gpt: y"), "rejected": turns("gpt: n"), "system": "s"},
            ("system: s", "user: q", "assistant: y"),
        ),
        ({"instruction": "q", "input": "", "chosen": "y", "rejected": "n", "output": "y"}, ("user: q", "assistant: y")),
        ({"instruction": "q", "input": "", "output": ["y", "n"]}, ("user: q", "assistant: y")),
    ],
)
def test_preferences(columns, whole):
    [pair] = preferences(row(**columns))
    assert pair.chosen == chat(*whole)
    assert pair.rejected == chat(*whole[:-1], "assistant: n")


@pytest.mark.parametrize(
    ("read", "columns", "said"),
    [
        (demonstrations, {"conversations": turns("human: q", "gpt: ")}, "the last message, the assistant's, is empty"),
        (demonstrations, {"conversations": "hi"}, "'conversations' must be a list of {'from', 'value'}, not 'hi'"),
        (demonstrations, {"conversations": []}, "'conversations' must be a list"),
        (demonstrations, {"conversations": ["hi"]}, "'conversations' holds {'from', 'value'}, not 'hi'"),
        (demonstrations, {"conversations": [{"from": "gpt"}]}, "'conversations' holds {'from', 'value'}"),
        (
            demonstrations,
            {"conversations": [*turns("human: hi"), {"from": "gpt", "value": {"a": 1}}]},
            "no text: .*'a'",
        ),
        (prompts, {"conversations": [{"from": "human", "value": 3}]}, "content is no text: '3'"),
        (demonstrations, {"conversations": turns("bob: hi")}, "a turn from 'bob'; kedge knows system, human"),
        (demonstrations, {"conversations": turns("human: hi")}, "must end with the assistant's answer"),
        (demonstrations, {"instruction": "add"}, "'instruction' without an 'output' to learn"),
        (demonstrations, {"instruction": 3, "output": "4"}, "'instruction' and 'input' must be text"),
        (demonstrations, {"instruction": "", "output": "4"}, "column 'instruction' is empty"),
        (prompts, {"instruction": "add", "history": ["hi"]}, "'history' must be a list of .question, answer"),
        (prompts, {"instruction": "add", "system": 3}, "'system' must be text"),
        (prompts, {"conversations": turns("gpt: hi")}, "nobody asks"),
        (preferences, {"conversations": turns("human: q"), "chosen": turns("gpt: y")[0]}, "no column 'rejected'"),
    ],
)
def test_what_cannot_be_read(read, columns, said):
    with pytest.raises(DataError, match=f"^f.json: row 1: .*{said}"):
        read(row(**columns))


def test_labelled_answers_meet_answers_to_the_same_prompt():
    labelled = [("a", 1), ("a", 0), ("a", 0), ("b", 1), ("c", 1), ("c", 0)]
    rows = [Row({"prompt": p, "completion": f"{i}", "label": bool(y)}, f"row {i}") for i, (p, y) in enumerate(labelled)]
    pairs = preferences(rows, seed=0)
    met = {(pair.chosen, pair.rejected) for pair in pairs}
    assert {("a0", "a1"), ("a0", "a2"), ("c4", "c5")} < met
    [(good, bad)] = met - {("a0", "a1"), ("a0", "a2"), ("c4", "c5")}  # nobody called an answer to b bad
    assert (len(pairs), good, bad[0] in "ac") == (4, "b3", True)


@pytest.mark.parametrize("tag", ["label", "kto_tag"])
def test_labelled_answers_to_different_prompts(tag):
    rows = [Row({"messages": chat(f"user: q{i}", "assistant: a"), tag: i % 3 == 0}, f"row {i}") for i in range(9)]
    pairs = preferences(rows, seed=0)
    assert preferences(rows, seed=0) == pairs
    met = [[(plain(p.chosen), plain(p.rejected)) for p in preferences(rows, seed=seed)] for seed in range(3)]
    assert len({frozenset(pairs) for pairs in met}) == 3  # who meets whom is drawn
    assert {plain(pair.rejected)[:8] for pair in pairs} == {f"user: q{i}" for i in range(9) if i % 3}
    assert {plain(pair.chosen)[:8] for pair in pairs} == {"user: q0", "user: q3", "user: q6"}


@pytest.mark.shared
class TestRealFiles:
    def test_instructions(self, shared, tiny_tokenizer):
        for file, count in (
            ("llama-factory-demo/alpaca_zh_demo.json.gz", 1000),
            ("instruction-preference/instructions.json", 1100),
        ):
            shown = demonstrations(read_rows(shared / "data" / file))
            assert len(shown) == count
            ids, trained = encode_demonstration(tiny_tokenizer, shown[0], ends=[1])
            assert tiny_tokenizer.decode([i for i, t in zip(ids, trained, strict=True) if t]).startswith(
                shown[0].completion[0]["content"]
            )
            asked = read_prompts(shared / "data" / file)
            assert [prompt.text for prompt in asked] == [one.prompt for one in shown]
            assert len(encode_prompt(tiny_tokenizer, asked[0].text)) > 5

    @pytest.mark.parametrize(
        ("file", "count"),
        [
            ("llama-factory-demo/dpo_en_demo.json.gz", 300),
            ("llama-factory-demo/dpo_zh_demo.json.gz", 300),
            ("instruction-preference/preferences.json", 1100),
        ],
    )
    def test_preferences(self, shared, file, count):
        pairs = preferences(read_rows(shared / "data" / file))
        assert len(pairs) == count
        for pair in pairs:
            assert pair.chosen[:-1] == pair.rejected[:-1]
            assert pair.chosen[-1]["role"] == "assistant" == pair.rejected[-1]["role"]

    def test_unpaired_labels(self, shared):
        rows = read_rows(shared / "data/llama-factory-demo/kto_en_demo.json.gz")
        pairs = preferences(rows)
        texts = {True: set(), False: set()}
        for one in rows:
            texts[one.columns["label"]].add(plain(one.columns["messages"]))
        assert {plain(pair.chosen) for pair in pairs} == texts[True]
        assert {plain(pair.rejected) for pair in pairs} == texts[False]
