"""Answers that can be checked: matches, mathematics, forms, labels, entities, rankings, references."""

import json
import random
import threading

import pytest

from kedge.errors import ConfigError, RewardError
from kedge.rewards.library import (
    BLEU,
    CHRF,
    ROUGE,
    Classification,
    Entities,
    JSONSchema,
    Match,
    Math,
    Ranking,
    Regex,
    comes_to,
    labels_in,
    macro_f1_parts,
    ndcg,
    normalised,
)


def test_normalised():
    same = ["The Eiffel Tower!", " eiffel tower", "“Eiffel”  TOWER.", "ＥＩＦＦＥＬ a tower"]
    assert {normalised(text) for text in same} == {"eiffel tower"}
    assert [normalised(text) for text in ("-3.5", "3.5", "1,000", "1000.", "1, 2", "e-mail", "我 爱。北京！")] == [
        "-3.5", "3.5", "1000", "1000", "1 2", "email", "我爱北京",
    ]  # fmt: skip


def test_match():
    answers, right = ["Paris", "paris.", "It is Paris!", "Pariss", "Rome"], ["Paris"] * 5
    assert Match(how="exact")(answers, answer=right) == [1, 0, 0, 0, 0]
    assert Match()(answers, answer=right) == [1, 1, 0, 0, 0]
    assert Match(how="contains")(answers, answer=right) == [1, 1, 1, 0, 0]
    assert Match(how="contains")(["是北京吧", "pariss"], answer=["北京", "paris"]) == [1, 0]
    assert Match(how="contains")(["It must be A.", "a b"], answer=["A", "C"]) == [1, 0]
    assert Match()(["A", "a.", "the"], answer=["A", "A", "B"]) == [1, 1, 0]
    assert Match()(["4", "5", "6"], answer=[["4", "four"], 5, None]) == [1, 1, None]
    assert Match(after="Answer:")(["Paris. Answer: Rome", "Rome"], answer=["Rome", "Rome"]) == [1, 0]
    with pytest.raises(RewardError, match=r"sample 0: column 'answer' must hold a text.*{'a': 1}"):
        Match()(["x"], answer=[{"a": 1}])


def test_fuzzy():
    pytest.importorskip("rapidfuzz")
    assert Match(how="fuzzy")(["Pariss", "xyz"], answer=["paris", "paris"]) == pytest.approx([10 / 11, 0])
    assert Match(how="fuzzy", at_least=0.95)(["Pariss", "Paris!"], answer=["paris", "paris"]) == [0, 1]


@pytest.fixture(scope="module")
def solutions(shared):
    pytest.importorskip("math_verify")
    lines = (shared / "data/gsm8k/test.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["answer"] for line in lines]


@pytest.mark.shared
def test_gsm8k_references_are_right_and_altered_ones_wrong(solutions):
    assert len(solutions) == 1319
    finals = [solution.rpartition("####")[2].strip() for solution in solutions]
    math = Math()
    assert math(solutions, answer=solutions) == [1.0] * 1319
    assert math([f"So we get \\boxed{{{final}}}." for final in finals], answer=solutions) == [1.0] * 1319
    some = random.Random(0).sample(range(1319), 200)
    assert math([f"We add up: {finals[i]} in all." for i in some], answer=[finals[i] for i in some]) == [1.0] * 200

    def altered(i):
        head, _, final = solutions[i].rpartition("####")
        number = int(final.replace(",", ""))
        return f"{head}#### {[number + 1, number - 1, -number or 7, number * 10 or 3, f'{number}.5'][i % 5]}"

    assert math([altered(i) for i in some], answer=[solutions[i] for i in some]) == [0.0] * 200


@pytest.mark.parametrize(
    ("text", "expected", "right"),
    [
        ("#### $1,000.00", "1000", True),
        ("#### 12\nand then 13", "12", True),
        ("It is \\boxed{\\frac{1}{2}}, not 3", "0.5", True),
        ("\\boxed{3}, no: \\boxed{4}", "4", True),
        ("so it is 1/2", "0.5", True),
        ("first 7, then 8", "8", True),
        ("$\\frac{\\sqrt{2}}{2}$", "\\frac{1}{\\sqrt{2}}", True),
        ("I have no idea", "8", False),
        ("#### ", "8", False),
        ("\\boxed{", "8", False),
        ("-8", "8", False),
        ("10^{10^{10^{10}}}", "8", False),  # nobody works these out
        ("2**99999999", "8", False),
        ("99999999999!", "8", False),
        ("\\boxed{" + "{" * 5000, "8", False),
    ],
)
def test_results(text, expected, right):
    pytest.importorskip("math_verify")
    assert comes_to(text, expected) is right


def test_math_in_a_thread_and_its_settings():
    pytest.importorskip("math_verify")
    found = []
    thread = threading.Thread(target=lambda: found.append(comes_to("\\boxed{\\frac{2}{4}}", "0.5")))
    thread.start()
    thread.join()
    assert found == [True]
    assert Math(marked=True)(["it is 4", "#### 4"], answer=["4", "4"]) == [0, 1]
    assert Math(marked=True)(["\\boxed{2/4}", "\\boxed{3 + 4}"], answer=["\\frac{1}{2}", "7"]) == [1, 0]
    assert Math()(["#### 3 + 4"], answer=["7"]) == [1]
    with pytest.raises(RewardError, match="column 'answer' has no result in it: '#### '"):
        Math()(["4"], answer=["#### "])


def test_regex():
    assert Regex(pattern=r"\d+")(["a 1", "a"]) == [1, 0]
    assert Regex(pattern=r"\d+", where="all")(["12", "a 1"]) == [1, 0]
    assert Regex(pattern=r"(?i)sorry", absent=True)(["Sorry!", "fine"]) == [0, 1]
    with pytest.raises(ConfigError, match=r"pattern: '\(' is no regular expression: .*position 0"):
        Regex(pattern="(")


SCHEMA = {"type": "object", "required": ["name"], "properties": {"age": {"type": "integer"}}}


def test_json_schema(tmp_path):
    pytest.importorskip("jsonschema")
    (tmp_path / "s.json").write_text(json.dumps(SCHEMA))
    fenced = 'Here:\n```json\n{"name": "x"}\n```'
    answers = ['{"name": "x", "age": 3}', '{"age": 3}', '{"name": "x", "age": "3"}', "{name: x}", fenced, "[NaN]"]
    for spec in (JSONSchema(file=tmp_path / "s.json", parses=0.25), JSONSchema(inline=SCHEMA, parses=0.25)):
        assert spec(answers) == [1, 0.25, 0.25, 0, 1, 0]
    assert JSONSchema(inline=SCHEMA)(["[" * 100_000]) == [0.0]
    for settings, said in [
        ({}, "give the schema as file= or as inline="),
        ({"inline": {"type": "objekt"}}, r"json_schema: inline: no JSON schema: \$\.type: 'objekt'"),
        ({"file": tmp_path / "no.json"}, "json_schema: .*no.json cannot be read"),
    ]:
        with pytest.raises(ConfigError, match=said):
            JSONSchema(**settings)([""])


def test_classification():
    labels = ("toxic", "not toxic", "积极", "消极")
    assert labels_in("Not toxic, I think", labels) == ["not toxic"]
    assert labels_in("这句话很积极", labels) == ["积极"]
    assert labels_in("intoxicated", labels) == []
    assert labels_in("That is a hard one: (A).", list("ABCD")) == ["A"]
    spec = Classification(labels=labels)
    answers = ["It is Toxic.", "not toxic", "toxic or 消极", "no", "消极"]
    assert spec(answers, label=["toxic", "toxic", "toxic", "toxic", None]) == [1, 0, 0, 0, None]
    several = Classification(labels=labels, measure="f1")
    assert several(["toxic, 消极", "nothing"], label=[["toxic"], []]) == pytest.approx([2 / 3, 1])
    with pytest.raises(RewardError, match="column 'label' says 'rude', which is not in labels: toxic, not toxic"):
        spec(["x"], label=["rude"])
    with pytest.raises(ConfigError, match="labels: two or more that differ"):
        Classification(labels=["a", "A "])


def test_macro_f1_is_the_mean_of_its_parts():
    right, said = list("aaaabbc"), ["a", "a", "b", "a", "b", "a", None]
    # a: 3 right of 4 said and 4 there, 0.75; b: 1 of 2 and 2, 0.5; c: 0.
    parts = macro_f1_parts(said, right)
    assert sum(parts) / 7 == pytest.approx((0.75 + 0.5 + 0) / 3)
    assert parts[4] > parts[0] > parts[2] == 0  # the rare class earns more
    spec = Classification(labels=["a", "b", "c"], measure="macro_f1")
    assert spec(["a", "a", "b", "a", "b", "a", "?", "a"], label=[*right, None]) == [*parts, None]


def test_entities():
    spec = Entities()
    right = ["Paris", "Angela Merkel"]
    answers = ["paris; Angela Merkel.", "1. Paris\n2. Rome", '["Paris", "Angela Merkel", "Paris"]', "", "巴黎、罗马"]
    assert spec(answers, entities=[*[right] * 4, ["罗马", "巴黎"]]) == pytest.approx([1, 0.5, 1, 0, 1])
    typed = [["LOC", "Paris"], ["PER", "Merkel"]]
    found = ['{"LOC": ["Paris", "Merkel"]}', '[["PER", "Merkel"], ["LOC", "Paris"]]']
    assert spec(found, entities=[typed] * 2) == pytest.approx([0.5, 1])
    assert spec(["none at all", ""], entities=[[], []]) == [0, 1]


def test_ranking():
    # 3/1 + 2/log2(3) + 0 + 1/log2(5), against 3, 2, 1 in order.
    assert ndcg(["a", "b", "x", "c"], {"a": 3, "b": 2, "c": 1}) == pytest.approx(0.985442, abs=1e-6)
    spec = Ranking()
    answers = ["1. A\n2. B", "B, A", "x, a", "a, a, a", ""]
    assert spec(answers, relevant=[["a", "b"]] * 5) == pytest.approx([1, 1, 0.386853, 0.613147, 0], abs=1e-6)
    assert Ranking(k=1)(["x, a", "b"], relevant=[["a"], {"a": 2, "b": 1, "c": None}]) == [0, 0.5]
    with pytest.raises(RewardError, match="column 'relevant' must hold a list of relevant items"):
        spec(["a"], relevant=[{"a": -1}])


def test_references():
    sacrebleu = pytest.importorskip("sacrebleu")
    pytest.importorskip("rouge_score")
    text, references = "The cat sat on the mat.", ["The cat sat on a mat.", "A cat is on the mat."]
    assert BLEU()([text], reference=[references]) == [
        pytest.approx(sacrebleu.sentence_bleu(text, references).score / 100)
    ]
    assert CHRF()([text], reference=[references]) == [
        pytest.approx(sacrebleu.sentence_chrf(text, references).score / 100)
    ]
    assert CHRF(word_order=2)([text], reference=[references]) != CHRF()([text], reference=[references])
    # Five of six words in order on both sides; with the second reference four of six.
    assert ROUGE()([text], reference=[references]) == [pytest.approx(5 / 6)]
    assert ROUGE(measure="rouge2")([text], reference=[references[0]]) == [pytest.approx(3 / 5)]


def test_references_in_chinese():
    pytest.importorskip("sacrebleu")
    pytest.importorskip("rouge_score")
    text, reference = "今天天气很好", "今天天气不好"
    assert ROUGE()([text, reference], reference=[reference] * 2) == pytest.approx([5 / 6, 1])
    # Characters: 5/6, 3/5, 2/4, 1/3 of n-grams; the root of their product.
    assert BLEU()([text], reference=[reference]) == [pytest.approx((5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25)]
