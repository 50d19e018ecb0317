"""What a run leaves behind, and what it never destroys."""

import json
import time

import pytest

from kedge.config.settings import read_recipe
from kedge.errors import ConfigError
from kedge.runs.folder import RunFolder, Timer

RECIPE = {"ppo": {"steps": 3}}


@pytest.fixture
def run(tmp_path):
    """A run that is under way."""
    folder = RunFolder(tmp_path / "runs" / "one", RECIPE)
    folder.start()
    return folder


def lines(folder, name):
    return [json.loads(line) for line in (folder.path / name).read_text(encoding="utf-8").split("\n")[:-1]]


def test_nothing_is_written_before_start(tmp_path):
    folder = RunFolder(tmp_path / "runs" / "one", RECIPE)
    assert not (tmp_path / "runs").exists()
    folder.start()
    assert read_recipe(folder.path / "recipe.toml") == RECIPE
    assert folder.checkpoints == folder.path / "checkpoints"


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("file/run", "Not a directory"),
        ("x" * 300, "File name too long"),
        ("a/" + "x" * 300, "File name too long"),
        ("nul\0run", "null byte"),
        ("/proc/kedge-run", "No such file"),
    ],
)
def test_a_path_that_cannot_be_written_is_refused_at_once(tmp_path, path, why):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=f"cannot be written.*{why}.*name another folder with run="):
        RunFolder(tmp_path / path, RECIPE)
    assert [child.name for child in tmp_path.iterdir()] == ["file"]


def test_refuses_a_run_that_exists(run):
    with pytest.raises(ConfigError, match=r"one: exists; resume=True .*overwrite=True"):
        RunFolder(run.path, RECIPE)
    with pytest.raises(ConfigError, match="exclude each other"):
        RunFolder(run.path, RECIPE, overwrite=True, resume=True)


def test_overwrite_deletes_only_at_start(run):
    run.write_metrics(1, {"loss": 0.5})
    folder = RunFolder(run.path, {"ppo": {"steps": 4}}, overwrite=True)
    assert (run.path / "metrics.jsonl").is_file()
    assert read_recipe(run.path / "recipe.toml") == RECIPE
    folder.start()
    assert not (run.path / "metrics.jsonl").exists()
    assert read_recipe(run.path / "recipe.toml") == {"ppo": {"steps": 4}}


def test_resume_keeps_everything(run):
    run.write_metrics(1, {"loss": 0.5})
    RunFolder(run.path, {"ppo": {"steps": 9}}, resume=True).start()
    assert lines(run, "metrics.jsonl") == [{"step": 1, "loss": 0.5}]
    assert read_recipe(run.path / "recipe.toml") == {"ppo": {"steps": 9}}


def test_overwrite_deletes_what_a_run_writes_and_nothing_else(run):
    (run.path / "policy").mkdir()
    (run.path / "thesis.txt").write_text("years of work")
    RunFolder(run.path, RECIPE, overwrite=True).start()
    left = sorted(path.name for path in run.path.iterdir())
    assert left == [".lock", ".lock.json", "recipe.toml", "thesis.txt"]


def test_where_you_work_is_no_run_folder(run, monkeypatch):
    monkeypatch.chdir(run.path)
    for path in (".", "..", run.path):
        with pytest.raises(ConfigError, match="is where you work"):
            RunFolder(path, RECIPE, overwrite=True)


@pytest.mark.parametrize("flag", ["overwrite", "resume"])
def test_what_is_not_a_run_is_left_alone(tmp_path, flag):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match=r"not a run \(no recipe\.toml in it\)"):
        RunFolder(tmp_path, RECIPE, **{flag: True})
    with pytest.raises(ConfigError, match="not a run"):
        RunFolder(tmp_path / "thesis.txt", RECIPE, **{flag: True})
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_an_empty_folder_will_do(tmp_path):
    RunFolder(tmp_path, RECIPE).start()
    assert (tmp_path / "recipe.toml").is_file()


def test_lines(run):
    run.write_metrics(1, {"objective/kl": 0.25})
    run.write_metrics(2, {"objective/kl": 0.5})
    run.write_samples([{"step": 2, "prompt": "ü\n"}, {"step": 2, "prompt": "b"}])
    run.write_summary({"score": {"before": 1, "after": "ü"}})
    assert lines(run, "metrics.jsonl") == [{"step": 1, "objective/kl": 0.25}, {"step": 2, "objective/kl": 0.5}]
    assert lines(run, "samples.jsonl") == [{"step": 2, "prompt": "ü\n"}, {"step": 2, "prompt": "b"}]
    text = (run.path / "summary.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"score": {"before": 1, "after": "ü"}}


def test_an_evaluation_joins_the_line_of_its_step(run):
    run.complete_metrics(0, {"eval/score": 0.5})
    for step in (1, 2):
        run.write_metrics(step, {"loss": step})
    run.complete_metrics(2, {"eval/score": 0.75})
    whole = [{"step": 0, "eval/score": 0.5}, {"step": 1, "loss": 1}, {"step": 2, "loss": 2, "eval/score": 0.75}]
    assert lines(run, "metrics.jsonl") == whole
    run.forget_after(2)
    assert lines(run, "metrics.jsonl") == whole  # a longer run goes on after it
    run.forget_after(2, evaluation_too=True)  # it is done again
    assert lines(run, "metrics.jsonl") == [*whole[:2], {"step": 2, "loss": 2}]
    run.complete_metrics(2, {"eval/score": 0.75})
    assert lines(run, "metrics.jsonl") == whole
    run.forget_after(0, evaluation_too=True)
    assert lines(run, "metrics.jsonl") == []


def test_forget_after(run):
    for step in (1, 2, 3, 4):
        run.write_metrics(step, {"loss": step})
        run.write_samples([{"step": step, "prompt": "a"}] * 2)
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')  # killed here
    run.forget_after(2)
    assert [line["step"] for line in lines(run, "metrics.jsonl")] == [1, 2]
    assert [line["step"] for line in lines(run, "samples.jsonl")] == [1, 1, 2, 2]
    run.write_metrics(3, {"loss": 3})
    assert [line["step"] for line in lines(run, "metrics.jsonl")] == [1, 2, 3]
    run.forget_after(0)
    assert (run.path / "metrics.jsonl").read_text() == ""


def test_forget_after_without_files(run):
    run.forget_after(3)
    assert not (run.path / "metrics.jsonl").exists()


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85"])
def test_forget_after_unicode_line_separators(run, separator):
    run.write_samples([{"step": 1, "completion": f"a{separator}b"}, {"step": 2, "completion": "c"}])
    run.forget_after(1)
    assert lines(run, "samples.jsonl") == [{"step": 1, "completion": f"a{separator}b"}]


def test_timer():
    timer = Timer()
    with timer("a"):
        time.sleep(0.02)
    with timer.lap() as lap:
        with timer("a"):
            time.sleep(0.01)
        with timer("b"):
            time.sleep(0.01)
        time.sleep(0.02)
    with pytest.raises(KeyError), timer("c"):
        raise KeyError
    assert set(timer.seconds) == {"a", "b", "c"}
    assert 0.03 <= timer.seconds["a"] < 1
    assert 0.01 <= lap["a"] < timer.seconds["a"]
    assert set(lap) == {"a", "b", "other"}
    assert 0.02 <= lap["other"] < 1
