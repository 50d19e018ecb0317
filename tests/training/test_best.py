"""The best checkpoint: by a metric that the reward does not optimise, where there is one."""

import json

import pytest

from kedge.errors import ConfigError


def scripted(*values):
    """A metric that says these numbers, an evaluation after the other (the first is of the reference)."""
    left = list(values)

    def judge(prompts, completions):
        value = left.pop(0)
        return [value] * len(completions)

    return judge


def best_of(make_ppo, run, judge, **settings):
    settings = {"steps": 5, "eval_every": 1, "checkpoint_every": 5, "keep_last": 1} | settings
    summary = make_ppo(settings=settings, run=run, metrics=[judge], eval_size=2).train()
    assert summary["best"] == json.loads((run / "summary.json").read_text())["best"]
    return summary["best"], sorted(path.name for path in (run / "checkpoints").iterdir())


def test_the_highest_after_a_step(make_ppo, tmp_path):
    found, kept = best_of(make_ppo, tmp_path / "run", scripted(9.0, 1.0, 4.0, 3.0, 2.0, 3.5))
    assert found == {"step": 2, "metric": "judge", "value": 4.0}
    assert kept == ["best", "step-000002", "step-000005"]
    assert (tmp_path / "run/checkpoints/best").readlink().name == "step-000002"


def test_a_minus_is_the_lowest(make_ppo, tmp_path):
    numbers = scripted(9.0, 1.0, 4.0, 0.5, 2.0, 3.5)
    found, kept = best_of(make_ppo, tmp_path / "run", numbers, best_metric="-judge")
    assert found == {"step": 3, "metric": "judge", "value": 0.5, "lowest": True}
    assert kept == ["best", "step-000003", "step-000005"]


def test_the_last_one_too(make_ppo, tmp_path):
    found, kept = best_of(make_ppo, tmp_path / "run", scripted(0.0, 1.0, 2.0, 3.0, 4.0, 5.0))
    assert found["step"] == 5
    assert kept == ["best", "step-000005"]


def test_the_first_of_equals(make_ppo, tmp_path):
    assert best_of(make_ppo, tmp_path / "run", scripted(0.0, 1.0, 1.0, 1.0, 1.0, 1.0))[0]["step"] == 1


def test_a_metric_that_is_not_measured(make_ppo, tmp_path):
    with pytest.raises(ConfigError, match=r"best_metric: 'gold' is not measured; there are: .*judge"):
        best_of(make_ppo, tmp_path / "run", scripted(1.0), best_metric="gold")


def test_without_another_judge_it_is_the_score(make_ppo, tmp_path):
    settings = {"steps": 3, "eval_every": 1, "checkpoint_every": 3}
    summary = make_ppo(settings=settings, run=tmp_path / "run", eval_size=2).train()
    assert summary["best"]["metric"] == "score"


def test_the_other_way_round_after_a_resume_is_nothing_to_compare_with(make_ppo, tmp_path):
    settings = {"steps": 2, "eval_every": 1, "checkpoint_every": 1, "best_metric": "judge"}
    kwargs = {"metrics": [{"function": lambda completions: judged(completions), "name": "judge"}], "eval_size": 2}
    judged = scripted_completions(0.0, 1.0, 9.0)
    make_ppo(settings=settings, run=tmp_path / "run", **kwargs).train()
    judged = scripted_completions(0.0, 9.5, 9.7, 9.7)
    changed = settings | {"steps": 4, "best_metric": "-judge"}
    resumed = make_ppo(settings=changed, run=tmp_path / "run", resume=True, **kwargs)
    assert resumed.train()["best"] == {"step": 3, "metric": "judge", "value": 9.5, "lowest": True}  # below 9.0 is none


def test_what_was_the_best_before_a_resume_still_is(make_ppo, tmp_path):
    settings = {"steps": 2, "eval_every": 1, "checkpoint_every": 1, "keep_last": 1}
    kwargs = {"metrics": [{"function": lambda completions: judged(completions), "name": "judge"}], "eval_size": 2}
    judged = scripted_completions(0.0, 9.0, 1.0)
    make_ppo(settings=settings, run=tmp_path / "run", **kwargs).train()
    judged = scripted_completions(0.0, 3.0, 2.0)
    resumed = make_ppo(settings=settings | {"steps": 4}, run=tmp_path / "run", resume=True, **kwargs)
    assert resumed.train()["best"] == {"step": 1, "metric": "judge", "value": 9.0}
    kept = sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir())
    assert kept == ["best", "step-000001", "step-000004"]


def scripted_completions(*values):
    judge = scripted(*values)
    return lambda completions: judge(None, completions)


def test_infinity_is_not_the_best(make_ppo, tmp_path):
    ppo = make_ppo(settings={"checkpoint_every": 1}, run=tmp_path / "run", eval_size=1)
    assert not ppo.keeper._is_best(1, {"eval/score": float("inf")})
    assert ppo.keeper._is_best(1, {"eval/score": 1.0})
