"""Lines come together, and stand in the folder once it is the run's."""

import os

from kedge.launch.log import Log


def written(folder):
    return (folder / "launch.log").read_text(encoding="utf-8").splitlines()


def test_before_the_run_has_begun_nothing_is_written(tmp_path):
    shown = []
    log = Log(tmp_path / "run", shown.append)
    log.say("早", 1)
    log.write()
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()
    log.write()
    assert not list((tmp_path / "run").iterdir())
    (tmp_path / "run/recipe.toml").write_text("")
    log.say("lost", shown=False)
    log.write()
    log.say("on", 0)
    log.write()
    assert shown == ["[1] 早", "[0] on"]
    assert written(tmp_path / "run") == ["[1] 早", "lost", "[0] on"]


def test_a_run_that_was_there_is_not_written_to(tmp_path):
    """It may be somebody else's, or about to be overwritten."""
    (tmp_path / "recipe.toml").write_text("old")
    log = Log(tmp_path, print)
    log.say("refused", 0)
    log.write()
    assert not log.begun
    assert not (tmp_path / "launch.log").exists()
    (tmp_path / "new.toml").write_text("old")
    os.replace(tmp_path / "new.toml", tmp_path / "recipe.toml")
    log.write()
    assert log.begun
    assert written(tmp_path) == ["[0] refused"]
