"""Servers of tiny models for the tests."""

import threading
import time
from contextlib import contextmanager

import uvicorn

from kedge.data.encode import encode_prompt
from kedge.models.reward_model import RewardModel
from kedge.sampling.local.driver import Driver
from kedge.sampling.local.engine import Engine
from kedge.sampling.settings import Sampling
from kedge.serving.http.app import create_app
from kedge.serving.http.panel import Panel
from kedge.serving.http.service import Service
from kedge.serving.http.version import Version
from kedge.serving.http.versions import Versions


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
    if isinstance(how.get("reward"), RewardModel):
        how["reward"] = Panel([how["reward"]])
    return Service("tiny", Versions(version), **how)


class Slow(Engine):
    """Takes its time over every token."""

    def step(self):
        time.sleep(0.05)
        return super().step()


def alone(lm, prompt, sampling, *, seed=0, request=0):
    """What the engine writes without a server."""
    [completion] = Engine(lm).generate(
        [encode_prompt(lm.tokenizer, prompt)], sampling, seed=seed, first_request=request
    )
    return completion
