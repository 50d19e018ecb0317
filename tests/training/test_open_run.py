"""A run of each trainer, read while it runs and afterwards."""

import subprocess
import sys

import pytest

import kedge
from kedge import SFT
from kedge.models.language_model import load_language_model


def state_seen_by_another_process(path):
    look = f"import kedge; print(kedge.open_run({str(path)!r}).state)"
    return subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True).stdout.strip()


def test_a_run_that_runs_that_was_left_and_that_is_done(make_ppo, tmp_path):
    settings = {"steps": 3, "checkpoint_every": 1, "keep_last": 9}
    seen = []
    for metrics in make_ppo(settings=settings, run=tmp_path / "run", eval_size=2):
        run = kedge.open_run(tmp_path / "run")
        assert (run.state, run.summary, run.step) == ("running", None, len(seen) + 1)
        assert state_seen_by_another_process(run.path) == "running"
        seen.append(metrics)
        if len(seen) == 2:
            break
    assert run.state == state_seen_by_another_process(run.path) == "stopped"
    assert [path.name for path in run.checkpoints] == ["step-000001", "step-000002"]
    ppo = make_ppo(settings=settings, run=tmp_path / "run", eval_size=2, resume=True)
    summary = ppo.train()
    assert (run.state, run.step, run.summary) == ("done", 3, summary)
    assert run.metrics["objective/scores"][1:3] == [metrics["objective/scores"] for metrics in seen]
    assert run.settings["ppo.keep_last"] == 9
    assert {sample["split"] for sample in run.samples} == {"train", "eval"}
    lm = load_language_model(run.result, device="cpu")
    assert all(a.equal(b) for a, b in zip(lm.model.parameters(), ppo.policy.model.parameters(), strict=True))


def test_a_supervised_run(tiny_lm, tmp_path):
    rows = [{"prompt": "the cat", "completion": " sat"}] * 8
    summary = SFT(tiny_lm("llama"), rows, {"batch_size": 4}, eval_size=4, run=tmp_path / "run", progress=False).train()
    run = kedge.open_run(tmp_path / "run/policy")
    assert (run.stage, run.state) == ("sft", "done")
    assert not (tmp_path / "run/samples.jsonl").exists()
    assert run.last("eval/loss") == pytest.approx(summary["after"]["loss"])
