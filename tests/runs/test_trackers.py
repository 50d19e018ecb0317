"""TensorBoard and Weights & Biases hold what metrics.jsonl holds: the same names, steps and numbers, none twice."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from kedge.errors import ConfigError
from kedge.parallel import Processes
from kedge.runs.folder import RunFolder
from kedge.training.sft import SFTConfig
from tracker_files import READ, from_lines, wandb_records

pytest.importorskip("wandb")
pytestmark = pytest.mark.usefixtures("offline_trackers")

RECIPE = {"ppo": {"steps": 9, "kl_coef": 0.25}}


@pytest.fixture(params=list(READ))
def tracker(request):
    return request.param


@pytest.fixture
def begin(tmp_path, tracker):
    """``begin(after=step, again=False, **kwargs)``: the run's folder, begun or resumed after a step."""

    def make(after=0, *, again=False, report_to=(tracker,), **kwargs):
        run = RunFolder(tmp_path / "one", RECIPE, **kwargs)
        run.report_to(report_to)
        run.start()
        run.forget_after(after, evaluation_too=again or after == 0)
        return run

    return make


def steps(run, *numbers):
    for step in numbers:
        run.write_metrics(step, {"objective/kl": step / 8, "loss/policy_avg": -float(step)})


def test_what_is_written_is_what_the_lines_say(begin, tracker):
    run = begin()
    run.write_metrics(0, {"eval/score": 0.5})
    steps(run, 1, 2, 3)
    run.write_metrics(3, {"eval/score": 0.75})
    run.write_summary({})
    assert READ[tracker](run.path) == from_lines(run.path)
    assert len(from_lines(run.path)) == 8


KILLED = """
import os, signal, sys
from kedge.parallel import Processes
from kedge.runs.folder import RunFolder
run = RunFolder("one", {"ppo": {"steps": 9, "kl_coef": 0.25}})
run.report_to([sys.argv[1]])
run.start()
run.forget_after(0, evaluation_too=True)
run.write_metrics(0, {"eval/score": 0.5})
for step in (1, 2, 3, 4):
    run.write_metrics(step, {"objective/kl": step / 8, "loss/policy_avg": -float(step)})
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_run_that_was_killed_goes_on_without_a_step_twice(begin, tracker, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}  # a machine of its own
    done = subprocess.run([sys.executable, "-c", KILLED, tracker], cwd=tmp_path, env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    time.sleep(1.1)  # TensorBoard's files are read in the order of the seconds in their names
    run = begin(after=2, resume=True)
    steps(run, 3, 4, 5)
    run.write_metrics(5, {"eval/score": 1.0})
    run.write_summary({})
    assert {step for step, _ in from_lines(run.path)} == {0, 1, 2, 3, 4, 5}
    assert READ[tracker](run.path) == from_lines(run.path)


@pytest.mark.parametrize("after", [2, 3])
def test_a_finished_run_that_is_resumed_goes_on_without_a_step_twice(begin, tracker, after):
    run = begin()
    steps(run, 1, 2, 3)
    run.write_metrics(3, {"eval/score": 0.75})
    run.write_summary({})
    run = begin(after=after, again=after == 3, resume=True)
    steps(run, *range(after + 1, 4))
    run.write_metrics(3, {"eval/score": 0.75})
    run.write_summary({})
    assert len(from_lines(run.path)) == 7
    assert READ[tracker](run.path) == from_lines(run.path)


def test_a_tracker_that_comes_in_at_a_resume_gets_what_was_before(begin, tracker):
    run = begin(report_to=())
    steps(run, 1, 2, 3)
    run.write_summary({})
    assert not (run.path / tracker).exists()
    run = begin(after=2, resume=True)
    steps(run, 3)
    run.write_summary({})
    assert READ[tracker](run.path) == from_lines(run.path)


def test_overwriting_deletes_what_trackers_wrote(begin, tracker):
    run = begin()
    steps(run, 1, 2, 3)
    run.write_summary({})
    run = begin(overwrite=True)
    steps(run, 1)
    run.write_summary({})
    assert READ[tracker](run.path) == from_lines(run.path)
    assert len(from_lines(run.path)) == 2


@pytest.mark.parametrize("tracker", ["wandb"])
def test_the_run_at_weights_and_biases(begin, tracker):
    told = []
    for after in (0, 1):
        run = begin(after=after, resume=after > 0)
        steps(run, after + 1)
        run.write_summary({})
        told += [record.run for record in wandb_records(run.path) if record.WhichOneof("record_type") == "run"]
    assert len(told) == 2
    assert len({one.run_id for one in told}) == 1
    assert {(one.project, one.display_name) for one in told} == {("kedge", "one")}
    config = {update.key: json.loads(update.value_json) for update in told[0].config.update}
    assert config["ppo"] == RECIPE["ppo"]


def test_only_the_first_process_writes(begin, tmp_path, monkeypatch):
    monkeypatch.setattr("kedge.runs.folder.join", lambda: Processes(1, 1))  # not the first, and nobody to wait for
    run = begin()
    steps(run, 1)
    run.write_summary({})
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_installed_is_said_at_once(begin, tracker, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match=rf"report_to='{tracker}': .*; pip install 'kedge\[{tracker}\]'"):
        begin()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("tracker", ["wandb"])
def test_a_refusal_of_weights_and_biases_is_an_error_with_a_fix(begin, tracker, monkeypatch):
    import wandb

    def refuse(**_):
        raise wandb.errors.UsageError("No API key configured.")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(ConfigError, match=r"No API key configured\.; try `wandb login`, or WANDB_MODE=offline"):
        begin()


def test_the_setting():
    assert SFTConfig(report_to="wandb").report_to == ("wandb",)
    assert SFTConfig(report_to=["tensorboard", "wandb"]).report_to == ("tensorboard", "wandb")
    assert SFTConfig().report_to == SFTConfig(report_to="none").report_to == ()
    assert SFTConfig(**SFTConfig(report_to="wandb").resolved()).report_to == ("wandb",)
    with pytest.raises(ConfigError, match=r"report_to.*'tensorboard' or 'wandb', got 'tensorbord'"):
        SFTConfig(report_to="tensorbord")
