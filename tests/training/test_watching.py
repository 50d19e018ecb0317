"""Watching a run: trackers by one key, the live view, the same held-out prompts at every evaluation."""

import re
import sys

import pytest

from kedge import SFT
from kedge.errors import ConfigError
from kedge.training.sft import SFTConfig
from tracker_files import READ, from_lines

pytestmark = pytest.mark.usefixtures("offline_trackers")


@pytest.mark.parametrize("names", [pytest.param(("tensorboard",), marks=pytest.mark.slow), ("wandb", "tensorboard")])
def test_trackers_hold_the_lines_of_a_run_that_was_broken_off_and_resumed(make_ppo, tmp_path, names):
    for name in names:
        pytest.importorskip(name)
    settings = {"steps": 5, "checkpoint_every": 2, "eval_every": 2, "report_to": names}
    kwargs = {"settings": settings, "eval_size": 2, "run": tmp_path / "run"}
    for metrics in make_ppo(**kwargs):
        if metrics["episode"] == 3 * 4:
            break
    make_ppo(resume=True, **kwargs).train()
    lines = from_lines(tmp_path / "run")
    assert {step for step, _ in lines} == {0, 1, 2, 3, 4, 5}
    assert {"objective/kl", "val/explained_variance", "eval/score", "time/generate"} <= {name for _, name in lines}
    for name in names:
        assert READ[name](tmp_path / "run") == lines


def test_supervised_jobs_too(tiny_lm, tmp_path):
    pytest.importorskip("tensorboard")
    rows = [{"prompt": "the cat", "completion": " sat"}, {"prompt": "a dog", "completion": " ran"}] * 3
    config = SFTConfig(batch_size=2, report_to="tensorboard")
    SFT(tiny_lm("llama"), rows, config, eval_size=1, run=tmp_path / "run", progress=False).train()
    assert READ["tensorboard"](tmp_path / "run") == from_lines(tmp_path / "run")


def test_trackers_need_a_folder(make_ppo, tiny_lm):
    with pytest.raises(ConfigError, match="report_to: not used without a run's folder"):
        make_ppo(settings={"report_to": "tensorboard"})
    rows = [{"prompt": "the cat", "completion": " sat"}]
    with pytest.raises(ConfigError, match="report_to: not used without a run's folder"):
        SFT(tiny_lm("llama"), rows, SFTConfig(batch_size=1, report_to="wandb"))
    for make in (make_ppo, lambda settings: SFT(tiny_lm("llama"), rows, settings | {"batch_size": 1})):
        with pytest.raises(ConfigError, match="checkpoint_every: not used without a run's folder"):
            make(settings={"checkpoint_every": 2})


def test_every_evaluation_asks_the_same_prompts(make_ppo, tmp_path, lines):
    held = [f"the cat {i} sat on" for i in range(11)]
    settings = {"steps": 4, "eval_every": 1, "checkpoint_every": 2}
    kwargs = {"settings": settings, "eval_prompts": held, "run": tmp_path / "run"}
    for metrics in make_ppo(**kwargs):
        if metrics["episode"] == 3 * 4:
            break
    make_ppo(resume=True, **kwargs).train()
    rows = [row for row in lines(tmp_path / "run", "samples.jsonl") if row["split"] == "eval"]
    asked = {step: [row["prompt"] for row in rows if row["step"] == step] for step in range(5)}
    assert asked == dict.fromkeys(range(5), held[:8])
    answers = {step: [row["completion"] for row in rows if row["step"] == step] for step in range(5)}
    assert answers[0] != answers[4]  # by the policy as it then was


@pytest.mark.parametrize("estimator", ["gae", "reinforce++"])
def test_the_live_view(make_ppo, monkeypatch, estimator):
    for name, value in {"TERM": "xterm", "COLUMNS": "80", "LINES": "24"}.items():
        monkeypatch.setenv(name, value)
    written = []
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(sys.stderr, "write", written.append)
    ppo = make_ppo(settings={"advantage_estimator": estimator})
    ppo.progress = True
    [*_, last] = ppo
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", "".join(written))
    assert "PPO" in shown
    assert "2/2" in shown
    assert f"score {last['objective/scores']:.3g}   kl {last['objective/kl']:.3g}   length " in shown
    assert ("explained variance" in shown) == (estimator == "gae")
    assert re.search(r"seconds: generate \d.*  reward \d.*  estimate \d.*  update \d.*  other \d", shown)
