"""Servers of tiny models for the tests."""

import time

from kedge.data.encode import encode_prompt
from kedge.models.reward_model import RewardModel
from kedge.sampling.local.driver import Driver
from kedge.sampling.local.engine import Engine
from kedge.sampling.settings import Sampling
from kedge.serving.http import run
from kedge.serving.http.app import create_app
from kedge.serving.http.panel import Panel
from kedge.serving.http.service import Service
from kedge.serving.http.version import Version
from kedge.serving.http.versions import Versions


def listening(service, keys=(), admin_keys=(), port=0, grace=5):
    """``http://127.0.0.1:PORT`` of a server that answers, and ends what it has begun within ``grace`` seconds."""
    return run.listening(create_app(service, keys=keys, admin_keys=admin_keys), port=port, grace=grace)


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
