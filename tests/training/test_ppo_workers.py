"""PPO with a reward function in worker processes: the same run as without, and one that goes on whatever happens."""

import pytest

JUDGES = """
import os, time

def low_ids(prompts, completions, completion_ids):
    return [sum(i < 150 for i in ids) / len(ids) for ids in completion_ids]

def moody(prompts, completions, mood):
    if mood == ["hangs"]:
        time.sleep(1000)
    if mood == ["dies"]:
        os._exit(1)
    if mood == ["raises"]:
        raise ValueError("no answer")
    return [2.0]
"""
REASONS = ("timeouts", "errors", "deaths")
MOODS = ["fine", "hangs", "dies", "raises"]


@pytest.fixture
def judges(tmp_path, monkeypatch):
    """``judges(name, ...)``: a function of ``kedge_ppo_judges.py`` in two workers."""
    (tmp_path / "kedge_ppo_judges.py").write_text(JUDGES)
    monkeypatch.syspath_prepend(tmp_path)
    return lambda name, **settings: {"function": f"kedge_ppo_judges:{name}", "workers": 2, **settings}


def test_a_well_behaved_function_gives_the_same_run(make_ppo, judges, tmp_path, lines):
    runs = {"there": judges("low_ids", default=0.0), "here": "kedge_ppo_judges:low_ids"}
    for name, reward in runs.items():
        make_ppo(reward, eval_size=2, run=tmp_path / name).train()
    there, here = (lines(tmp_path / name, "metrics.jsonl") for name in runs)
    assert len(there) == 3
    counts = {
        f"{name}_{reason}" for name in ("rewards/low_ids", "eval/score") for reason in ("timeouts", "errors", "deaths")
    }
    assert {row.pop(name, 0.0) for row in there for name in counts} == {0.0}
    assert there == here
    assert lines(tmp_path / "there", "samples.jsonl") == lines(tmp_path / "here", "samples.jsonl")


def test_the_run_goes_on_and_counts(make_ppo, judges, tmp_path, lines, capsys):
    rows = [{"prompt": f"the cat {i}", "mood": mood} for i, mood in enumerate(MOODS)]
    held = [{"prompt": "the dog", "mood": "raises"}, {"prompt": "a dog", "mood": "fine"}]
    reward = judges("moody", default=-4.0, time_limit=0.5)
    ppo = make_ppo(reward, prompts=rows, eval_prompts=held, run=tmp_path / "run")
    steps = list(ppo)
    assert len(steps) == 2
    for metrics in steps:  # each step asks all four
        assert metrics["rewards/moody"] == metrics["objective/scores"] == (2 - 4 - 4 - 4) / 4
        assert [metrics[f"rewards/moody_{reason}"] for reason in REASONS] == [1.0, 1.0, 1.0]
    told = [line for line in capsys.readouterr().err.splitlines() if "got the default score" in line]
    assert [line.split(";")[0] for line in told] == [
        "1 of 2 samples got the default score of 'moody'",
        "3 of 4 samples got the default score of 'moody'",
        "3 of 4 samples got the default score of 'moody'",
    ]
    samples = [row for row in lines(tmp_path / "run", "samples.jsonl") if row["split"] == "train"]
    assert {row["prompt"]: row["scores"]["score"] for row in samples} == {
        "the cat 0": 2.0, "the cat 1": -4.0, "the cat 2": -4.0, "the cat 3": -4.0
    }  # fmt: skip
    after = ppo.summary()["after"]
    assert (after["score"], after["score_errors"], after["score_deaths"]) == (-1.0, 1, 0)
