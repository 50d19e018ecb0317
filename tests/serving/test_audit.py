"""The guard's log: whatever is changed in it shows."""

import errno
import json
import os
import subprocess
import sys
import threading

import pytest

from kedge.errors import ConfigError, StorageError
from kedge.serving.guard.audit import NOTHING, AuditError, AuditLog, Chain, check_audit


@pytest.fixture
def path(tmp_path):
    """Of a log with five lines."""
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path)
    for i in range(3):
        log.write([{"rule": f"rule {i}\n\u2028 ü", "on": "answer"}])
    log.write([{"rule": "two", "score": 0.1}, {"rule": "at once", "user": None}])
    log.close()
    return path


def test_lines_follow_one_another(path):
    chain = check_audit(path)
    lines = path.read_bytes().splitlines(keepends=True)
    assert (chain.count, chain.size, chain.torn) == (5, path.stat().st_size, 0)
    entries = [json.loads(line) for line in lines]
    assert [entry["number"] for entry in entries] == [1, 2, 3, 4, 5]
    assert [entry["previous"] for entry in entries] == [NOTHING, *(entry["hash"] for entry in entries[:-1])]
    assert chain.head == entries[-1]["hash"]
    assert entries[0]["rule"] == "rule 0\n\u2028 ü"
    assert path.read_bytes().isascii()
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_line_is_what_the_page_says():
    """SHA-256 of the rest, keys sorted and no spaces, so that another program can check it."""
    line, chain = Chain().line({"b": 1, "a": "ü"})
    name = "e1d7eea3a9bd84bf3f0f8fe20be10f72386e0e6491c71aa255f43fef0feaa7fc"
    assert line == b'{"a":"\\u00fc","b":1,"hash":"%s","number":1,"previous":"%s"}\n' % (name.encode(), b"0" * 64)
    assert chain.head == name


def test_any_byte_that_is_changed_shows(path):
    """Every byte, and three others in its place; the line that is named is its own or the one after it."""
    whole = path.read_bytes()
    for place, byte in enumerate(whole):
        number = whole[:place].count(b"\n") + 1
        for other in {byte ^ 1, ord(" "), ord("\n"), ord("0")} - {byte}:
            path.write_bytes(whole[:place] + bytes([other]) + whole[place + 1 :])
            with pytest.raises(AuditError, match=rf"line ({number}|{number + 1}) "):
                check_audit(path)


def test_any_byte_that_is_missing_or_added_shows(path):
    whole = path.read_bytes()
    for place in range(len(whole)):
        for changed in (whole[:place] + whole[place + 1 :], whole[:place] + b" " + whole[place:]):
            path.write_bytes(changed)
            with pytest.raises(AuditError):
                check_audit(path)


def test_lines_that_are_missing_copied_or_moved_show(path):
    lines = path.read_bytes().splitlines(keepends=True)
    n = len(lines)
    changed = {f"without {i}": lines[:i] + lines[i + 1 :] for i in range(n - 1)}
    changed |= {f"{i} twice": [*lines[: i + 1], *lines[i:]] for i in range(n)}
    for i in range(n):
        for j in range(i):
            moved = lines.copy()
            moved[i], moved[j] = moved[j], moved[i]
            changed[f"{i} and {j}"] = moved
            changed[f"{j} again behind {i}"] = [*lines[: i + 1], lines[j], *lines[i + 1 :]]
    for those in changed.values():
        path.write_bytes(b"".join(those))
        wrong = next(i for i, line in enumerate(those, 1) if lines[i - 1 : i] != [line])
        with pytest.raises(AuditError, match=f"line {wrong} "):
            check_audit(path)


def test_a_line_that_was_written_anew_does_not_fit_the_next_one(path):
    lines = path.read_bytes().splitlines(keepends=True)
    entry = json.loads(lines[1])
    body = {key: value for key, value in entry.items() if key not in ("hash", "number", "previous")}
    before = Chain(1, entry["previous"])
    lines[1] = before.line(body | {"rule": "another"})[0]
    path.write_bytes(b"".join(lines))
    with pytest.raises(AuditError, match="line 3 does not follow the line before it"):
        check_audit(path)


def test_a_line_is_on_the_disk_before_anybody_hears_of_it(path, monkeypatch):
    log, synced = AuditLog(path), []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append((file, os.fstat(file).st_size)))
    log.write([{"rule": "a"}])
    assert synced == [(log._file, path.stat().st_size)]
    log.close()


def test_what_is_cut_off_at_the_end_shows_to_who_knows_the_head(path):
    head, whole = check_audit(path).head, path.read_bytes()
    assert check_audit(path, head).added == 0
    assert check_audit(path, NOTHING).added == 5
    third = json.loads(whole.splitlines()[2])["hash"]
    assert check_audit(path, third).added == 2
    path.write_bytes(b"".join(whole.splitlines(keepends=True)[:3]))
    assert check_audit(path).count == 3
    assert check_audit(path, third).added == 0
    with pytest.raises(AuditError, match=r"missing at the end"):
        check_audit(path, head)
    path.write_bytes(whole[:-9])
    with pytest.raises(AuditError, match="line 5 is cut off"):
        check_audit(path)


def test_a_torn_line_is_gone_on_from(path):
    """Wherever the kill came, what was written before it is whole, and the file says what happened."""
    whole = path.read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    for end in range(last + 1, len(whole)):
        path.write_bytes(whole[:end])
        log = AuditLog(path)
        log.write([{"rule": "after"}])
        log.close()
        chain = check_audit(path)
        assert (chain.count, chain.torn) == (6, 1)
        notice, after = (json.loads(line) for line in path.read_bytes().splitlines()[4:])
        assert notice["torn"] == whole[last:end].decode()
        assert after["rule"] == "after"


def test_a_log_that_was_changed_is_not_gone_on_with(path):
    path.write_bytes(path.read_bytes().replace(b"rule 1", b"rule 2", 1))
    with pytest.raises(AuditError, match="line 2 was changed: its hash is another one"):
        AuditLog(path)
    path.write_bytes(b"")
    AuditLog(path).close()  # nobody has it


def test_one_owner(path):
    log = AuditLog(path)
    code = f"from pathlib import Path; from kedge.serving.guard.audit import AuditLog; AuditLog(Path({str(path)!r}))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "another process is writing it" in other.stderr
    log.close()
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_many_threads(path):
    log = AuditLog(path)
    threads = [threading.Thread(target=lambda: [log.write([{"a": 1}, {"b": 2}]) for _ in range(20)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert log.chain.count == check_audit(path, log.chain.head).count == 5 + 8 * 40
    log.close()


@pytest.mark.parametrize("stubborn", [False, True])
def test_a_full_disk(path, monkeypatch, stubborn):
    """What could not be written leaves nothing behind, and the next line follows the last one that could."""
    log = AuditLog(path)
    write, cut = os.write, os.ftruncate

    def full(file, what):
        write(file, what[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    if stubborn:
        monkeypatch.setattr(os, "ftruncate", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "worse")))
    with pytest.raises(StorageError, match="No space left"):
        log.write([{"rule": "lost"}])
    monkeypatch.setattr(os, "write", write)
    monkeypatch.setattr(os, "ftruncate", cut)
    log.write([{"rule": "kept"}])
    log.close()
    assert check_audit(path).count == 6
    assert b"lost" not in path.read_bytes()


KILLED = """
import os, sys, threading
from pathlib import Path
from kedge.serving.guard.audit import AuditLog
log = AuditLog(Path(sys.argv[1]))
def writer(name):
    for i in range(10**9):
        log.write([{"who": f"{name}-{i}", "more": "x" * 2000}])
        os.write(1, f"{name}-{i}\\n".encode())
for n in range(3):
    threading.Thread(target=writer, args=(f"{sys.argv[2]}w{n}",), daemon=True).start()
threading.Event().wait()
"""


def test_what_was_acknowledged_survives_kill_9(tmp_path):
    path, acknowledged = tmp_path / "audit.jsonl", []
    for run in range(3):
        command = [sys.executable, "-c", KILLED, str(path), f"r{run}"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        acknowledged += [process.stdout.readline().strip() for _ in range(20 + 7 * run)]
        process.kill()
        acknowledged += [x.strip() for x in process.stdout.read().splitlines(keepends=True) if x.endswith("\n")]
        process.wait()
    AuditLog(path).close()
    check_audit(path)
    kept = [json.loads(line).get("who") for line in path.read_bytes().splitlines()]
    assert set(acknowledged) <= set(kept)
    assert len(acknowledged) >= 20 + 27 + 34


def test_the_command(path, capsys, monkeypatch):
    from kedge.cli.app import main

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["kedge", "audit", *map(str, words)])
        try:
            main()
        except SystemExit as left:
            return left.code
        return 0

    head = check_audit(path).head
    assert run(path) == 0
    assert capsys.readouterr().out == f"{path}: whole; 5 lines\nhead {head}\n"
    assert run(path, "--expect", head) == 0
    assert "0 since the one that was expected" in capsys.readouterr().out
    assert run(path, "--expect", "f" * 64) == 2
    assert "no line has the hash" in capsys.readouterr().err
    path.write_bytes(path.read_bytes().replace(b"rule 1", b"rule 2", 1))
    assert run(path) == 2
    assert "line 2 was changed" in capsys.readouterr().err
    assert run(path.with_name("none")) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_a_folder_that_is_none(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises((StorageError, ConfigError), match="cannot be written"):
        AuditLog(tmp_path / "file" / "audit.jsonl")
