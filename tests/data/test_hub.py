"""A hub that does not answer is not asked again and again."""

import logging
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import datasets
import pytest
from huggingface_hub import constants

from kedge.data import hub
from kedge.data.files import read_rows
from kedge.errors import DataError, ModelError
from kedge.models.loading import load_config, load_tokenizer


@pytest.fixture
def no_hub(monkeypatch):
    """A network in which nothing answers."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")


def test_a_mistyped_name_without_a_network_is_one_error_at_once(no_hub, caplog):
    start = time.perf_counter()
    for load, error in (
        (load_config, ModelError),
        (lambda name: load_tokenizer(name, key="tokenizer"), ModelError),
        (read_rows, DataError),
    ):
        with caplog.at_level(logging.WARNING), pytest.raises(error, match=r"^nobody/nothing: .*network"):
            load("nobody/nothing")
    assert time.perf_counter() - start < 10  # one name alone took half a minute
    assert "Retrying" not in caplog.text
    assert (constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE) == (False, False)  # as it was


def test_a_hub_that_answers_is_asked(no_hub, monkeypatch, tmp_path):
    class NotFound(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_error(404)

        def log_message(self, *_):
            pass

    assert not hub.answers()
    server = HTTPServer(("127.0.0.1", 0), NotFound)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        with hub.asked_if_it_answers("org/name"):
            assert not constants.HF_HUB_OFFLINE
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert not hub.answers()  # asked for by the user
    finally:
        server.shutdown()


def test_for_a_folder_nobody_is_asked(no_hub, monkeypatch, tmp_path):
    monkeypatch.setattr(hub, "answers", lambda: pytest.fail("the hub was asked"))
    with hub.asked_if_it_answers(tmp_path):
        assert not constants.HF_HUB_OFFLINE
