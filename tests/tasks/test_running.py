"""A task from its rows to a result, by the command line and from outside of the package."""

import json
from pathlib import Path

import pytest

from kedge.evaluation.evaluate import Evaluation
from kedge.sampling.completion import Completion
from kedge.tasks import Task
from kedge.tasks.measuring import Side, measured

GUIDE = (Path(__file__).parents[2] / "docs/tasks.md").read_text(encoding="utf-8")
SPELL = GUIDE.partition("```python\n")[2].partition("```")[0]
SMALL = ["sft.epochs=1.0", "sft.batch_size=4", "ppo.steps=2", "ppo.batch_size=4", "ppo.mini_batch_size=4",
         "ppo.response_length=6"]  # fmt: skip


def test_one_file_from_outside(kedge, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("spell.py").write_text(SPELL)
    assert SPELL.count("\n") <= 60
    status, out, err = kedge("task", "spell.py:Spell", *SMALL, "--seeds", 2, "--held-out", 4)
    assert status == 0, err
    assert "4 rows never trained on, 2 seeds" in out
    assert out.count("expected") == 3
    found = json.loads(Path("runs/tasks/spell/result.json").read_text())
    assert found["rows"] == 4
    assert found["measures"].keys() == {"before", "sft", "ppo", "baseline"}
    assert found["measures"]["ppo"].keys() == {"score", "exact"}
    lines = [json.loads(line) for line in Path("runs/tasks/spell/answers.jsonl").read_text().splitlines()]
    assert [line["word"] for line in lines] == ["to", "a", "red", "house"]
    for name, answers in lines[0]["answers"].items():
        assert len(answers) == (1 if name == "baseline" else 2)
    assert lines[0]["answers"]["baseline"] == [" t"]
    assert found["measures"]["baseline"]["score"]["value"] == pytest.approx((1 / 2 + 1 + 1 / 3 + 1 / 5) / 4)
    assert kedge("task", "spell.py:Spell", *SMALL)[0] == 2  # what is there is not written over


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["spell.py:Mute"], "mute: has neither a reward for PPO nor preferences to learn one from"),
        (["spell.py:Spell", "reward.epochs=2"], "reward.epochs: the reward of spell is not learnt"),
        (["opinion"], "opinion: needs --data, the folder of Financial PhraseBank"),
        (["opinion", "--data", "nowhere"], "nowhere: has neither Sentences_AllAgree.txt"),
        (["opinoin"], "did you mean 'opinion'"),
        (["spell.py:Spell", "--data", "."], "the task spell reads no folder"),
        (["spell.py:Spell", "epochs=2"], "'epochs': a task has settings of sft, reward and ppo; write sft.epochs="),
        (["spell.py:Spell", "ppo.stepps=2"], "stepps"),
        (["spell.py:Spell", "--seeds", "0"], "--seeds: at least 1"),
        (["spell.py:Spell", "--held-out", "0"], "--held-out: at least 1"),
    ],
)
def test_what_does_not_fit_is_named(kedge, tmp_path, monkeypatch, words, says):
    monkeypatch.chdir(tmp_path)
    Path("spell.py").write_text(f"{SPELL}\n\nclass Mute(Spell):\n    name, reward = 'mute', None\n")
    status, _, err = kedge("task", *words)
    assert status == 2
    assert says in " ".join(err.split())
    assert not Path("runs/tasks/spell/seed-0/sft").exists()


def test_all_are_listed(kedge):
    status, out, _ = kedge("tasks")
    assert status == 0
    for name in ("support-desk", "opinion", "news-titles"):
        assert name in out


class Lengths(Task):
    name = "lengths"

    def rows(self, split):
        return [{"n": n} for n in range(100)]

    def prompt(self, row):
        return f"{row['n']}"

    def read(self, row, answer):
        return len(answer)

    def measures(self, rows, said):
        return {"even": sum(length % 2 == 0 for length in said) / len(said)}


def test_rows_are_from_all_of_a_split():
    """And the same ones for whoever asks for so many."""
    task = Lengths()
    rows = [row["n"] for row in task.all_rows("eval", 20)]
    assert len(set(rows)) == 20
    assert rows == sorted(rows)
    assert rows[0] < 25 < 75 < rows[-1]
    assert [row["n"] for row in task.prompts("eval", 20)] == rows
    assert len(task.all_rows("eval", 1000)) == 100


def test_intervals_are_over_rows(tmp_path):
    """The mean of 100 ones and zeros is within 1.96 * 0.05; a second seed that says the same makes it no surer."""
    answers = ["x" * (i % 2) for i in range(100)]
    scores = {"score": [float(i % 2) for i in range(100)]}
    one = Evaluation([], [Completion([], [], [], text, "eos") for text in answers], scores, None)
    task = Lengths()
    found = measured(task, list(task.rows("eval")), Side.of([one]))
    for name in ("score", "even"):
        assert found[name].value == pytest.approx(0.5)
        assert found[name].low == pytest.approx(0.402, abs=0.03)
        assert found[name].high == pytest.approx(0.598, abs=0.03)
    again = measured(task, list(task.rows("eval")), Side.of([one, one]))
    assert again["score"] == found["score"]
