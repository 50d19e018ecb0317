"""One process at a time on a run, whoever begins, goes on or is killed."""

import contextlib
import gc
import json
import os
import subprocess
import time

import pytest

from kedge.config.settings import read_recipe
from kedge.errors import ConfigError, KedgeError
from kedge.runs.folder import RunFolder

RECIPE = {"ppo": {"steps": 3}}


def begin(said, path, flags, training):
    """In another process: a run there, and what became of it."""
    try:
        run = RunFolder(path, RECIPE, **flags)
        run.start()
        run.write_metrics(1, {"loss": 0.5})
        said.send("started")
        time.sleep(training)
    except KedgeError as error:
        said.send(f"refused {error}")


@pytest.fixture
def other(processes):
    """``with other(path) as process:`` another process begins a run there; ``process.says()`` waits for its word."""

    @contextlib.contextmanager
    def start(path, *, training=60.0, **flags):
        ours, theirs = processes.Pipe(duplex=False)
        process = processes.Process(target=begin, args=(theirs, path, flags, training))
        process.start()
        theirs.close()
        process.says = ours.recv
        try:
            yield process
        finally:
            process.kill()
            process.join()
            ours.close()

    return start


@pytest.mark.parametrize("flags", [{}, {"resume": True}, {"overwrite": True}], ids=str)
def test_a_run_of_a_living_process_is_refused_and_one_of_a_killed_process_is_not(tmp_path, other, flags):
    path = tmp_path / "runs/one"
    with other(path) as process:
        assert process.says() == "started"
        before = (path / "metrics.jsonl").read_bytes()
        with pytest.raises(ConfigError, match=rf"one: process {process.pid} on \S+ has been working in it since 20"):
            RunFolder(path, RECIPE, **flags)
        process.kill()
        process.join()
        assert (path / "metrics.jsonl").read_bytes() == before
    if flags:
        RunFolder(path, RECIPE, **flags).start()
    else:
        with pytest.raises(ConfigError, match="exists; "):
            RunFolder(path, RECIPE)


def test_two_that_begin_together(tmp_path, other):
    path = tmp_path / "runs/one"
    mine = RunFolder(path, RECIPE)  # both have found it free
    with other(path) as process:
        assert process.says() == "started"
        with pytest.raises(ConfigError, match=f"process {process.pid} "):
            mine.start()
        process.kill()
    with pytest.raises(ConfigError, match="exists; "):  # that one is gone, and its run is not
        mine.start()
    assert json.loads((path / "metrics.jsonl").read_text()) == {"step": 1, "loss": 0.5}


def test_two_that_go_on_together(tmp_path, other):
    path = tmp_path / "one"
    RunFolder(path, RECIPE).start()
    mine = RunFolder(path, RECIPE, resume=True)
    with other(path, resume=True, training=0) as process:
        assert process.says() == "started"
        process.join()
    with pytest.raises(ConfigError, match="has been worked on since it was read; start again"):
        mine.start()


def test_ten_at_once_are_one(tmp_path, other):
    with contextlib.ExitStack() as stack:
        starts = [stack.enter_context(other(tmp_path / "one", training=20)) for _ in range(10)]
        said = [process.says().split()[0] for process in starts]
        assert sorted(said) == ["refused"] * 9 + ["started"]


def test_it_is_given_back(tmp_path, other):
    path = tmp_path / "one"
    run = RunFolder(path, RECIPE)
    for end in (RunFolder.close, lambda run: run.write_summary({})):
        run.start()
        end(run)
        with other(path, overwrite=True, training=0) as process:
            assert process.says() == "started"
            process.join()
        run = RunFolder(path, RECIPE, resume=True)
    run.start()
    del run
    gc.collect()
    with other(path, resume=True, training=0) as process:
        assert process.says() == "started"


def test_a_process_may_take_up_its_own_run(tmp_path, other):
    path = tmp_path / "one"
    first = RunFolder(path, RECIPE)
    first.start()  # and it is stopped, and stays in a notebook's variable
    again = RunFolder(path, RECIPE, resume=True)
    again.start()
    del first
    gc.collect()
    with other(path, resume=True) as process:
        assert process.says().startswith(f"refused {path}: process {os.getpid()} ")


def test_a_lock_is_no_run(tmp_path):
    (tmp_path / "one").mkdir()
    for name in (".lock", ".lock.json", "fingerprints.json", ".recipe.toml.writing", ".fingerprints.json.writing"):
        (tmp_path / "one" / name).touch()
    RunFolder(tmp_path / "one", RECIPE, resume=True).began_with({"policy": "x"})
    RunFolder(tmp_path / "one", RECIPE).start()
    assert read_recipe(tmp_path / "one/recipe.toml") == RECIPE


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"file/one.*(Not a directory|File exists)"):
        RunFolder(tmp_path / "file/one", RECIPE).start()


def test_a_folder_that_cannot_be_written(tmp_path):
    disk = tmp_path / "disk"
    RunFolder(disk / "one", RECIPE).start()
    bound = subprocess.run(["mount", "--bind", disk, disk], capture_output=True)
    if bound.returncode:
        pytest.skip("no right to make a read-only folder here")
    subprocess.run(["mount", "-o", "remount,ro,bind", disk], check=True)
    try:
        for folder, flags in (("one", {"resume": True}), ("one", {"overwrite": True}), ("two", {})):
            with pytest.raises(ConfigError, match=rf"disk/{folder}.*Read-only"):
                RunFolder(disk / folder, RECIPE, **flags).start()
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)
