"""Whole or not at all."""

import math
import os
import sys

import pytest

from kedge.errors import StorageError
from kedge.storage import writing
from kedge.storage.writing import old_of, remove_folder, strict_json, whole_folder, write_text


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_text_replaces_the_old_one(tmp_path):
    for text in ("old", "new ü\n"):
        write_text(tmp_path / "a.txt", text)
        assert (tmp_path / "a.txt").read_text(encoding="utf-8") == text
    assert names(tmp_path) == ["a.txt"]


def test_a_text_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    write_text(tmp_path / "a.txt", "old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(StorageError, match=r"a\.txt: could not be written: .*No space left.*resume=True"):
        write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "old"


def test_a_folder_is_seen_when_it_is_whole(tmp_path):
    for text in ("old", "new"):
        with whole_folder(tmp_path / "a") as aside:
            (aside / "inner").mkdir()
            (aside / "inner" / "file").write_text(text)
            assert not (tmp_path / "a" / "inner" / "file").exists() or text == "new"
        assert (tmp_path / "a" / "inner" / "file").read_text() == text
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, OSError])
def test_a_folder_that_breaks_off_leaves_the_old_one(tmp_path, error):
    with whole_folder(tmp_path / "a") as aside:
        (aside / "file").write_text("old")
    with pytest.raises(StorageError if error is OSError else error), whole_folder(tmp_path / "a") as aside:  # noqa: PT012
        (aside / "file").write_text("new")
        raise error
    assert (tmp_path / "a" / "file").read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_what_a_kill_left_is_not_in_the_way(tmp_path):
    for name in (".a.writing", ".a.old", ".a.deleting"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("left")
    with whole_folder(tmp_path / "a") as aside:
        assert names(aside) == []
    remove_folder(tmp_path / "a")
    assert not [name for name in names(tmp_path) if "left" in name or not name.startswith(".a")]
    assert names(tmp_path) == []


def test_json_is_strict():
    text = strict_json({"a": [math.nan, (1.0, -math.inf)], "b": {"c": math.inf, "d": "NaN ü"}, "e": True})
    assert text == '{"a": [null, [1.0, null]], "b": {"c": null, "d": "NaN ü"}, "e": true}'


def test_the_old_folder_is_there_until_the_new_one_is(tmp_path, monkeypatch):
    """Whatever a kill falls between."""
    seen = []
    for call in ("rename", "replace"):
        real = getattr(os, call)

        def spied(*args, real=real):
            seen.append((tmp_path / "a/file").is_file())
            real(*args)
            seen.append((tmp_path / "a/file").is_file())

        monkeypatch.setattr(os, call, spied)
    for text in ("old", "new"):
        with whole_folder(tmp_path / "a") as aside:
            (aside / "file").write_text(text)
    if sys.platform == "linux":
        assert seen == [False, True]  # one rename in all, and places changed at one stroke
    assert (tmp_path / "a/file").read_text() == "new"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("how", ["Ctrl-C", "kill"])
def test_where_folders_cannot_change_places(tmp_path, monkeypatch, how):
    def write(text):
        with whole_folder(tmp_path / "a") as aside:
            (aside / "file").write_text(text)

    monkeypatch.setattr(writing, "_exchange", lambda *_: False)
    write("old")
    rename, calls = os.rename, []

    def break_off(*args):
        calls.append(args)
        if len(calls) == 2 or (how == "kill" and len(calls) > 2):
            raise KeyboardInterrupt
        rename(*args)

    monkeypatch.setattr(os, "rename", break_off)
    with pytest.raises(KeyboardInterrupt):
        write("new")
    monkeypatch.setattr(os, "rename", rename)
    where = tmp_path / "a" if how == "Ctrl-C" else old_of(tmp_path / "a")
    assert (where / "file").read_text() == "old"
    write("newest")
    assert (tmp_path / "a/file").read_text() == "newest"
    assert names(tmp_path) == ["a"]
