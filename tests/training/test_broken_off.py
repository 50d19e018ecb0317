"""Runs that are broken off between two things that belong together: neither is lost, and nothing is taken for it."""

import shutil

import pytest

from kedge.errors import ConfigError, RewardError, Stopped


def distinct(prompts, completions):
    return [float(len(set(text))) for text in completions]


def same(prompts, completions):
    return [1.0] * len(completions)


def until(ppo, step):
    for _ in ppo:
        if ppo.step_done == step:
            return


def test_a_line_that_was_cut_off_within_a_character(make_ppo, tmp_path, lines):
    settings = {"steps": 4, "checkpoint_every": 1}
    make_ppo(distinct, settings, run=tmp_path / "whole").train()
    until(make_ppo(distinct, settings, run=tmp_path / "run"), 2)
    with (tmp_path / "run/samples.jsonl").open("ab") as file:
        file.write('{"step": 3, "prompt": "é'.encode()[:-1])
    make_ppo(distinct, settings, run=tmp_path / "run", resume=True).train()
    assert lines(tmp_path / "run", "samples.jsonl") == lines(tmp_path / "whole", "samples.jsonl")


def test_a_judge_that_fails_at_the_end_does_not_take_the_result_along(make_ppo, tmp_path):
    calls = []

    def reward(prompts, completions):
        calls.append(1)
        return [1.0 * len(text) for text in completions][len(calls) == 5 :]

    with pytest.raises(RewardError, match="1 scores for 2"):
        make_ppo(reward, {"steps": 3}, run=tmp_path / "run", eval_size=2).train()
    assert (tmp_path / "run/policy/model.safetensors").is_file()


def test_overwriting_that_was_broken_off_can_be_done_again(make_ppo, tmp_path, monkeypatch):
    make_ppo(distinct, {"steps": 2, "checkpoint_every": 1}, run=tmp_path / "run").train()

    class KilledError(BaseException):
        pass

    def killed(path, *args, **kwargs):
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KilledError):
            make_ppo(distinct, {"steps": 2}, run=tmp_path / "run", overwrite=True).train()
    make_ppo(distinct, {"steps": 2}, run=tmp_path / "run", overwrite=True).train()
    assert not (tmp_path / "run/checkpoints").exists()


def test_a_wrong_best_metric_deletes_nothing(make_ppo, tmp_path):
    make_ppo(distinct, {"steps": 2}, run=tmp_path / "run", eval_size=2).train()
    wrong = {"steps": 2, "checkpoint_every": 1, "best_metric": "-scoore"}
    with pytest.raises(ConfigError, match="'scoore' is not measured; there are: distinct_1"):
        make_ppo(distinct, wrong, run=tmp_path / "run", eval_size=2, overwrite=True).train()
    assert (tmp_path / "run/policy").is_dir()
    with pytest.raises(ConfigError, match="best_metric: not used without held-out"):
        make_ppo(distinct, wrong, run=tmp_path / "other")


def test_another_best_metric_after_a_resume_begins_anew(make_ppo, tmp_path):
    settings = {"steps": 4, "checkpoint_every": 1, "eval_every": 1}
    until(make_ppo(distinct, settings, run=tmp_path / "run", eval_size=2), 2)
    other = settings | {"best_metric": "-length"}  # six tokens: more than the score was
    best = make_ppo(distinct, other, run=tmp_path / "run", eval_size=2, resume=True).train()["best"]
    assert (best["metric"], best["step"]) == ("length", 3)


def test_a_pause_at_an_evaluation_keeps_that_too(make_ppo, tmp_path):
    guards = {"explained_variance_steps": 2, "explained_variance_limit": 1.0}
    settings = {"steps": 4, "checkpoint_every": 4, "eval_every": 2, "guards": guards | {"explained_variance": "pause"}}
    with pytest.raises(Stopped, match="after step 2"):
        make_ppo(distinct, settings, run=tmp_path / "run", eval_size=2, metrics=[same]).train()
    resumed = make_ppo(distinct, settings, run=tmp_path / "run", eval_size=2, metrics=[same], resume=True)
    assert resumed.train()["best"] == {"step": 2, "metric": "same", "value": 1.0}


def test_a_pause_silences_no_other_guard(make_ppo, tmp_path, lines):
    guards = {"explained_variance": "pause", "explained_variance_steps": 2, "explained_variance_limit": 1.0}
    settings = {"steps": 4, "guards": guards | {"patience": 2}}
    with pytest.raises(Stopped, match="paused by the guard explained_variance"):
        make_ppo(same, settings, run=tmp_path / "run").train()
    spoke = [(event["step"], event["event"]) for event in lines(tmp_path / "run", "events.jsonl")]
    assert spoke == [(1, "equal_rewards"), (2, "explained_variance")]
