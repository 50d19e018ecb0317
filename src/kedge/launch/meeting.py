"""Where the processes of a job meet, and how they take leave."""

import os
import platform
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from kedge.errors import ConfigError, LostError
from kedge.launch.heartbeat import PATIENCE, Companion, Heartbeat
from kedge.launch.interfaces import address_towards, between

COMING = timedelta(minutes=10)
"""Until all are there: machines load libraries at different speeds."""
TOGETHER = timedelta(minutes=30)
"""Of a collective. The first process may work alone for long while the others wait; who is dead or stopped is noticed
much sooner, by the silence (:mod:`kedge.launch.heartbeat`). NCCL's own ten minutes are too few for a
judge that is asked."""

_here: list[Heartbeat] = []  # of this process, as torch's own group of all is


def meet(rank: int, size: int) -> None:
    """Make torch's group of all processes, at the address that the environment names, and begin to give signs of life.

    Args:
        rank: this process's.
        size: how many there are.

    Raises:
        LostError: some did not come, or nobody can be reached. ConfigError: ``KEDGE_PATIENCE`` is no number.
    """
    patience, address, port = _patience(), os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    met_at = f"{address}:{port}"
    # torchrun has the store itself, and may start the same processes again with it.
    serves = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    try:
        store, own = (
            dist.PrefixStore(f"kedge/{attempt}", _connection(address, port, serves=each)) for each in (serves, False)
        )
        store.set(f"from/{rank}", address_towards(address, port))
        companions = _companions(store, rank, size, met_at)
        os.environ.update(between([store.get(f"from/{each}").decode() for each in range(size)], port, os.environ))
        group = dist.PrefixStore("group", store)
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=group, rank=rank, world_size=size, timeout=TOGETHER)
    except (dist.DistStoreError, dist.DistNetworkError) as error:
        said = next(iter(str(error).splitlines()), "")
        raise LostError(f"process {rank} reaches nobody at {met_at} (MASTER_ADDR, MASTER_PORT): {said}") from error
    if patience:
        _here.append(Heartbeat(own, rank, companions, met_at=met_at, patience=patience))


def take_leave() -> None:
    """Leave the group of all."""
    while _here:
        _here.pop().stop()
    dist.destroy_process_group()


def _connection(address: str, port: int, *, serves: bool) -> dist.TCPStore:
    return dist.TCPStore(address, port, None, serves, timeout=COMING, wait_for_workers=False, multi_tenant=True)


def _companions(store: Any, rank: int, size: int, met_at: str) -> list[Companion]:
    """All of the job, once they are there.

    Raises:
        LostError: some did not come.
    """
    store.set(f"who/{rank}", f"{os.getpid()} {platform.node()}")
    keys = [f"who/{each}" for each in range(size)]
    try:
        store.wait(keys, COMING)
    except dist.DistStoreError as error:
        missing = [str(each) for each in range(size) if not store.check([f"who/{each}"])]
        raise LostError(
            f"process {', '.join(missing)} of {size} did not come to {met_at} within {COMING}: see what it said, and "
            "whether its machine reaches that address"
        ) from error
    found = [store.get(key).decode().split(" ", 1) for key in keys]
    return [Companion(number, host, int(pid)) for number, (pid, host) in enumerate(found)]


def _patience() -> float:
    said = os.environ.get("KEDGE_PATIENCE", "")
    try:
        seconds = float(said or PATIENCE)
    except ValueError:
        seconds = -1.0
    if not seconds >= 0:
        raise ConfigError(f"KEDGE_PATIENCE: seconds, or 0 for no limit, not {said!r}")
    return seconds
