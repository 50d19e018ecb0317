"""Servers of tiny models for the tests."""

import threading
import time
from contextlib import contextmanager

import uvicorn

from kedge.sampling.local.driver import Driver
from kedge.sampling.local.engine import Engine
from kedge.sampling.settings import Sampling
from kedge.serving.http.app import create_app
from kedge.serving.http.service import Service
from kedge.serving.http.versions import Version, Versions


@contextmanager
def listening(service, keys=(), admin_keys=(), port=0, grace=5):
    """``http://127.0.0.1:PORT`` of a server that answers, and ends what it has begun within ``grace`` seconds."""
    app = create_app(service, keys=keys, admin_keys=admin_keys)
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error", timeout_graceful_shutdown=grace))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def service_of(lm, engine=Engine, **how):
    """A model behind a server, which nobody listens at yet."""
    version = Version(1, "first", lm, Driver(engine(lm)), Sampling(max_new_tokens=16))
    return Service("tiny", Versions(version), **how)
