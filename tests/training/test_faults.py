"""A full disk, damaged checkpoints, and a long run: nothing is lost, nothing grows."""

import json
import multiprocessing
import os
import shutil
import subprocess

import numpy as np
import pytest
import victim

from kedge.errors import StorageError
from kedge.training.checkpoint import checkpoints, damage_in

MEBIBYTE = 2**20


@pytest.fixture(scope="module")
def model(tiny_lm, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny_lm("llama").save(folder)
    return folder


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 8 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no right to make a small disk here: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def fill(disk, leaving):
    """Write a file that leaves so many bytes free."""
    free = shutil.disk_usage(disk).free
    (disk / "filler").write_bytes(b"\0" * max(0, free - int(leaving)))


def size(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    run = tmp_path_factory.mktemp("whole") / "run"
    victim.trainer("shared", model, run).train()
    return run


def same(run, whole, lines):
    for name in ("metrics.jsonl", "samples.jsonl", "events.jsonl"):
        assert lines(run, name) == lines(whole, name)
    assert (run / "policy/model.safetensors").read_bytes() == (whole / "policy/model.safetensors").read_bytes()


# Of the room that a checkpoint needs: none at all (the step's own lines do not fit), and in the midst of the policy's
# weights, the tokenizer, the critic, and the state.
@pytest.mark.parametrize("share", [0.0, 0.1, 0.4, 0.6, 0.95])
def test_the_disk_is_full_at_a_checkpoint(model, whole, small_disk, lines, share):
    run = small_disk / "run"
    ppo = victim.trainer("shared", model, run)
    with pytest.raises(StorageError, match=r"disk/run/.*could not be written: .*make room .*resume=True"):  # noqa: PT012
        for _ in ppo:
            if ppo.step_done == 3:
                fill(small_disk, share * size(run / "checkpoints/step-000003"))
        ppo.summary()
    kept = checkpoints(run / "checkpoints")
    assert kept
    assert all(damage_in(checkpoint) is None for checkpoint in kept)
    assert not list((run / "checkpoints").glob(".*writing"))
    (small_disk / "filler").unlink()
    resumed = victim.trainer("shared", model, run, resume=True)
    assert resumed.step_done >= 3
    resumed.train()
    same(run, whole, lines)


@pytest.mark.parametrize("kind", ["sft", "reward", "shared"])
def test_the_disk_is_full_at_the_end(model, small_disk, kind):
    run = small_disk / "run"
    job = victim.trainer(kind, model, run, checkpoint_every=0)
    save = job.save

    def full(folder):
        fill(small_disk, 8192)
        save(folder)

    job.save = full
    with pytest.raises(StorageError, match="could not be written"):
        job.train()
    assert not (run / victim.RESULTS.get(kind, ["policy"])[0]).exists()


def test_the_disk_is_full_at_the_start(model, small_disk):
    fill(small_disk, 0)
    with pytest.raises(StorageError, match=r"disk/run/.*: could not be written"):
        victim.trainer("shared", model, small_disk / "run").train()
    (small_disk / "filler").unlink()
    victim.trainer("shared", model, small_disk / "run").train()


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 8
    path.write_bytes(content)


def cut_short(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damage", [flipped, cut_short, os.unlink], ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", ["policy/model.safetensors", "critic/value_head.safetensors", "state.pt"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(model, whole, tmp_path, lines, capsys, damage, name):
    run = tmp_path / "run"
    shutil.copytree(whole, run, symlinks=True)
    newest = checkpoints(run / "checkpoints")[-1]
    damage(newest / name)
    resumed = victim.trainer("shared", model, run, resume=True)
    assert f"{newest / name}: " in capsys.readouterr().err
    assert resumed.step_done == int(checkpoints(run / "checkpoints")[-2].name[5:])
    resumed.train()
    same(run, whole, lines)
    assert damage_in(newest) is None  # written again


def test_only_damaged_ones(model, whole, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole, run, symlinks=True)
    for checkpoint in checkpoints(run / "checkpoints"):
        flipped(checkpoint / "state.pt")
    with pytest.raises(StorageError, match=r"(?s)state\.pt: damaged.*state\.pt: damaged.*no whole checkpoint is left"):
        victim.trainer("shared", model, run, resume=True)


@pytest.mark.slow
def test_five_hundred_steps_do_not_grow(model, tmp_path):
    """Least-squares slope of resident memory under 1 KB a step after a warm-up of 100, and no file left open."""
    # In a process of its own: pytest keeps every line that is logged.
    process = multiprocessing.get_context("spawn").Process(target=victim.soak, args=(model, tmp_path / "run", 500))
    process.start()
    process.join()
    lines = (tmp_path / "run/soak.jsonl").read_text().splitlines()
    memory, files = zip(*(json.loads(line) for line in lines[100:]), strict=True)
    slope = np.polyfit(range(len(memory)), memory, 1)[0]
    print(f"{slope:.0f} bytes a step, {memory[0] / MEBIBYTE:.1f} -> {memory[-1] / MEBIBYTE:.1f} MiB")
    assert len(memory) == 400
    assert slope < 1000
    assert files[0] == files[-1]
