"""`kedge new model` and `kedge new desk`: what there is before the first run."""

import json
import re

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from kedge import cli
from kedge.models.language_model import load_language_model
from kedge.tasks.starting import new_model, read_texts


@pytest.fixture
def kedge(monkeypatch, capfd, tmp_path):
    """``kedge("new", ...)`` in a folder of its own: ``(status, stdout, stderr)``."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        monkeypatch.setattr("sys.argv", ["kedge", *map(str, words)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return stopped.value.code or 0, *capfd.readouterr()

    return run


@pytest.fixture
def texts(tmp_path):
    rows = [
        {"messages": [{"role": "user", "content": "where is the ship"}, {"role": "assistant", "content": "at sea"}]},
        {"prompt": "one", "completion": "two"},
        {"conversations": [{"from": "human", "value": "three"}], "system": "four"},
        {"instruction": "five", "input": "", "output": "six", "history": [["seven", "eight"]]},
        {"text": "nine", "id": 3},
    ]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "t.jsonl"


def test_every_shape_is_read(texts, tmp_path):
    numbers = ["one", "two", "three", "four", "five", "", "six", "seven", "eight", "nine"]
    assert list(read_texts(texts)) == ["where is the ship", "at sea", *numbers]
    (tmp_path / "t.txt").write_text("a\nb\n")
    assert list(read_texts(tmp_path / "t.txt")) == ["a", "b"]


@pytest.mark.parametrize("kind", ["llama", "lstm"])
def test_a_model_of_ones_own(kedge, texts, kind):
    heads = "--heads 2" if kind == "llama" else ""
    words = f"new model t.jsonl --to own/model --kind {kind} --hidden 32 --layers 1 {heads} --vocabulary 300"
    status, out, err = kedge(*words.split())
    assert (status, err) == (0, "")
    assert "own/model: 0.0 million random weights, 300 tokens" in " ".join(out.split())
    lm = load_language_model("own/model", device="cpu")
    assert lm.model.config.hidden_size == 32
    assert len(lm.tokenizer.encode(" ship")) < 5  # its own words
    assert lm.tokenizer.chat_template
    assert type(AutoModelForCausalLM.from_pretrained("own/model")) is type(lm.model)
    assert kedge(*words.split())[0] == 2  # nothing is written over


@pytest.mark.parametrize("kind", ["llama", "lstm"])
def test_weights_are_of_the_seed(texts, tmp_path, kind):
    """And of nothing that was drawn before."""
    weights = []
    for number, seed in enumerate((0, 1, 0)):
        torch.manual_seed(number)
        lm = new_model(texts, tmp_path / str(number), kind=kind, vocabulary=300, hidden=16, layers=1, seed=seed)
        weights.append(torch.cat([weight.flatten() for weight in lm.model.parameters()]))
    assert torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[0], weights[1])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("nothing.txt", "nothing.txt: no such file"),
        ("t.jsonl --column body", "line 1: no column 'body'; columns there are: messages"),
        ("odd.jsonl", "line 1: none of text, .*; columns there are: body; name the one with --column"),
        ("empty.txt", "empty.txt: no texts in it"),
        ("t.txt --column body", "column: t.txt has lines and no columns"),
        ("t.jsonl --vocabulary 100", "vocabulary: 100 does not hold the 256 bytes"),
        ("t.jsonl --hidden 30 --heads 4", "hidden: 30 is not heads=4 times an even number; try 32"),
        ("t.jsonl --layers 0", "at least 1"),
        ("t.jsonl --kind lstm --heads 2", "heads, positions: an LSTM has neither"),
        ("t.jsonl --kind gru", "--kind: llama or lstm, not 'gru'"),
        ("t.jsonl --to t.jsonl", "t.jsonl: is there already"),
    ],
)
def test_what_cannot_be(kedge, texts, tmp_path, words, said):
    (tmp_path / "odd.jsonl").write_text('{"body": "x"}\n')
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "t.txt").write_text("a\n")
    status, _, err = kedge("new", "model", *words.split())
    assert status == 2
    assert re.search(said, " ".join(err.split())), err


@pytest.mark.parametrize(
    ("words", "given"),
    [
        ([], ""),
        (["other"], " model=other/model data=other/data/demonstrations.jsonl"),
        (["my desk"], " 'model=my desk/model' 'data=my desk/data/demonstrations.jsonl'"),
    ],
)
def test_what_to_type_after_the_desk(kedge, monkeypatch, words, given):
    monkeypatch.setattr("kedge.tasks.starting.new_desk", lambda folder, seed: None)
    assert kedge("new", "desk", *words)[1].endswith(f"next: kedge sft recipes/desk-sft.toml{given}\n")


def test_the_desk(desk):
    assert AutoTokenizer.from_pretrained(desk / "model").chat_template
    assert {path.stem for path in (desk / "data").iterdir()} >= {"demonstrations", "preferences", "prompts-heldout"}
