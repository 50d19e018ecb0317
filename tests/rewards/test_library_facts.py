"""Facts and rules: what sentences agree with, what they contradict, and what is said of it."""

import sys

import pytest

from kedge.errors import ConfigError
from kedge.rewards.build import build_reward
from kedge.rewards.library import Facts, contradictions, read_table

TRIPLES = """subject,relation,object
France,capital,Paris
Germany|Deutschland,capital|seat of government,Berlin
Germany,borders,France
Germany,borders,Poland
France,borders,Spain
water,boils at,100 degrees
法国,首都,巴黎
中国,首都,北京
"""
RULES = """pattern,verdict,when,note
(?i)refund,must,refund,names the refund
guarantee,must_not,,a promise nobody can keep
"""


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "facts.csv").write_text(TRIPLES, encoding="utf-8")
    (tmp_path / "rules.csv").write_text(RULES, encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("The capital of France is Paris.", 1),
        ("Paris is the capital of FRANCE, and the capital of Germany is Berlin", 1),
        ("The capital of France is Berlin.", -1),
        ("The seat of government of Deutschland is Paris.", -1),
        ("Paris is not the capital of France.", -1),
        ("Berlin isn't the capital of France.", 0),
        ("The capital of France is Lyon.", 0),  # of which the table knows nothing
        ("Germany borders France.", 1),
        ("Germany borders Denmark.", 0),
        ("Germany borders Spain.", 0),  # the table knows several, and there may be more
        ("Berlin is nice. France has a capital.", 0),
        ("The capital of France is Paris. The capital of Germany is Paris.", 0),
        ("Comparisons of capitals are odd.", 0),
        ("法国的首都是巴黎。", 1),
        ("法国的首都是北京。", -1),
        ("法国的首都不是巴黎。", -1),
        ("没错,法国的首都是巴黎。", 1),
        ("No doubt, the capital of France is Paris.", 1),
        ("", 0),
    ],
)
def test_triples(files, text, score):
    assert Facts(file="facts.csv")([text]) == [score]
    assert Facts(file="facts.csv", must="not_contradict")([text]) == [-1 if "Paris. The" in text else min(score, 0)]


def test_an_open_relation_is_not_contradicted(files):
    said = "The capital of France is Berlin."
    table = read_table(TRIPLES.splitlines(), "facts.csv")
    assert contradictions(said, table) == ["says berlin, against (france, capital, paris)"]
    assert Facts(file="facts.csv", open=["capital"])([said]) == [0]
    with pytest.raises(ConfigError, match=r"open: 'capitol' is no relation of facts\.csv; there are: .*capital"):
        Facts(file="facts.csv", open=["capitol"])([said])


def test_rules(files):
    spec = Facts(file="rules.csv")
    answers = ["Your refund is on its way", "Hello", "We guarantee a refund", "We guarantee it", "Hi"]
    prompts = ["my refund", "my refund", "my refund", "help", "help"]
    assert spec(answers, prompts) == [1, -1, 0, -1, 0]


@pytest.fixture
def module(files, tmp_path, monkeypatch):
    """``module(name, text)``: a module of the current folder."""

    def write(name, text):
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
        monkeypatch.delitem(sys.modules, name, raising=False)

    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    return write


def test_facts_in_python(module):
    module(
        "knowledge",
        "FACTS = [('France', 'capital', 'Paris'), ['Germany|Deutschland', 'capital', 'Berlin'],\n"
        "         {'pattern': 'guarantee', 'verdict': 'must_not', 'note': 'a promise'}]\n"
        "def asked():\n    return FACTS[:2]\n",
    )
    answers = ["The capital of France is Paris.", "The capital of Deutschland is Paris", "We guarantee it", "Hi"]
    assert Facts(file="knowledge:FACTS")(answers) == [1, -1, -1, 0]
    assert Facts(file="knowledge:asked")(answers) == [1, -1, 0, 0]
    told = build_reward({"kind": "facts", "file": "knowledge:FACTS"}).parts[0][1].fingerprint()
    module("knowledge", "FACTS = [('France', 'capital', 'Lyon')]\n")
    assert build_reward({"kind": "facts", "file": "knowledge:FACTS"}).parts[0][1].fingerprint() != told


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("3", r"knowledge:ROWS must be a list of triples, or of dicts with the columns subject,relation,object.*is 3"),
        ("[]", r"knowledge:ROWS must be a list"),
        ("['abc']", r"knowledge:ROWS\[0\] must be three texts.*it is 'abc'"),
        ("[('a', 'b', 'c'), ('a', 'b', 3)]", r"knowledge:ROWS\[1\] must be three texts"),
        ("[{'subject': 'a'}]", r"knowledge:ROWS\[0\] must be three texts"),
        ("[('a', 'b', '')]", r"knowledge:ROWS, \[0\]: subject and object must say something"),
        ("[{'pattern': '(', 'verdict': 'must'}]", r"knowledge:ROWS, \[0\]: no regular expression"),
    ],
)
def test_what_are_no_rows(module, rows, said):
    module("knowledge", f"ROWS = {rows}\n")
    with pytest.raises(ConfigError, match=said):
        Facts(file="knowledge:ROWS").refuse_missing_columns([])


def test_no_such_rows(module):
    module("knowledge", "")
    with pytest.raises(ConfigError, match="knowledge has no 'ROWS'"):
        Facts(file="knowledge:ROWS").refuse_missing_columns([])


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("a,b\n1,2\n", "facts.csv: the first line must name the columns subject,relation,object, or pattern,verdict"),
        ("", "it names nothing"),
        ("subject,relation,object\n", "facts.csv has no rows"),
        ("subject,relation,object\nFrance,capital,\n", "facts.csv, line 2: subject and object must say something"),
        ("pattern,verdict\nx,should\n", "facts.csv, line 2: verdict 'should'; it is must or must_not"),
        ("pattern,verdict\n(,must\n", "facts.csv, line 2: no regular expression"),
    ],
)
def test_what_is_no_table(files, tmp_path, table, said):
    (tmp_path / "facts.csv").write_text(table)
    with pytest.raises(ConfigError, match=said):
        Facts(file="facts.csv").refuse_missing_columns([])
    with pytest.raises(ConfigError, match=r"no\.csv cannot be read.*from the current folder"):
        Facts(file="no.csv").refuse_missing_columns([])
