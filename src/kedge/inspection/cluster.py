"""What a job needs of several processes: memory a rank, traffic, seconds, and how far sampling and training overlap.

Simulated from pieces: each process's share of a step is rehearsed as the whole step is (:mod:`kedge.inspection.plan`),
with the operations' measured or given speeds; traffic follows from what is put together and summed; what nobody has
measured here is an assumption, which can be set and stands in the output.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch

from kedge.errors import ConfigError
from kedge.inspection.machine import read_rate
from kedge.inspection.plan import PlannedJob, seconds_of
from kedge.inspection.rehearsal import Phase
from kedge.parallel import BUCKET, UNDER_WAY

SAMPLING = ("generate", "evaluate")


@dataclass(frozen=True)
class Assumptions:
    """What is not measured."""

    network: float = 25e9
    """Bytes a second that a process sends, and as many that it gets."""
    disk: float = 2e9
    """Bytes a second of the folder that weights are published through, all of its readers together."""
    utilisation: float = 1.0
    """Share of the speeds that an operation reaches."""
    servers: float = 1.0
    """How many times as fast as kedge's own engine a server writes on the same device."""

    @classmethod
    def read(cls, texts: Sequence[str]) -> "Assumptions":
        """Of ``name=value``.

        Raises:
            ConfigError: no such name, or no such value.
        """
        found: dict[str, float] = {}
        for text in texts:
            name, _, value = text.partition("=")
            if name not in {each.name for each in fields(cls)}:
                known = ", ".join(each.name for each in fields(cls))
                raise ConfigError(f"--assume: {text!r}; as in network=50GB, of {known}")
            unit = "b" if name in ("network", "disk") else ""
            found[name] = read_rate(value, option=f"--assume {name}", unit=unit)
        return cls(**found)


@dataclass(frozen=True)
class Layout:
    """Who does what."""

    processes: int
    """That train."""
    servers: int = 0
    """That write answers, a GPU each; 0: the processes do."""

    @property
    def gpus(self) -> int:
        """In all."""
        return self.processes + self.servers


@dataclass(frozen=True)
class Simulated:
    """A job laid out so."""

    layout: Layout
    shard: bool
    peaks: Mapping[str, int]
    """Bytes of a rank by phase."""
    traffic: Mapping[str, float] = field(default_factory=dict)
    """Bytes that a process sends in a step, by what they are."""
    publish: Mapping[str, float] = field(default_factory=dict)
    """Bytes of the weights' way to the servers, a step: ``folder`` (written once, read by each), ``broadcast`` (got by
    each)."""
    seconds: Mapping[str, float] | None = None
    """Of a step: ``sample``, ``train``, ``exchange``, ``publish``. None without speeds."""
    staleness: int = 0
    """Steps that sampling may be ahead."""
    alone: float | None = None
    """Seconds of a step of one process."""
    busy: int = 1
    """Processes that have an answer of each minibatch."""

    @property
    def peak(self) -> int:
        """Bytes of a rank, of the phase that needs most."""
        return max(self.peaks.values())

    @property
    def trains(self) -> float | None:
        """Seconds of the processes that train, in a step."""
        return None if self.seconds is None else sum(self.seconds.values()) - self.seconds["sample"]

    @property
    def overlaps(self) -> bool:
        """Whether servers write on while the update works."""
        return self.layout.servers > 0 and self.staleness > 0

    @property
    def step(self) -> float | None:
        """Seconds."""
        if self.seconds is None or self.trains is None:
            return None
        both = self.seconds["sample"], self.trains
        return max(both) if self.overlaps else sum(both)

    @property
    def waits(self) -> float | None:
        """Share of the step in which whoever is faster, servers or processes, has nothing to do."""
        if not self.step or self.seconds is None or self.trains is None or not self.layout.servers:
            return None
        return 1 - min(self.seconds["sample"], self.trains) / self.step

    @property
    def efficiency(self) -> float | None:
        """How much faster than one process alone, a GPU."""
        return None if not self.step or self.alone is None else self.alone / (self.step * self.layout.gpus)

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``: bytes and seconds."""
        return {
            "processes": self.layout.processes, "servers": self.layout.servers, "shard": self.shard,
            "peak": self.peak, "peaks": dict(self.peaks), "traffic": dict(self.traffic), "publish": dict(self.publish),
            "seconds": None if self.seconds is None else dict(self.seconds), "staleness": self.staleness,
            "step": self.step, "alone": self.alone, "waits": self.waits, "efficiency": self.efficiency,
            "busy": self.busy,
        }  # fmt: skip


class Simulation:
    """Of one job, in as many layouts as one likes: a share is rehearsed once.

    Args:
        job: as one process would do it.
        assumptions: about what is not measured.
        staleness: steps that sampling may be ahead; None: as the job's settings say.
    """

    def __init__(self, job: PlannedJob, assumptions: Assumptions, staleness: int | None = None) -> None:
        self.job, self.assumed = job, assumptions
        self.staleness: int = getattr(job.config, "max_staleness", 0) if staleness is None else staleness
        self._rehearsed: dict[tuple[tuple[str, int], ...], list[Phase]] = {}

    def best(self, gpus: int, *, servers: bool) -> Simulated:
        """So many GPUs; with servers, dealt out so that a step takes least, of three ways to do it.

        Raises:
            ConfigError: one GPU cannot do both.
        """
        if not servers:
            return self.of(Layout(gpus))
        ways = {count for quarter in (1, 2, 3) if 0 < (count := gpus * quarter // 4) < gpus}
        if not ways:
            raise ConfigError(f"--gpus {gpus}: servers want one of their own beside the processes; at least 2")
        found = [self.of(Layout(count, gpus - count)) for count in sorted(ways, key=lambda n: abs(2 * n - gpus))]
        return min(found, key=lambda each: each.step or 0.0)

    def of(self, layout: Layout) -> Simulated:
        """The job laid out so.

        Raises:
            ModelError, KedgeError: as :meth:`PlannedJob.rehearse`.
        """
        processes, assumed, shard = layout.processes, self.assumed, bool(self.job.config.shard)
        phases = self._share_of(processes)
        trained = [phase for phase in phases if not (layout.servers and phase.name in SAMPLING)]
        peaks = {phase.name: rank_memory(phase, processes, shard=shard, cache=not layout.servers) for phase in trained}
        traffic = traffic_of(trained, processes, shard=shard)
        publish: dict[str, float] = {}
        if layout.servers:
            weights = sum(
                size for (role, kind), size in phases[0].held.items() if (role, kind) == ("policy", "weights")
            )
            publish = {"folder": weights * (1.0 + layout.servers), "broadcast": float(weights * layout.servers)}
        whole = seconds_of(self._share_of(1))
        times = {phase.name: phase.seconds for phase in phases if phase.name != "evaluate"}
        seconds = None
        if whole is not None:
            sampled = times.get("generate") or 0.0
            if layout.servers:
                writes = {phase.name: phase.seconds for phase in self._share_of(layout.servers)}
                sampled = (writes["generate"] or 0.0) / assumed.servers
            rest = sum(value or 0.0 for name, value in times.items() if name != "generate")
            seconds = {
                "sample": sampled / assumed.utilisation,
                "train": rest / assumed.utilisation,
                "exchange": sum(traffic.values()) / assumed.network,
                "publish": publish.get("folder", 0.0) / assumed.disk,
            }
        answers = getattr(self.job.config, "mini_batch_size", self.job.config.batch_size)
        return Simulated(
            layout, shard and processes > 1, peaks, traffic, publish, seconds, self.staleness,
            None if whole is None else whole / assumed.utilisation, min(processes, answers),
        )  # fmt: skip

    def _share_of(self, processes: int) -> list[Phase]:
        changes = share(self.job.config, processes)
        key = tuple(sorted(changes.items()))
        if key not in self._rehearsed:
            self._rehearsed[key] = self.job.rehearse(changes)
        return self._rehearsed[key]


def share(config: Any, processes: int) -> dict[str, int]:
    """Settings of a job that is as large as the largest share of this one: the same minibatches, each with as many
    answers as one process has of it."""
    if processes == 1:
        return {}
    prompts = math.ceil(config.batch_size / processes)
    if not hasattr(config, "mini_batch_size"):
        return {"batch_size": prompts}
    minibatches = config.batch_size * config.num_generations // config.mini_batch_size
    while prompts * config.num_generations % minibatches:
        prompts += 1
    return {"batch_size": prompts, "mini_batch_size": prompts * config.num_generations // minibatches}


def rank_memory(phase: Phase, processes: int, *, shard: bool, cache: bool = True) -> int:
    """Bytes of one of several processes at a phase's peak.

    Args:
        phase: of its share.
        processes: that train.
        shard: their models are spread over them.
        cache: it has an engine of its own.
    """
    held = {account: size for account, size in phase.held.items() if cache or account[1] != "KV cache"}
    if not shard or processes == 1:
        return sum(held.values()) + (_summed(phase, shard=False) if processes > 1 else 0)
    total = _summed(phase, shard=True)
    for (role, kind), size in held.items():
        parts = phase.parts.get(role)
        if parts is None or kind not in ("weights", "gradients", "optimizer"):
            total += size
            continue
        trained = parts.trained + parts.trained_plain
        whole = parts.plain if kind == "weights" else size * parts.trained_plain // max(1, trained)
        whole = min(size, whole)
        total += whole + -(-(size - whole) // processes)
    return total + _together(phase)


def _summed(phase: Phase, *, shard: bool) -> int:
    """Bytes of gradients on their way: copies in buckets (:meth:`kedge.parallel.Processes.summing_gradients`)."""
    if not phase.backward:
        return 0
    roles = [phase.parts[role] for role in phase.runs]
    sent = sum(parts.trained_plain + (0 if shard else parts.trained) for parts in roles)
    return min(sent, UNDER_WAY * BUCKET * torch.float32.itemsize)


def _together(phase: Phase) -> int:
    """Bytes of weights, and of gradients before they are summed, that every process has for a while."""
    whole = sum(phase.parts[role].spread for role in phase.whole)
    passing = [0]
    for role in phase.runs:  # one after the other
        parts = phase.parts[role]
        # At the logits of a first micro-batch there are no gradients yet.
        goes_back = phase.backward and phase.held.get((role, "gradients"))
        passing.append(parts.passing + (min(parts.trained, parts.passing) if goes_back else 0))
    return whole + max(passing)


def traffic_of(phases: Sequence[Phase], processes: int, *, shard: bool) -> dict[str, float]:
    """Bytes that each process sends in a step, by what they are; rings send ``(P - 1) / P`` of what they put together
    or sum apart, and twice that of what all of them have summed.

    Args:
        phases: of its share.
        processes: in the ring.
        shard: their models are spread over them.
    """
    ring = (processes - 1) / processes
    sums = gathered = scattered = 0.0
    for phase in phases:
        for role in phase.runs:
            parts = phase.parts[role]
            plain = parts.trained_plain if shard else parts.trained + parts.trained_plain
            sums += 2 * ring * plain * phase.steps
            if shard:
                back = parts.spread - parts.around if phase.backward else 0
                gathered += ring * (parts.spread + back) * phase.passes
                scattered += ring * parts.trained * phase.passes if phase.backward else 0.0
        if shard:
            gathered += ring * sum(phase.parts[role].spread for role in phase.whole)
    found = {
        "all-reduce of gradients": sums,
        "all-gather of weights": gathered,
        "reduce-scatter of gradients": scattered,
    }
    return {name: size for name, size in found.items() if size}
