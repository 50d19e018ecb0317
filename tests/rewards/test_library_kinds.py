"""The built-in kinds as a recipe, the trainer and the terminal see them."""

import json
import math
import re
import sys
from pathlib import Path

import pytest

from kedge.data.records import Prompt
from kedge.errors import ConfigError, RewardError
from kedge.evaluation.evaluate import judge_answers
from kedge.parallel import ALONE
from kedge.rewards.build import build_reward, refuse_missing_columns, spec_of
from kedge.rewards.kinds import KINDS, LIBRARY
from kedge.rewards.library import Classification, Facts, Length, Match, Regex, Toxicity
from kedge.rewards.scores import judge
from kedge.sampling.completion import Completion

ANSWERS = [Completion([5], [7, 8], [0.0, 0.0], text, "eos") for text in ("you idiot", "four", "4")]
PROMPTS = [Prompt("2 + 2", {"answer": "4"}, "row 1"), Prompt("2 + 2", {"answer": "4"}), Prompt("hm", {"answer": None})]


def test_a_list_of_them_in_a_recipe_s_words():
    reward = build_reward(
        [
            {"kind": "toxicity", "weight": 2.0},
            {"kind": "match", "name": "right"},
            {"kind": "match", "how": "contains", "name": "right"},
            {"kind": "length", "shape": "target", "target": 4},
        ]
    )
    scores = judge(reward, PROMPTS, ANSWERS, ALONE)
    assert scores.components["toxicity"] == [-1, 0, 0]
    assert scores.components["length"] == [0.5, 0.5, 0.5]
    assert scores.components["right"][:2] == [0, 0]
    assert math.isnan(scores.components["right"][2])  # a row without an answer is not judged
    assert scores.total == [-1.5, 0.5, 0.5]
    assert scores.remarks["toxicity"] == ["found: idiot", "", ""]
    assert set(scores.remarks) == {"toxicity", "right", "right_2", "length"}
    rows = [*judge_answers(PROMPTS, ANSWERS, {"reward": reward}).samples()]
    assert rows[0]["remarks"] == {"toxicity": "found: idiot"}
    assert "remarks" not in rows[1]


def test_a_chat():
    chat = Prompt([{"role": "user", "content": "2 + 2"}], {"answer": "4"})
    assert build_reward({"kind": "match"})([chat], ANSWERS[2:]).total == [1.0]
    assert Match()([[{"role": "assistant", "content": "4"}]], answer=["4"]) == [1.0]


def test_what_a_recipe_keeps():
    for spec in (
        Match(column="gold", after="A:"),
        Length(shape="overlong", limit=9, buffer=3),
        Classification(labels=["a", "b"]),
        Toxicity(allowed=["idiot"]),
    ):
        said = spec.said()
        assert said is not None
        assert said["kind"] == spec.KIND
        assert spec_of(json.loads(json.dumps(said))) == spec
    assert spec_of({"kind": "kedge.rewards.library.patterns:Regex", "pattern": "a"}).pattern == "a"
    with pytest.raises(ConfigError, match="kind: 'match' is a Match and this a Regex"):
        Regex(kind="match", pattern="a")


def test_every_kind_says_what_it_is():
    assert set(KINDS.built_in) == {"function", "model", *(kind.KIND for kind in LIBRARY)}
    for kind in LIBRARY:
        assert kind.RANGE != "any number", kind
        assert kind.__doc__ is not None


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ({"kind": "match", "column": "gold"}, "reward 'match' wants column 'gold', which column= names; there are: "),
        ({"kind": "math", "name": "sums", "column": "x"}, "reward 'sums' wants column 'x'"),
        ({"kind": "bleu"}, "reward 'bleu' wants column 'reference', which column= names; there are: prompt, answer"),
        ({"kind": "ranking"}, "wants column 'relevant'"),
    ],
)
def test_a_missing_column_is_named(kind, said):
    with pytest.raises(RewardError, match=said):
        refuse_missing_columns(kind, ["answer"])
    with pytest.raises(RewardError, match=r"match: column 'answer', which column= names, is missing; .*'answers'"):
        Match()(["4"], answers=["4"])


@pytest.mark.parametrize(
    ("kind", "module", "said"),
    [
        ({"kind": "math", "column": "answer"}, "math_verify", r"math: .*pip install 'kedge\[rewards\]'"),
        ({"kind": "sentiment"}, "vaderSentiment.vaderSentiment", r"sentiment: .*pip install 'kedge\[vader\]'"),
        ({"kind": "match", "how": "fuzzy"}, "rapidfuzz", r"how=fuzzy: .*kedge\[rewards\]"),
        ({"kind": "json_schema", "inline": {}}, "jsonschema", r"json_schema: .*kedge\[rewards\]"),
    ],
)
def test_a_missing_library_is_named_before_training(monkeypatch, kind, module, said):
    from kedge.rewards.library import patterns, sentiment

    patterns._validator.cache_clear()
    sentiment._analyzer.cache_clear()
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=said):
        refuse_missing_columns(kind, ["answer"])


def test_a_file_that_changes_is_another_reward(tmp_path):
    path = tmp_path / "f.csv"
    path.write_text("subject,relation,object\nFrance,capital,Paris\n")
    before = build_reward(Facts(file=path)).parts[0][1].fingerprint()
    assert before == build_reward(Facts(file=path)).parts[0][1].fingerprint()
    path.write_text("subject,relation,object\nFrance,capital,Lyon\n")
    assert before != build_reward(Facts(file=path)).parts[0][1].fingerprint()


def test_the_command(kedge):
    status, said, _ = kedge("rewards")
    lines = {line.split()[0]: line for line in said.splitlines()}
    assert status == 0
    assert list(lines) == KINDS.names()
    assert lines["ranking"].endswith("(column, k, after)  0..1")
    assert "(labels, column, measure, after)" in lines["classification"]
    status, said, _ = kedge("rewards", "math")
    assert said.startswith('[[ppo.reward]], kind = "math"; range: 0 or 1\n')
    assert "marked = false" in said
    status, _, error = kedge("rewards", "maths")
    assert (status, "did you mean 'math'?" in error) == (2, True)


def test_what_the_documentation_says():
    pytest.importorskip("sacrebleu")
    pytest.importorskip("math_verify")
    page = (Path(__file__).parents[2] / "docs/reward-library.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    first, *lines = [line for line in code.splitlines() if line]
    space: dict = {}
    exec(first, space)
    for line in lines:
        expression, _, value = line.partition("  # ")
        assert eval(expression, space) == pytest.approx(eval(value), abs=1e-2), line
    kinds = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", page, re.MULTILINE)))
    assert kinds == [kind.KIND for kind in LIBRARY]
