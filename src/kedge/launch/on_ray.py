"""The processes of a job as Ray actors, spread over the nodes of a cluster. Ray places them and tells of their deaths;
they talk to each other as under torchrun."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kedge.config.optional import needed
from kedge.errors import ConfigError, LostError
from kedge.launch.supervisor import Look, Place, Supervisor

PLACED = 60.0
"""Seconds until Ray has found a place for all; others may just be leaving."""
ANSWERED = 20.0
"""Seconds within which an actor answers, or counts as lost."""


@dataclass(frozen=True)
class Layout:
    """How many processes, and where."""

    nodes: int
    processes: int
    """In all; as many on each node."""
    gpus: int
    """Of each process: 0 or 1."""

    @property
    def each(self) -> int:
        """Processes of a node."""
        return self.processes // self.nodes


class Cluster:
    """A connection to Ray, or a Ray of this machine's own, until :meth:`close`."""

    def __init__(self, address: str | None, processes: int) -> None:
        """Connect.

        Args:
            address: of a cluster that is there; None: start one here.
            processes: that it must have room for, where it is started here.

        Raises:
            ConfigError: Ray is not installed, or not there.
        """
        self.ray = needed("ray", "kedge launch", extra="ray")
        own = {"include_dashboard": False, "num_cpus": max(processes, os.cpu_count() or 1)}
        connect(self.ray, address or "local", "--address", **({} if address else own))

    def close(self) -> None:
        """Disconnect; a Ray that was started here ends."""
        self.ray.shutdown()

    def layout(self, nodes: int, processes: int | None) -> Layout:
        """For so many nodes; a process a GPU, or a node where there are none, unless ``processes`` says how many.

        Raises:
            ConfigError: they cannot be had.
        """
        there = sorted((node["Resources"].get("GPU", 0) for node in self._alive()), reverse=True)
        if len(there) < nodes:
            raise ConfigError(f"--nodes {nodes}: the cluster has {len(there)}: {self._described()}")
        fewest = int(there[nodes - 1])
        if processes is None:
            processes = nodes * max(1, fewest)
        if processes % nodes:
            raise ConfigError(f"--processes {processes}: not as many on each of {nodes} nodes; a multiple of that")
        gpus = int(there[0] > 0)
        layout = Layout(nodes, processes, gpus)
        if len(self._fitting(layout)) < nodes:
            wanted = f"{layout.each} {'GPUs and cores' if gpus else 'cores'} on each of {nodes} nodes"
            raise ConfigError(f"--processes {processes}: wants {wanted}; the cluster has {self._described()}")
        return layout

    def crew(self, layout: Layout) -> "RayCrew":
        """Processes laid out so.

        Raises:
            ConfigError: there is no room for them now. LostError: an actor died at once.
        """
        found = RayCrew.placed(self, layout, PLACED)
        if found is None:
            raise ConfigError(
                f"no room for {layout.processes} processes on {layout.nodes} nodes within {PLACED:g} s: others use the "
                "cluster; wait, or ask for fewer"
            )
        return found

    def crew_of_what_is_left(self, layout: Layout) -> "RayCrew":
        """The same on the nodes that are still there, which Ray may need a while to know.

        Raises:
            LostError: none is, or an actor died at once.
        """
        until = time.monotonic() + PLACED
        while time.monotonic() < until:
            nodes = min(layout.nodes, len(self._fitting(layout)))
            left = Layout(nodes, nodes * layout.each, layout.gpus)
            if nodes and (found := RayCrew.placed(self, left, PLACED / 12)) is not None:
                return found
            time.sleep(0.5)
        raise LostError(f"no node is left that has room for {layout.each} processes: {self._described()}")

    def _alive(self) -> list[dict[str, Any]]:
        return [node for node in self.ray.nodes() if node["Alive"]]

    def _fitting(self, layout: Layout) -> list[dict[str, Any]]:
        room = [(node, node["Resources"]) for node in self._alive()]
        each = layout.each
        return [n for n, r in room if r.get("CPU", 0) >= each and r.get("GPU", 0) >= each * layout.gpus]

    def _described(self) -> str:
        return ", ".join(
            f"{node['NodeManagerAddress']} ({node['Resources'].get('CPU', 0):.0f} cores, "
            f"{node['Resources'].get('GPU', 0):.0f} GPUs)"
            for node in self._alive()
        )


def connect(ray: Any, address: str, key: str, **own: Any) -> None:
    """Connect this process.

    Args:
        ray: the module.
        address: of a cluster; ``auto``: the one that ``RAY_ADDRESS`` names, or that runs here; ``local``: a new one.
        key: where the address stands, for the message.
        own: settings of a new one.

    Raises:
        ConfigError: it is not there.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **own, **_same_path())
    except (ConnectionError, RuntimeError, TimeoutError, ValueError) as error:
        where = "here" if address == "local" else f"at {address}"
        raise ConfigError(f"{key}: no Ray {where}: {next(iter(str(error).splitlines()), error)}") from error


class RayCrew:
    """Processes that actors supervise, each beside its own."""

    @classmethod
    def placed(cls, cluster: Cluster, layout: Layout, within: float) -> "RayCrew | None":
        """Where they have found room in so many seconds.

        Raises:
            LostError: an actor died at once.
        """
        from ray.util.placement_group import placement_group, remove_placement_group

        bundle = {"CPU": layout.each} | ({"GPU": layout.each} if layout.gpus else {})
        group = placement_group([bundle] * layout.nodes, "STRICT_SPREAD" if layout.nodes > 1 else "STRICT_PACK")
        if not group.wait(within):
            remove_placement_group(group)
            return None
        return cls(cluster, layout, group)

    def __init__(self, cluster: Cluster, layout: Layout, group: Any) -> None:
        """Begin an actor for each.

        Raises:
            LostError: one died at once.
        """
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        self.ray, self.group = cluster.ray, group
        self.actors: list[Any] = []
        self._asked: dict[int, tuple[Any, float]] = {}
        self._last: dict[int, Look] = {}
        try:
            for rank in range(layout.processes):
                where = PlacementGroupSchedulingStrategy(self.group, placement_group_bundle_index=rank // layout.each)
                actor = self.ray.remote(Actor)
                options = {"num_cpus": 1, "num_gpus": layout.gpus, "scheduling_strategy": where, "max_restarts": 0}
                self.actors.append(actor.options(**options).remote())
            self.places: Sequence[Place] = [self._answer(each.place.remote()) for each in self.actors]
        except BaseException:
            self.close()
            raise

    def free_port(self) -> int:
        return int(self._answer(self.actors[0].free_port.remote()))

    def start(self, words: Sequence[str], environments: Sequence[Mapping[str, str]], folder: str) -> None:
        here = {"RAY_ADDRESS": self.ray.get_runtime_context().gcs_address}  # for servers that are to stand beside them
        started = [
            actor.start.remote(list(words), {**environment, **here}, folder)
            for actor, environment in zip(self.actors, environments, strict=True)
        ]
        for each in started:
            self._answer(each)

    def look(self) -> Sequence[Look]:
        now = time.monotonic()
        for rank, actor in enumerate(self.actors):
            if rank not in self._asked and not self._known(rank).lost:
                self._asked[rank] = (actor.look.remote(), now)
        if not self._asked:
            time.sleep(0.1)
            return [self._silent(rank) for rank in range(len(self.actors))]
        futures = [future for future, _ in self._asked.values()]
        self.ray.wait(futures, num_returns=len(futures), timeout=0.5)
        time.sleep(0.1)
        return [self._seen(rank) for rank in range(len(self.actors))]

    def signal(self, number: int) -> None:
        for rank, actor in enumerate(self.actors):
            if not self._known(rank).lost:
                actor.signal.remote(number)

    def close(self) -> None:
        from ray.util.placement_group import remove_placement_group

        ends = [actor.end.remote() for actor in self.actors]
        if ends:
            self.ray.wait(ends, num_returns=len(ends), timeout=5.0)
        for actor in self.actors:
            self.ray.kill(actor)  # and with it what it has started, see kedge.launch.bound
        remove_placement_group(self.group)

    def _known(self, rank: int) -> Look:
        return self._last.get(rank, Look())

    def _silent(self, rank: int) -> Look:
        """As it was, without the lines that were seen."""
        last = self._known(rank)
        return Look((), last.pid, last.status, last.ended, last.stopped, last.lost)

    def _seen(self, rank: int) -> Look:
        if rank not in self._asked:
            return self._silent(rank)
        future, since = self._asked[rank]
        ready, _ = self.ray.wait([future], timeout=0)
        if not ready:
            if time.monotonic() - since < ANSWERED:
                return self._silent(rank)
            why = f"its actor has not answered for {ANSWERED:g} s: stopped, or its node hangs or cannot be reached"
            return self._lost(rank, why)
        del self._asked[rank]
        try:
            self._last[rank] = self.ray.get(future)
        except self.ray.exceptions.RayActorError as error:
            return self._lost(rank, f"its actor died: {cause(error)}")
        return self._last[rank]

    def _lost(self, rank: int, why: str) -> Look:
        self._asked.pop(rank, None)
        self._last[rank] = Look((), self._known(rank).pid, lost=why)
        return self._last[rank]

    def _answer(self, future: Any) -> Any:
        try:
            return self.ray.get(future, timeout=PLACED)
        except self.ray.exceptions.GetTimeoutError as error:
            raise LostError(f"an actor has not begun within {PLACED:g} s; see Ray's own logs") from error
        except self.ray.exceptions.RayActorError as error:
            raise LostError(f"an actor died before it began: {cause(error)}") from error
        except self.ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, ConfigError):
                raise ConfigError(str(error.cause)) from error
            raise


class Actor(Supervisor):
    """A supervisor that Ray has placed."""

    def __init__(self) -> None:
        import ray

        gpus = ray.get_runtime_context().get_accelerator_ids().get("GPU", [])
        super().__init__(ray.util.get_node_ip_address(), [str(gpu) for gpu in gpus])


def _same_path() -> dict[str, Any]:
    """Where Python looks for packages besides, for actors that Ray starts on other nodes."""
    path = os.environ.get("PYTHONPATH")
    return {"runtime_env": {"env_vars": {"PYTHONPATH": path}}} if path else {}


def cause(error: BaseException) -> str:
    """The sentence of Ray's that says why an actor died; the message of an error that it began with."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if lines and "raised in its creation task" in lines[0]:
        return lines[-1].partition(": ")[2]
    telling = [line for line in lines if line.startswith("The actor is dead because")]
    sentence = (telling or lines or [type(error).__name__])[0].removeprefix("The actor is dead because ")
    return sentence.partition(" Some common causes")[0].partition(" rpc_code")[0]
