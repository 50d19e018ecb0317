"""Checkpoints: whole or not there, the last few kept, and nothing executable in them."""

import pickle

import pytest
import torch

from kedge.errors import StorageError
from kedge.parallel import ALONE, Processes
from kedge.training.checkpoint import (
    CHECKSUMS_FILE,
    STATE_FILE,
    Writing,
    checkpoints,
    damage_in,
    load_state,
    named,
    tidy,
)
from kedge.training.sharded_state import PartsWriter

NOTHING = {"state": {}, "param_groups": []}
"""An optimizer's state before its first step."""


def save(folder, step, *, keep_last=2, text="weights", **kwargs):
    write = lambda target: (target / "model.txt").write_text(f"{text} {step}")  # noqa: E731
    return save_checkpoint(folder, step, write, keep_last=keep_last, **kwargs)


def save_checkpoint(folder, step, write, *, keep_last, best_step=None, processes=ALONE):
    """As the keeper does it."""
    state = {"moment": torch.tensor([step / 2]), "optimizer": NOTHING}
    writing = Writing(named(folder, step), state, write, processes, PartsWriter())
    writing.finish()
    tidy(folder, step, keep_last=keep_last, best_step=best_step, processes=processes)
    return writing.target


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_round_trip(tmp_path):
    target = save(tmp_path / "checkpoints", 40)
    assert target == tmp_path / "checkpoints" / "step-000040"
    assert (target / "model.txt").read_text() == "weights 40"
    assert load_state(target) == {"moment": torch.tensor([20.0]), "optimizer": NOTHING, "step": 40}
    assert checkpoints(tmp_path / "checkpoints") == [target]
    assert checkpoints(tmp_path / "nothing") == []


def test_the_last_ones_are_kept(tmp_path):
    for step in (2, 4, 10, 100):
        save(tmp_path, step)
    assert names(tmp_path) == ["step-000010", "step-000100"]
    assert [path.name for path in checkpoints(tmp_path)] == ["step-000010", "step-000100"]


def test_old_ones_go_only_when_the_new_one_is_there(tmp_path):
    save(tmp_path, 1, keep_last=1)
    seen = []
    save_checkpoint(tmp_path, 2, lambda _: seen.extend(checkpoints(tmp_path)), keep_last=1)
    assert [path.name for path in seen] == ["step-000001"]
    assert names(tmp_path) == ["step-000002"]


@pytest.mark.parametrize("agreed", [1, 2])
def test_one_that_another_process_could_not_take_part_in_is_not_there(tmp_path, monkeypatch, agreed):
    """Nothing is given its name before all have said that what is in it is whole."""
    failed = StorageError("process 1: no room")
    # That there is a folder; what is in it; what was written meanwhile; the end.
    others = iter([[]] * agreed + [failed] * 2)

    def gather(parts, mine):
        parts[:] = [mine, next(others)]

    monkeypatch.setattr("torch.distributed.all_gather_object", gather)
    with pytest.raises(StorageError, match="process 1: no room"):
        save_checkpoint(tmp_path, 2, lambda _: None, keep_last=1, processes=Processes(0, 2))
    assert names(tmp_path) == []


def test_one_whose_writing_broke_off_is_not_there(tmp_path):
    save(tmp_path, 1)

    def broken(target):
        (target / "model.txt").write_text("half")
        raise OSError("disk full")

    with pytest.raises(StorageError, match=r"step-000002: could not be written: disk full.*resume=True"):
        save_checkpoint(tmp_path, 2, broken, keep_last=1)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-000001"]
    assert not (tmp_path / "step-000002").exists()
    save(tmp_path, 2, keep_last=1)  # what was left of it is not in the way
    assert names(tmp_path) == ["step-000002"]
    assert names(tmp_path / "step-000002") == [CHECKSUMS_FILE, "model.txt", STATE_FILE]


def test_the_best_one_stays_and_has_a_name(tmp_path):
    for step in (1, 2, 3, 4, 5):
        save(tmp_path, step, best_step=2 if step > 1 else None)
    assert names(tmp_path) == ["best", "step-000002", "step-000004", "step-000005"]
    assert (tmp_path / "best" / "model.txt").read_text() == "weights 2"
    save(tmp_path, 6, best_step=6)
    assert names(tmp_path) == ["best", "step-000005", "step-000006"]
    assert (tmp_path / "best" / "model.txt").read_text() == "weights 6"


def test_steps_are_ordered_as_numbers(tmp_path):
    for step in (999_999, 1_000_000):
        save(tmp_path, step)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-999999", "step-1000000"]


class TestDamage:
    def test_none(self, tmp_path):
        assert damage_in(save(tmp_path, 1)) is None

    @pytest.mark.parametrize("name", ["model.txt", STATE_FILE])
    def test_every_bit_counts(self, tmp_path, name):
        checkpoint = save(tmp_path, 1)
        content = bytearray((checkpoint / name).read_bytes())
        content[len(content) // 2] ^= 1
        (checkpoint / name).write_bytes(content)
        assert damage_in(checkpoint) == f"{checkpoint / name}: damaged (its checksum is not that of what was written)"

    @pytest.mark.parametrize("name", ["model.txt", STATE_FILE])
    def test_cut_short_or_gone(self, tmp_path, name):
        checkpoint = save(tmp_path, 1)
        (checkpoint / name).write_bytes((checkpoint / name).read_bytes()[:-1])
        assert damage_in(checkpoint).startswith(f"{checkpoint / name}: damaged")
        (checkpoint / name).unlink()
        assert damage_in(checkpoint) == f"{checkpoint / name}: missing"

    @pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe"])
    def test_of_the_checksums_themselves(self, tmp_path, content):
        checkpoint = save(tmp_path, 1)
        (checkpoint / CHECKSUMS_FILE).write_bytes(content)
        assert damage_in(checkpoint) == f"{checkpoint / CHECKSUMS_FILE}: damaged"


def test_what_a_kill_left_behind_is_cleared_away(tmp_path):
    for name in (".step-000001.deleting", ".step-000002.writing", ".step-000001.old"):
        (tmp_path / name).mkdir()
    save(tmp_path, 3)
    assert names(tmp_path) == ["step-000003"]


def test_a_folder_that_nobody_finished_is_damaged(tmp_path):
    (tmp_path / "step-000009").mkdir()
    [found] = checkpoints(tmp_path)
    assert damage_in(found) == f"{found / CHECKSUMS_FILE}: missing"


def test_the_same_step_again_replaces(tmp_path):
    save(tmp_path, 3, text="old")
    save(tmp_path, 3, text="new")
    assert (tmp_path / "step-000003" / "model.txt").read_text() == "new 3"
    assert names(tmp_path) == ["step-000003"]


def test_a_state_runs_no_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return print, ("executed",)

    torch.save({"step": Evil()}, tmp_path / STATE_FILE)
    with pytest.raises(pickle.UnpicklingError):
        load_state(tmp_path)


def test_a_run_that_was_copied_with_its_links_followed_goes_on(tmp_path):
    save(tmp_path, 2, best_step=2)
    (tmp_path / "best").unlink()
    (tmp_path / "best").mkdir()  # as cp -rL, a zip or a synced folder leaves it
    (tmp_path / "best/model.txt").write_text("weights 2")
    save(tmp_path, 3, best_step=3)
    assert (tmp_path / "best").readlink().name == "step-000003"
