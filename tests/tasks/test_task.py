"""The shape that all tasks have: a user's own in one file, and the support desk."""

import pickle
import sys

import pytest

from kedge import PPO, SFT
from kedge.errors import ConfigError, DataError, RewardError
from kedge.evaluation.evaluate import Comparison
from kedge.tasks import Task, find_task, task_names
from kedge.tasks.support_desk.task import SupportDesk

SPELL = '''
"""Spell a word: its letters with a space between them."""

from kedge.tasks import Task

WORDS = "the cat sat on a mat and dog ran to red house once upon time there was little ship".split()


def letters(prompts, completions, word):
    """Share of the letters that stand in their place."""
    assert [prompt.strip(":") for prompt in prompts] == word
    return [sum(a == b for a, b in zip(text.split(), w)) / len(w) for text, w in zip(completions, word)]


def exact(prompts, completions, word):
    return [float(text.strip() == " ".join(w)) for text, w in zip(completions, word)]


class Spell(Task):
    name = "spell"
    reward = letters
    metrics = exact

    def rows(self, split):
        return [{"word": word} for word in (WORDS[:12] if split == "train" else WORDS[12:])]

    def prompt(self, row):
        return f"{row['word']}:"

    def demonstration(self, row):
        return " " + " ".join(row["word"])

    def baseline(self, row):
        return f" {row['word'][0]}"
'''


@pytest.fixture
def spell(tmp_path):
    (tmp_path / "spell.py").write_text(SPELL)
    assert len(SPELL.strip().splitlines()) < 40
    return find_task(f"{tmp_path}/spell.py:Spell")()


def test_one_from_outside_is_learnt_and_compared_with_its_baseline(spell, tiny_lm, tmp_path):
    lm = tiny_lm("llama")
    lm.save(tmp_path / "model")
    sft = SFT(tmp_path / "model", spell.demonstrations(), {"epochs": 1.0, "batch_size": 4, "device": "cpu"},
              eval_data=spell.demonstrations("eval"), progress=False)  # fmt: skip
    assert sft.train()["steps"] == 3
    settings = {"steps": 2, "batch_size": 4, "mini_batch_size": 4, "response_length": 6, "stop_tokens": []}
    ppo = PPO(
        sft.lm.model, spell.prompts("train"), spell.reward, settings, tokenizer=lm.tokenizer, progress=False,
        eval_prompts=spell.prompts("eval"), metrics=spell.metrics,
    )  # fmt: skip
    ppo.train()
    baseline = spell.evaluate_baseline()
    words = [row["word"] for row in spell.rows("eval")]
    assert baseline.scores["score"] == pytest.approx([1 / len(word) for word in words])
    assert baseline.scores["exact"] == [float(len(word) == 1) for word in words]
    rates = Comparison(baseline, ppo.after).win_rates()
    assert rates.keys() == {"score", "exact"}
    assert rates["score"].n == len(words)


def test_one_that_a_package_brings(tmp_path, monkeypatch):
    info = tmp_path / "spelling-1.0.dist-info"
    info.mkdir()
    (tmp_path / "spelling_kedge.py").write_text(SPELL)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: spelling\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[kedge.tasks]\nspell = spelling_kedge:Spell\nbroken = spelling_kedge:No\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert task_names()[0] == "support-desk"
    assert task_names()[-2:] == ["spell", "broken"]
    assert find_task("spell")().prompt({"word": "cat"}) == "cat:"
    assert find_task("spelling_kedge:Spell") is find_task("spell")
    with pytest.raises(ConfigError, match=r"spelling 1\.0 brings it"):
        find_task("broken")
    sys.modules.pop("spelling_kedge")


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("support-dsek", "did you mean 'support-desk'"),
        ("no/such.py:Spell", "no such file"),
        ("{}/spell.py:Spel", "did you mean 'Spell'"),
        ("{}/spell.py:letters", "is no task"),
        ("kedge.tasks:find_task", "is no task"),
        ("{}/bare.py:Bare", r"is no whole task: give Bare prompt\(\), rows\(\)"),
        ("{}/broken.py:Task", "broken.py: cannot be imported: invalid syntax"),
        ("{}/wanting.py:Task", "wanting.py: cannot be imported: No module named 'no_such_module'"),
    ],
)
def test_what_is_no_task_is_named(spell, tmp_path, what, says):
    (tmp_path / "bare.py").write_text("from kedge.tasks import Task\n\n\nclass Bare(Task):\n    pass\n")
    (tmp_path / "broken.py").write_text("def\n")
    (tmp_path / "wanting.py").write_text("import no_such_module\n")
    with pytest.raises(ConfigError, match=says):
        find_task(what.format(tmp_path))


def test_two_files_of_one_name_are_two_modules(spell, tmp_path):
    other = tmp_path / "other/spell.py"
    other.parent.mkdir()
    other.write_text(SPELL.replace('name = "spell"', 'name = "other"'))
    second = find_task(f"{other}:Spell")()
    assert (type(spell).name, second.name) == ("spell", "other")
    assert pickle.loads(pickle.dumps(type(spell))) is type(spell)
    assert pickle.loads(pickle.dumps(second)).name == "other"


class Numbers(Task):
    name = "numbers"
    metrics = (len, len)

    def __init__(self, prompts):
        self.all = prompts

    def rows(self, split):
        return [{"number": prompt} for prompt in self.all]

    def prompt(self, row):
        return row["number"]


def test_what_is_wrong_with_a_task_is_named():
    with pytest.raises(DataError, match=r"numbers: no rows of split 'train'"):
        Numbers([]).prompts("train")
    with pytest.raises(DataError, match=r"numbers: row 2 of split 'eval' has an empty prompt"):
        Numbers(["1", ""]).prompts("eval")
    with pytest.raises(ConfigError, match="no split 'evl'; did you mean 'eval'"):
        Numbers(["1"]).prompts("evl")
    with pytest.raises(ConfigError, match="'len' is taken"):
        Numbers(["1"]).judges()
    with pytest.raises(ConfigError, match="no baseline for 2 of 2 rows"):
        Numbers(["1", "2"]).evaluate_baseline()
    with pytest.raises(ConfigError, match="no split 'evl'; did you mean 'eval'"):
        Numbers(["1"]).demonstrations("evl")
    with pytest.raises(ConfigError, match="no split 'evl'"):
        SupportDesk().preferences("evl")
    assert Numbers(["1"]).demonstrations() == Numbers(["1"]).preferences("train") == []


def test_a_reward_that_is_a_method_keeps_its_task():
    class Long(Numbers):
        limit = 3
        metrics = ()

        def reward(self, prompts, completions):
            return [float(len(text) > self.limit) for text in completions]

        def baseline(self, row):
            return row["number"] * 2

        def others(self, row):
            return {"thrice": row["number"] * 3} if row["number"] != "4" else {}

    assert Long(["1", "23"]).evaluate_baseline().scores == {"score": [0.0, 1.0]}
    assert Long(["1", "23"]).evaluate_baseline(other="thrice").scores == {"score": [0.0, 1.0]}
    assert Long(["12", "23"]).evaluate_baseline(other="thrice").scores == {"score": [1.0, 1.0]}
    with pytest.raises(ConfigError, match="numbers: no 'thrice' for 1 of 2 rows"):
        Long(["1", "4"]).evaluate_baseline(other="thrice")
    assert Long(iter(["1", "23"])).evaluate_baseline().scores == {"score": [0.0, 1.0]}  # rows that come once


def test_the_length_of_a_baseline_is_the_tokenizers(tiny_lm, tmp_path):
    class Short(Numbers):
        metrics = ()

        def reward(self, prompts, completions, completion_ids):
            return [-float(len(ids)) for ids in completion_ids]

        def baseline(self, row):
            return " the cat sat"

    lm, task = tiny_lm("llama"), Short(["the", "a dog"])
    lm.save(tmp_path / "model")
    n = len(lm.tokenizer(" the cat sat", add_special_tokens=False).input_ids)
    for tokenizer in (lm.tokenizer, tmp_path / "model"):
        found = task.evaluate_baseline(tokenizer=tokenizer)
        # As many as the policy that says the same, and its EOS.
        assert (found.scores["score"], found.summary()["length"]) == ([-n - 1, -n - 1], n + 1)
    with pytest.raises(RewardError, match="takes completion_ids, and these answers have no tokens"):
        task.evaluate_baseline()
    task.reward = None
    assert "length" not in task.evaluate_baseline().summary()


def test_the_support_desk_is_one(desk):
    task = SupportDesk(desk / "data")
    train, held_out = task.prompts("train"), task.prompts("eval")
    assert (len(train), len(held_out)) == (2000, 256)
    assert train[0].keys() == {"prompt", "intent", "product"}
    assert (len(task.demonstrations()), len(task.preferences("train")), len(task.preferences("eval"))) == (
        8000,
        24000,
        2000,
    )
    assert task.reward is None  # people's preferences are all there is
    found = task.evaluate_baseline()
    assert found.scores.keys() == {"gold"}
    assert 0.2 < found.summary()["gold"] < 0.6  # polite, and no answer


@pytest.mark.slow
def test_its_files_are_made_when_they_are_asked_for(tmp_path, monkeypatch):
    task = SupportDesk(tmp_path / "data", seed=3)
    assert not task.folder.exists()
    assert len(task.prompts("eval")) == 256
    monkeypatch.setattr("kedge.tasks.support_desk.task.write_support_desk", lambda *_, **__: pytest.fail("again"))
    assert len(task.prompts("eval")) == 256


def test_answers_to_other_prompts_are_not_compared():
    class Named(Numbers):
        metrics = ()

        def reward(self, prompts, completions):
            return [0.0] * len(completions)

        def baseline(self, row):
            return row["number"]

    one, other, fewer = (Named(rows).evaluate_baseline() for rows in (["1", "2"], ["2", "1"], ["1"]))
    with pytest.raises(DataError, match=r"in another order \(prompt 1 of the two differs\)"):
        Comparison(one, other)
    with pytest.raises(DataError, match=r"\(2 and 1 prompts\) cannot be compared"):
        Comparison(one, fewer)
