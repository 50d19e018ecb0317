"""``kedge serve`` and ``kedge deploy``, as processes."""

import signal
import socket
import subprocess
import sys
import time

import httpx
import pytest

from kedge.errors import ConfigError, KedgeError
from kedge.serving.http.deploying import deployed, rolled_back
from kedge.serving.http.run import read_keys

KEDGE = [sys.executable, "-m", "kedge"]


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@pytest.fixture
def keys(tmp_path):
    path = tmp_path / "admin.txt"
    path.write_text("# of the tests\nadmin\n")
    return path


def test_from_a_folder_to_an_answer_and_back(tiny_lm, tmp_path, keys):
    tiny_lm("llama").save(tmp_path / "first")
    tiny_lm("llama", seed=3).save(tmp_path / "second")
    url = f"http://127.0.0.1:{free_port()}"
    command = [*KEDGE, "serve", str(tmp_path / "first"), "--port", url.rsplit(":", 1)[1], "--admin-key-file", str(keys)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        deadline = time.monotonic() + 180
        while True:
            try:
                assert httpx.get(f"{url}/ready").status_code == 200
                break
            except httpx.TransportError:
                assert server.poll() is None, server.stdout.read()
                assert time.monotonic() < deadline
                time.sleep(0.1)
        asked = {"model": "first", "prompt": "the cat", "max_tokens": 12, "seed": 1}
        one = httpx.post(f"{url}/v1/completions", json=asked).json()
        told = deployed(str(tmp_path / "second"), url, keys)
        assert told["live"]["source"] == str(tmp_path / "second")
        two = httpx.post(f"{url}/v1/completions", json=asked).json()
        assert (one["system_fingerprint"], two["system_fingerprint"]) == ("v1", "v2")
        assert one["choices"][0]["text"] != two["choices"][0]["text"]
        with pytest.raises(KedgeError, match=r"not deployed: .*nowhere"):
            deployed(str(tmp_path / "nowhere"), url, keys)
        assert rolled_back(url, keys)["live"]["version"] == 1
        keys.write_text("wrong")
        with pytest.raises(KedgeError, match="no key, or a wrong one"):
            rolled_back(url, keys)
    finally:
        server.send_signal(signal.SIGTERM)
        said, _ = server.communicate(timeout=30)
    assert server.returncode in (0, -signal.SIGTERM), said
    assert f"first answers at {url}/v1" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["serve", "no-such-run"], "no-such-run"),
        (["serve", "x", "--host", "0.0.0.0"], "give --api-key-file"),
        (["serve", "x", "--guard", "no-such-file"], "--guard: there is no file no-such-file"),
        (["serve", "x", "--audit", "a.jsonl"], "there is none; give --guard"),
        (["serve", "x", "--dtype", "float8"], "--dtype: one of auto, float32, bfloat16, float16, not 'float8'"),
        (["serve", "x", "--quantization", "int4"], "--quantization: one of nf4, int8, not 'int4'"),
        (["serve", "x", "--api-key-file", "no-such-file"], "no-such-file cannot be read"),
        (
            ["deploy", "--to", "http://127.0.0.1:9", "--admin-key-file", "k"],
            "name a run, or say --promote, --rollback or --status",
        ),
        (["deploy", "x", "--to", "http://127.0.0.1:9", "--admin-key-file", "KEYS"], "does not answer"),
        (["deploy", "x", "--to", "what", "--admin-key-file", "KEYS"], "does not answer"),
    ],
)
def test_what_cannot_be_done_is_said(words, said, keys, capsys, monkeypatch):
    from kedge.cli.app import main

    monkeypatch.setattr(sys, "argv", ["kedge", *(str(keys) if word == "KEYS" else word for word in words)])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_key_files(tmp_path):
    path = tmp_path / "keys"
    path.write_text("# comment\n\n one \ntwo\n")
    assert read_keys(path) == ["one", "two"]
    for text, said in (
        ("# none\n", "there is no key"),
        ("a b\n", "no header may have"),
        ("ключ\n", "no header may have"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=said):
            read_keys(path)
