"""Servers that write answers, as a recipe names them."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from kedge.config.settings import Config, Several
from kedge.sampling.fleet.fleet import Fleet
from kedge.sampling.sampler import SamplerOf


class FleetSpec(Config):
    """``sampler = { kind = "vllm", urls = [...], weights = "..." }``: answers come from vLLM servers."""

    kind: Literal["vllm"]
    urls: Several[str]
    """Of the servers, ``http://host:port``."""
    weights: str
    """A folder that trainer and servers see under this name, through which the weights go."""
    timeout: float = Field(120.0, gt=0)
    """Seconds that a request may take, an answer or a reload."""
    health_timeout: float = Field(10.0, gt=0)
    """Seconds in which a server must say that it is well, when it is asked every second; else its prompts go
    elsewhere."""
    tries: int = Field(3, ge=1)
    """How often a request is made, where a server cannot be reached or is busy."""
    concurrency: int = Field(64, ge=1)
    """Answers at once, a server."""
    agreement: float | None = Field(None, gt=0)
    """How far, in nats, what a server says of a token may be from what the model says itself; default 1e-3 for a model
    in float32, 0.05 for others."""

    def fleet(self) -> Fleet:
        """The servers; nothing is asked of them yet.

        Raises:
            ConfigError: a URL that is none; httpx is not installed.
        """
        return Fleet(
            self.urls,
            weights=self.weights,
            timeout=self.timeout,
            tries=self.tries,
            health_timeout=self.health_timeout,
            concurrency=self.concurrency,
            agreement=self.agreement,
        )


def sampler_of(what: SamplerOf | Mapping[str, Any] | FleetSpec) -> SamplerOf:
    """What makes a model's sampler, from any form in which a user gives it.

    Args:
        what: a maker, or servers as a recipe names them.

    Raises:
        ConfigError: settings that do not fit.
    """
    if isinstance(what, Mapping):
        what = FleetSpec.of(what, key="sampler")
    return what.fleet() if isinstance(what, FleetSpec) else what
