"""Callbacks look on, and end a training, in every trainer alike."""

import numpy as np
import pytest
import torch

from kedge import PPO, SFT, Callback, RewardModeling, open_run
from kedge.errors import ConfigError
from kedge.runs.callbacks import is_end

ROWS = [{"prompt": "the cat", "completion": " sat"}] * 12
PAIRS = [{"chosen": "the cat sat", "rejected": "the dog"}] * 12


class Watching(Callback):
    def __init__(self):
        self.seen = []

    def on_training_start(self, trainer):
        self.seen.append(("start", trainer.step_done))

    def on_step(self, trainer, metrics):
        self.seen.append(("step", trainer.step_done, metrics["lr"]))

    def on_evaluation(self, trainer, metrics):
        self.seen.append(("evaluation", trainer.step_done, all(name.startswith("eval/") for name in metrics)))

    def on_checkpoint(self, trainer, folder):
        assert any(folder.iterdir())
        self.seen.append(("checkpoint", folder.name))

    def on_training_end(self, trainer):
        self.seen.append(("end", trainer.step_done))


@pytest.fixture(params=["ppo", "sft", "reward"])
def make(request, make_ppo, tiny_lm):
    """A trainer of three steps that evaluates and keeps a checkpoint after the second."""

    def trainer(run, callbacks, **settings):
        settings = {"eval_every": 2, "checkpoint_every": 2, **settings}
        given = {"run": run, "eval_size": 2, "callbacks": callbacks}
        if request.param == "ppo":
            return make_ppo(settings={"steps": 3, **settings}, **given)
        job, rows = (SFT, ROWS) if request.param == "sft" else (RewardModeling, PAIRS)
        model = tiny_lm("llama")
        if job is RewardModeling:
            model.save(run.parent / "model")
            model = run.parent / "model"
        settings = {"batch_size": 4, "epochs": 1.2, **settings}  # of the ten that are not held out
        return job(model, rows, settings, progress=False, **given)

    return trainer


def test_what_they_are_told(make, tmp_path):
    watching = Watching()
    trainer = make(tmp_path / "run", watching)
    trainer.train()
    rate = [entry[2] for entry in watching.seen if entry[0] == "step"]
    assert watching.seen[7:] in ([], [("checkpoint", "step-000003")])  # the summary's evaluation may be the best
    assert watching.seen[:7] == [
        ("start", 0),
        ("step", 1, rate[0]),
        ("checkpoint", "step-000002"),
        ("step", 2, rate[1]),
        ("evaluation", 2, True),
        ("step", 3, rate[2]),
        ("end", 3),
    ]


@pytest.mark.parametrize("hook", ["on_step", "on_evaluation"])
def test_false_ends_the_training_as_its_end_would(make, tmp_path, hook):
    calls = []

    class Ending(Callback):
        def on_training_end(self, trainer):
            calls.append("end")

    setattr(Ending, hook, lambda self, trainer, metrics: trainer.step_done != 2)
    summary = make(tmp_path / "run", [Ending(), lambda trainer, metrics: calls.append(trainer.step_done)]).train()
    assert calls == [1, 2, "end"]
    assert (summary["steps"], "after" in summary) == (2, True)
    run = open_run(tmp_path / "run")
    assert (run.state, run.step, run.result.is_dir()) == ("done", 2, True)


@pytest.mark.parametrize("answer", [False, np.False_, torch.tensor(False)])
def test_what_ends_it(make_ppo, answer):
    ppo = make_ppo(settings={"steps": 3}, callbacks=lambda trainer, metrics: answer)
    assert ppo.train()["steps"] == 1


@pytest.mark.parametrize("answer", [None, True, 0, np.True_])
def test_what_does_not_end_it(answer):
    assert not is_end(answer)


def test_the_evaluation_that_ended_it_is_the_last(make, tmp_path, lines):
    """Seen by a function too; written once, and not made again."""
    trainer = make(tmp_path / "run", lambda trainer, metrics: not any(name.startswith("eval/") for name in metrics))
    summary = trainer.train()
    rows = lines(tmp_path / "run", "metrics.jsonl")
    assert [row["step"] for row in rows if any(name.startswith("eval/") for name in row)] == [0, 2]
    run = open_run(tmp_path / "run")
    assert run.last("eval/loss") == summary["after"].get("loss")
    assert run.checkpoints[-1].name == "step-000002"
    where = [(sample["step"], sample["split"]) for sample in run.samples]
    assert where.count((2, "eval")) == where.count((0, "eval"))


def test_one_that_was_ended_may_go_on(make, tmp_path):
    """And is summed up by what it comes to then."""
    trainer = make(tmp_path / "run", lambda trainer, metrics: trainer.step_done != 2)
    first, again = trainer.train(), trainer.train()
    assert (first["steps"], again["steps"]) == (2, 3)
    assert (
        first["after"]
        != again["after"]
        == {name.removeprefix("eval/"): value for name, value in trainer.look().metrics.items()}
    )


def test_one_that_ends_it_between_evaluations_has_the_last_one_written(make, tmp_path, lines):
    summary = make(tmp_path / "run", lambda trainer, metrics: False).train()
    rows = lines(tmp_path / "run", "metrics.jsonl")
    assert [row["step"] for row in rows if any(name.startswith("eval/") for name in row)] == [0, 1]
    assert open_run(tmp_path / "run").last("eval/loss") == summary["after"].get("loss")


def test_a_resumed_run_has_its_own(make_ppo, tmp_path):
    make_ppo(settings={"steps": 3, "checkpoint_every": 1}, run=tmp_path / "run", callbacks=lambda *_: False).train()
    watching = Watching()
    tiny = make_ppo()
    resumed = PPO.resume(
        tmp_path / "run", policy=tiny.policy.model, tokenizer=tiny.policy.tokenizer,
        reward=tiny.reward.parts[0][1].function, prompts=[prompt.record.text for prompt in tiny.prompts],
        callbacks=watching, progress=False,
    )  # fmt: skip
    assert resumed.train()["steps"] == 3
    assert [entry[:2] for entry in watching.seen if entry[0] == "step"] == [("step", 2), ("step", 3)]


@pytest.mark.parametrize("name", ["on_step_end", "_on_step", "on_update_end"])
def test_hooks_of_other_libraries_are_named(make_ppo, name):
    other = type("Other", (Callback,), {name: lambda self, *_: None})()
    with pytest.raises(ConfigError, match=rf"callback: Other\.{name} is never called; hooks are .*on_step"):
        make_ppo(callbacks=other)


def test_they_change_nothing(make, tmp_path, lines):
    for name, callbacks in (("with", Watching()), ("without", None)):
        make(tmp_path / name / "run", callbacks).train()
    assert lines(tmp_path / "with/run", "metrics.jsonl") == lines(tmp_path / "without/run", "metrics.jsonl")


def test_what_is_none(make, tmp_path):
    with pytest.raises(ConfigError, match=r"callback: 7 is neither a kedge.Callback nor a function"):
        make(tmp_path / "run", 7)
