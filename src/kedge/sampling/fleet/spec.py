"""Servers that write answers, as a recipe names them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator

from kedge.config.settings import Config, Several
from kedge.parallel import joined
from kedge.sampling.fleet.fleet import Fleet
from kedge.sampling.fleet.kept import Kept
from kedge.sampling.fleet.placed import Wanted, placed
from kedge.sampling.fleet.started import Started, free_ports, refuse_no_python
from kedge.sampling.sampler import SamplerOf


class FleetSpec(Config):
    """``sampler = { kind = "vllm", urls = [...], weights = "..." }``: answers come from vLLM servers. With ``servers``
    and ``python`` kedge starts them."""

    kind: Literal["vllm"]
    urls: Several[str] = ()
    """Of the servers, ``http://host:port``."""
    servers: int = Field(0, ge=0)
    """Or: how many kedge starts on this machine, and ends with the job."""
    python: str | None = None
    """The Python of vLLM's environment, for servers that kedge starts."""
    args: Several[str] = ()
    """More arguments for those, as vLLM takes them, such as ``["--max-model-len", "2048"]``."""
    devices: Several[str] = ()
    """Of those, what ``CUDA_VISIBLE_DEVICES`` says for each; none: as it is here."""
    ray: str | None = None
    """Of a Ray cluster that places them on its machines and GPUs, the address; ``auto``: of the one that runs this."""
    start_timeout: float = Field(600.0, gt=0)
    """Seconds until one of those must be there."""
    start_silence: float = Field(45.0, gt=0)
    """Seconds that one of those may neither compute nor read nor write to its log while it starts; else it counts as
    hanging, and is started again."""
    weights: str
    """A folder that trainer and servers see under this name, through which the weights go."""
    timeout: float = Field(120.0, gt=0)
    """Seconds that a request may take, an answer or a reload."""
    health_timeout: float = Field(10.0, gt=0)
    """Seconds in which a server must say that it is well, when it is asked every second; else its prompts go
    elsewhere."""
    stall_timeout: float = Field(30.0, gt=0)
    """Seconds in which a server that has answers to write must have written a token; else it counts as hanging."""
    tries: int = Field(3, ge=1)
    """How often a request is made, where a server cannot be reached or is busy."""
    concurrency: int = Field(64, ge=1)
    """Answers at once, a server."""
    agreement: float | None = Field(None, gt=0)
    """How far, in nats, what a server says of a token may be from what the model says itself; default 1e-3 for a model
    in float32, 0.05 for others."""

    USED_WHEN: ClassVar[Mapping[str, tuple[str, tuple[object, ...]]]] = dict.fromkeys(
        ("python", "args", "devices", "ray", "start_timeout", "start_silence"), ("servers", ())
    )

    @model_validator(mode="after")
    def _some_servers(self) -> Self:
        if bool(self.urls) == bool(self.servers):
            raise ValueError("urls: a list of servers, or servers = 2 and python = ... for those that kedge starts")
        if self.servers and self.python is None:
            raise ValueError("python: missing; name that of vLLM's environment, which docs/fleet.md says how to make")
        if self.devices and len(self.devices) != self.servers:
            raise ValueError(f"devices: {len(self.devices)} for servers={self.servers}; name one for each")
        if self.devices and self.ray is not None:
            raise ValueError("devices: not with ray, which deals them out; take one of the two out")
        return self

    def fleet(self) -> Fleet:
        """The servers; nothing is asked of them yet.

        Raises:
            ConfigError: a URL that is none; no such Python; httpx is not installed.
        """
        processes = joined()
        with processes.agreeing():  # whoever starts none learns that the leading one cannot
            started = self._started()
        return Fleet(
            self.urls or processes.told(lambda: [each.url for each in started]),
            started=started,
            start_timeout=self.start_timeout,
            start_silence=self.start_silence,
            weights=self.weights,
            timeout=self.timeout,
            tries=self.tries,
            health_timeout=self.health_timeout,
            stall_timeout=self.stall_timeout,
            concurrency=self.concurrency,
            agreement=self.agreement,
        )

    def _started(self) -> Sequence[Kept]:
        if self.python is None or not joined().leads:
            return []
        folder = Path(self.weights).expanduser().absolute() / "servers"
        if self.ray is not None:
            return placed(self.ray, self.servers, Wanted(self.python, folder, self.concurrency, self.args))
        python, ports = refuse_no_python(self.python), free_ports(self.servers)
        devices: Sequence[str | None] = self.devices or [None] * self.servers
        on_cpu = not torch.cuda.is_available()
        return [
            Started(python, folder, port, self.concurrency, on_cpu, device, self.args)
            for port, device in zip(ports, devices, strict=True)
        ]


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
