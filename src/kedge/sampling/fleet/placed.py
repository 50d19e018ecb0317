"""vLLM servers that Ray places on the machines of a cluster. An actor keeps each where it stands, as
:class:`~kedge.sampling.fleet.started.Started` keeps one here; all of them end with the process that asked for them."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from kedge.config.optional import needed
from kedge.errors import ConfigError
from kedge.launch.on_ray import cause, connect
from kedge.sampling.fleet.kept import Kept
from kedge.sampling.fleet.server import ServerFailure
from kedge.sampling.fleet.signs import Signs
from kedge.sampling.fleet.started import Started, free_ports, refuse_no_python

PLACED = 60.0
"""Seconds until Ray has found a place for a server, and begun its actor there."""
ANSWERED = 20.0
"""Seconds within which an actor that is there answers, or its server counts as lost; ending one may take it 15."""
PARALLEL = ("--tensor-parallel-size", "-tp", "--pipeline-parallel-size", "-pp")
"""vLLM's arguments that say of how many GPUs a server consists: their product."""


@dataclass(frozen=True)
class Wanted:
    """A server that is to be placed, in the words of :class:`~kedge.sampling.fleet.started.Started`."""

    python: str
    folder: Path
    concurrency: int
    args: Sequence[str] = ()


class Keeper:
    """The actor: a server on its machine, and the place where that is."""

    def __init__(self, wanted: Wanted, port: int | None) -> None:
        import ray

        context, host = ray.get_runtime_context(), ray.util.get_node_ip_address()
        gpus = context.get_accelerator_ids().get("GPU", [])  # which CUDA_VISIBLE_DEVICES says here already
        self.node = context.get_node_id()
        self.kept = Started(
            refuse_no_python(wanted.python),
            wanted.folder / host,
            port or free_ports(1, host)[0],
            wanted.concurrency,
            on_cpu=not gpus,
            args=wanted.args,
            host=host,
        )

    def place(self) -> tuple[str, str, int, Path, bool]:
        """Node, URL, port, log, and whether it takes adapters."""
        return self.node, self.kept.url, self.kept.port, self.kept.log, self.kept.takes_adapters

    def ask(self, name: str, *given: Any) -> Any:
        """What the server's method gives, or what it is."""
        found = getattr(self.kept, name)
        return found(*given) if callable(found) else found


class Placed(Kept):
    """A server on one of the machines of a cluster; where its actor dies, another one takes its place on that machine.

    Args:
        ray: the module, connected.
        wanted: what is to stand there.
        gpus: that it takes.

    Raises:
        ConfigError: Ray finds no place for it; no such Python there.
    """

    def __init__(self, ray: Any, wanted: Wanted, gpus: int) -> None:
        self._ray, self._wanted, self._gpus = ray, wanted, gpus
        self._actor = self._placed("SPREAD")
        try:
            place = ray.get(self._actor.place.remote(), timeout=PLACED)
            self._node, self._url, self._port, self._log, self._takes_adapters = place
        except ray.exceptions.GetTimeoutError:
            ray.kill(self._actor)  # else it takes the place once there is one
            there = ", ".join(f"{node['NodeManagerAddress']} {node['Resources']}" for node in ray.nodes())
            raise ConfigError(
                f"sampler: ray: no place for a server with {gpus} GPUs in {PLACED:g} s: {there}"
            ) from None
        except ray.exceptions.RayError as error:
            why = cause(error).removeprefix("sampler: ")
            raise ConfigError(f"sampler: ray: {why}") from error

    @property
    def url(self) -> str:
        return self._url

    @property
    def log(self) -> Path:
        return self._log

    @property
    def takes_adapters(self) -> bool:
        return self._takes_adapters

    def start(self, model: Path, dtype: str, rank: int = 0) -> None:
        try:
            self._ask("start", model, dtype, rank)
        except ServerFailure:
            self._replace()
            self._ask("start", model, dtype, rank, within=PLACED)

    def refuse_ended(self) -> None:
        self._ask("refuse_ended")

    def last_words(self) -> str:
        with suppress(ServerFailure):
            return str(self._ask("last_words"))
        return f"its log is {self.log}"

    def signs(self) -> Signs | None:
        with suppress(ServerFailure):
            signs: Signs | None = self._ask("signs")
            return signs
        return None

    @property
    def runs(self) -> bool:
        with suppress(ServerFailure):
            return bool(self._ask("runs"))
        return False

    def let_go(self) -> None:
        self._actor.ask.remote("let_go")

    def end(self) -> None:
        try:
            self._ask("end")
        except ServerFailure:
            self._ray.kill(self._actor)

    def give_back(self) -> None:
        self.end()
        self._ray.kill(self._actor)  # which has GPUs; a next start places another one

    def _placed(self, where: Any, port: int | None = None) -> Any:
        options = {"num_cpus": 0, "num_gpus": self._gpus, "scheduling_strategy": where, "max_restarts": 0}
        return self._ray.remote(Keeper).options(**options).remote(self._wanted, port)

    def _replace(self) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._ray.kill(self._actor)
        self._actor = self._placed(NodeAffinitySchedulingStrategy(self._node, soft=False), self._port)

    def _ask(self, name: str, *given: Any, within: float = ANSWERED) -> Any:
        errors = self._ray.exceptions
        try:
            return self._ray.get(self._actor.ask.remote(name, *given), timeout=within)
        except errors.GetTimeoutError as error:
            raise ServerFailure(f"{self.url}: its actor has not answered for {within:g} s") from error
        except errors.RayTaskError as error:
            if isinstance(error.cause, ServerFailure):
                raise error.cause from None
            if isinstance(error.cause, OSError):
                raise ServerFailure(f"{self.url}: {error.cause}") from error
            raise
        except errors.RayError as error:  # of an actor, or that no machine is left to place one on
            raise ServerFailure(f"{self.url}: its actor died: {cause(error)}") from error


def placed(address: str, count: int, wanted: Wanted) -> list[Placed]:
    """So many servers, each where Ray has room, on different machines first.

    Args:
        address: of a Ray cluster; ``auto``: the one that this process belongs to, or that runs here.
        count: of servers.
        wanted: each of them.

    Raises:
        ConfigError: Ray is not installed or not there, or has no room.
    """
    ray = needed("ray", "sampler: ray", extra="ray")
    if not ray.is_initialized():
        connect(ray, address, "sampler: ray")
    gpus = _gpus_of(wanted.args) if ray.cluster_resources().get("GPU", 0) else 0
    found: list[Placed] = []
    try:
        for _ in range(count):
            found.append(Placed(ray, wanted, gpus))
    except ConfigError:
        for each in found:
            each.give_back()
        raise
    return found


def _gpus_of(args: Sequence[str]) -> int:
    words = [word for arg in args for word in arg.split("=", 1)]
    count = 1
    for name, value in pairwise(words):
        if name in PARALLEL and value.isdecimal():
            count *= int(value)
    return count
