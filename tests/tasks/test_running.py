"""A task from its rows to a result, by the command line and from outside of the package."""

import json
from pathlib import Path

import pytest

from kedge.data.records import read_prompts
from kedge.errors import DataError
from kedge.evaluation.evaluate import Evaluation, measure_policy
from kedge.models.language_model import load_language_model
from kedge.sampling.completion import Completion
from kedge.sampling.local.engine import Engine
from kedge.sampling.settings import Sampling
from kedge.tasks import Task
from kedge.tasks.answering import answered, best_of
from kedge.tasks.measuring import Side, measured
from kedge.tasks.running import run_task
from kedge.tasks.starting import new_model
from kedge.tasks.support_desk.task import SupportDesk

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
    assert [line["number"] % 10 for line in lines] == [0] * 4
    for name, answers in lines[0]["answers"].items():
        assert len(answers) == (1 if name == "baseline" else 2)
    assert lines[0]["answers"]["baseline"] == [" " + lines[0]["word"][0]]
    assert found["measures"]["baseline"]["score"]["value"] == pytest.approx(1 / 3)
    both = found["by_seed"]["ppo"]["score"]
    assert sum(both) / 2 == pytest.approx(found["measures"]["ppo"]["score"]["value"])
    status, _, err = kedge("task", "spell.py:Spell", *SMALL)
    assert status == 2  # what is there is not written over
    assert "name another folder with --run FOLDER" in err
    assert kedge("task", "spell.py:Spell", *SMALL, "ppo.steps=1", "--held-out", 2, "--overwrite")[0] == 0
    assert {path.name for path in Path("runs/tasks/spell").glob("seed-*")} == {"seed-0"}
    began = json.loads(Path("runs/tasks/spell/fingerprints.json").read_text())
    assert began["ppo.steps"] == "1"  # and not what the one before began with
    Path("spell.py").write_text(SPELL.replace("% 5 == 1", "% 5 == 2"))
    status, _, err = kedge("task", "spell.py:Spell", *SMALL, "ppo.steps=1", "--held-out", 2, "--resume")
    assert status == 2
    assert "began with another demonstrations\n" in err
    assert "begin anew with --overwrite" in err


POLITE = """

class Polite(Spell):
    name, reward, primary_metric = "polite", None, "exact"

    def preferences(self, split):
        rows = self.rows(split)
        return [{"prompt": self.prompt(r), "chosen": self.demonstration(r), "rejected": " no"} for r in rows]

    def others(self, row):
        return {"last letter": " " + row["word"][-1], "right": self.demonstration(row)}
"""


def test_a_reward_that_is_learnt_and_a_run_that_goes_on(kedge, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("spell.py").write_text(SPELL + POLITE)
    words = ["task", "spell.py:Polite", *SMALL, "reward.batch_size=4", "--held-out", 4, "--run", "here"]
    status, out, err = kedge(*words)
    assert status == 0, err
    measures = json.loads(Path("here/result.json").read_text())["measures"]
    assert measures.keys() == {"before", "sft", "ppo", "best of 4", "baseline", "last letter", "right"}
    assert [measures[name]["exact"]["value"] for name in ("baseline", "last letter", "right")] == [0, 0, 1]
    assert all(each.keys() == {"exact"} for each in measures.values())  # what is learnt differs from seed to seed
    done = {path: path.stat().st_mtime_ns for path in Path("here/seed-0").rglob("*.safetensors")}
    assert {path.parts[2] for path in done} == {"model", "sft", "reward", "ppo"}

    assert kedge(*words)[0] == 2
    status, _, err = kedge(*words, "--resume", "sft.epochs=2.0")
    assert status == 2
    assert "began with another sft.epochs\n  sft.epochs: 1.0 then, 2.0 now" in err
    assert kedge(*words, "--resume", "--seeds", 1)[0] == 0
    Path("here/seed-0/ppo/summary.json").unlink()  # as if it had been stopped there
    status, out, err = kedge(*words, "--resume", "--seeds", 2)
    assert status == 0, err
    assert "2 seeds" in out
    changed = {path.parts[2] for path, before in done.items() if path.stat().st_mtime_ns != before}
    assert changed == {"ppo"}
    assert Path("here/seed-1/ppo/summary.json").is_file()
    status, _, err = kedge(*words, "--resume", "--seeds", 1)
    assert status == 2
    assert "seeds: 2 are there, and 1 would remain" in err


def test_a_stage_goes_on_from_its_checkpoint(kedge, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("spell.py").write_text(SPELL)
    words = ["task", "spell.py:Spell", *SMALL, "--held-out", 4, "--run", "here", "ppo.checkpoint_every=1"]
    status, _, err = kedge(*words)
    assert status == 0, err
    ppo = Path("here/seed-0/ppo")
    lines = (ppo / "metrics.jsonl").read_text()
    (ppo / "summary.json").unlink()  # as if it had been stopped just before its end
    status, _, err = kedge(*words, "--resume")
    assert status == 0, err
    assert (ppo / "metrics.jsonl").read_text() == lines  # with the seconds that the steps took then


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    (folder / "t.txt").write_text(GUIDE)
    new_model(folder / "t.txt", folder / "m", hidden=16, vocabulary=300, positions=64)
    return folder / "m"


def test_answers_are_at_the_tasks_temperature(model):
    sampling = Sampling(max_new_tokens=8)
    said = {}
    for temperature in (0.0, 1.0):
        task = Lengths()
        task.temperature = temperature
        said[temperature] = [
            each.text for each in answered(task, task.all_rows("eval", 6), model, sampling).completions
        ]
    lm = load_language_model(model)
    prompts = read_prompts(Lengths().prompts("eval", 6))
    greedy = measure_policy(lm, Engine(lm), prompts, {}, Sampling(max_new_tokens=8, temperature=0.0))
    assert said[0.0] == [each.text for each in greedy.completions]
    assert said[1.0] != said[0.0]


def test_of_several_answers_the_reward_picks_one(model):
    """The longest of four, by a reward that likes length: at least as long as any of them."""

    def lengths(prompts, completions):
        return [float(len(text)) for text in completions]

    class Long(Lengths):
        metrics = lengths

        def rows(self, split):
            return [{"n": n} for n in range(6)]

    sampling = Sampling(max_new_tokens=8)
    rows = list(Long().rows("eval"))
    one, four = (best_of(n, Long(), rows, model, lengths, sampling).scores["lengths"] for n in (1, 4))
    assert all(a <= b for a, b in zip(one, four, strict=True))
    assert sum(four) > sum(one)


MISFITS = """
import random


class Mute(Spell):
    name, reward = "mute", None


class Long(Spell):
    def __init__(self, length, *others, folder=None, **more):
        self.length = length


class Same(Spell):
    def rows(self, split):
        return super().rows("train")


class Typo(Spell):
    primary_metric = "-exakt"


class Sets(Spell):
    def rows(self, split):
        return [{**row, "letters": set(row["word"])} for row in super().rows(split)]


class Answers(Spell):
    def rows(self, split):
        return [{**row, "answers": 1} for row in super().rows(split)]


class Silent(Spell):
    def baseline(self, row):
        return " t" if row["number"] == 10 else None


class Lists(Spell):
    def rows(self, split):
        return [[row["word"]] for row in super().rows(split)]


class Others(Spell):
    def rows(self, split):
        return random.sample(super().rows(split), 3)


class Clash(Spell):
    def measures(self, rows, said):
        return {"score": 1.0}


class Listed(Spell):
    def measures(self, rows, said):
        return [1.0]


class Short(Spell):
    new = {"vocabulary": 300, "positions": 32}

    def rows(self, split):
        return [{**row, "word": row["word"] * (20 if split == "eval" else 1)} for row in super().rows(split)]


class Blind(Spell):
    reward = staticmethod(lambda prompts, completions: [1.0])


class Taken(Spell):
    def others(self, row):
        return {"sft": "a"}
"""


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["spell.py:Mute"], "mute: has neither a reward for PPO nor preferences to learn one from"),
        (["spell.py:Spell", "reward.epochs=2"], "reward.epochs: the reward of spell is not learnt"),
        (["spell.py:Long"], "its class must be given length; only a folder is"),
        (["spell.py:Same"], "row 1: this held-out prompt is a training prompt too, and 420 more are"),
        (["spell.py:Typo", *SMALL], "primary_metric: no '-exakt'; did you mean 'exact'"),
        (["spell.py:Sets"], "row 1, column 'letters': Object of type set is not JSON serializable"),
        (["spell.py:Answers"], "row 1: call the column 'answers' something else"),
        (["spell.py:Silent"], "no baseline for 46 of 47 rows"),
        (["spell.py:Lists"], "spell: row 1 of rows('eval') is a list, not a dict of columns"),
        (["spell.py:Others"], "are others each time; draw them with a seed"),
        (["spell.py:Clash"], "measures: 'score' is the reward or a metric already"),
        (["spell.py:Listed"], "measures: not a dict of numbers by name: [1.0]"),
        (["spell.py:Short"], "are more than the model's 32 positions"),
        (["spell.py:Blind"], "1 score"),
        (["spell.py:Taken"], "others: 'sft' is a side already; call it something else"),
        (["spell.py:Spell", "seeds=2"], "seeds: an option; write --seeds 2"),
        (["spell.py:Spell", "sft.epoch=2"], "sft.epoch: unknown key"),
        (["spell.py:Spell", "ppo.seed=7"], "ppo.seed: the seeds are 0, 1, ... for all stages; take it out"),
        (["spell.py:Spell", "ppo.best_metric=eval/score"], "ppo.best_metric: would choose by the rows that are rep"),
        (["opinion"], "opinion: needs --data, the folder of Financial PhraseBank"),
        (["opinion", "--data", "nowhere"], "nowhere: there is no such folder; the folder of Financial PhraseBank"),
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
    Path("spell.py").write_text(SPELL + MISFITS)
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


class Split(Lengths):
    def measures(self, rows, said):
        return {"none": float("nan"), "few": 1.0 if 0 in [row["n"] for row in rows] else float("nan")}


def test_what_is_not_there_is_not_measured():
    """And draws without it do not count."""
    said = Evaluation([], [Completion([], [], [], "x", "eos")] * 100, {"score": [float("nan")] * 100}, None)
    task = Split()
    assert measured(task, list(task.rows("eval")), Side.of([said])) == {"few": (1.0, 1.0, 1.0)}


def test_demonstrations_are_held_apart_whatever_their_form():
    """The desk's are messages, and so are its prompts."""
    desk = SupportDesk.__new__(SupportDesk)
    chat = [{"role": "user", "content": "hello"}]
    desk.rows = lambda split: [{"prompt": chat if split == "eval" else [{"role": "user", "content": "bye"}]}]
    desk.preferences = lambda split: [{"chosen": "a", "rejected": "b"}]
    desk.demonstrations = lambda: [{"messages": [*chat, {"role": "assistant", "content": "hi"}]}]
    with pytest.raises(DataError, match="this held-out prompt is a training prompt too"):
        run_task(desk, Path("nowhere"))


class Documents(Lengths):
    def group(self, row):
        return row["n"] // 10


def test_rows_of_a_document_are_drawn_together():
    """Ten documents whose rows agree are as sure as ten rows, and not as a hundred."""
    answers = ["x" * (i // 10 % 2) for i in range(100)]
    scores = {"score": [float(i // 10 % 2) for i in range(100)]}
    said = Evaluation([], [Completion([], [], [], text, "eos") for text in answers], scores, None)
    task = Documents()
    for found in measured(task, list(task.rows("eval")), Side.of([said])).values():
        assert found.value == pytest.approx(0.5)
        assert found.low == pytest.approx(0.2, abs=0.11)
        assert found.high == pytest.approx(0.8, abs=0.11)


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
