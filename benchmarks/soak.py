"""A server under hostile clients for a long time, and killed again and again.

    python benchmarks/soak.py [--minutes 10] [--clients 16] [--kills 30]

stories260K and the same with other weights, which take turns every 20 seconds while clients come, leave, read slowly
and send nonsense. In the middle the disk that the feedback is on is full for a while (a tmpfs of its own, for which
this must be root; else that is left out). Counted: answers that the version they name does not write, feedback that
was confirmed and is not there, or twice, places that are never given back, and the growth of memory. Then ``kill -9``
under load, and whether all that was confirmed is there when the server is back. Ends with 1 where something was
wrong.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import psutil
import torch
from hostile import Crowd, Ledger, expected_of
from serving_peers import end_in_order, free_port, stop, wait_for
from workload import STORIES

from kedge.models.language_model import load_language_model

SWITCH = 20
"""Seconds that a version answers."""
ADMIN = {"Authorization": "Bearer admin"}
DATABASE = "feedback.db"
SMALL = 16
"""MiB of the disk that will be full."""


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """A file system of its own there, where that is allowed."""
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SMALL}m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    try:
        yield done.returncode == 0
    finally:
        if done.returncode == 0:
            subprocess.run(["umount", "-l", str(folder)], check=False)


def other_weights(folder: Path) -> Path:
    """A model like stories260K that writes otherwise."""
    lm = load_language_model(STORIES, device="cpu")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in lm.model.parameters():
            weight.add_(0.05 * weight.std() * torch.randn(weight.shape, generator=generator))
    lm.save(folder)
    return folder


class Server:
    """``kedge serve``, which can be killed and begun again."""

    def __init__(self, folder: Path, database: Path) -> None:
        (folder / "admin.txt").write_text("admin\n")
        self.database, self.port = database, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.command = [
            sys.executable, "-m", "kedge", "serve", str(STORIES), "--name", "m", "--port", str(self.port),
            "--admin-key-file", str(folder / "admin.txt"), "--feedback", str(database),
        ]  # fmt: skip
        self.said = (folder / "said.txt").open("a+")

    def start(self) -> None:
        """Begin, and wait until it answers."""
        self.process = subprocess.Popen(self.command, stdout=self.said, stderr=self.said, start_new_session=True)
        wait_for(self.process, f"{self.url}/ready", self.said)

    @property
    def memory(self) -> float:
        """MiB that it holds."""
        return float(psutil.Process(self.process.pid).memory_info().rss / 2**20)

    def tracebacks(self) -> int:
        """That it has printed."""
        self.said.seek(0)
        return self.said.read().count("Traceback")


def kept(database: Path) -> Counter:
    """Keys in the database, and how often each is there."""
    with sqlite3.connect(database, timeout=30) as connection:
        return Counter(key for (key,) in connection.execute("SELECT key FROM feedback"))


def missing_or_doubled(ledger: Ledger, database: Path) -> tuple[int, int]:
    """Of the feedback that was confirmed."""
    found = kept(database)
    return sum(key not in found for key in ledger.acknowledged), sum(count > 1 for count in found.values())


async def switch(crowd: Crowd, models: list[Path], until: float) -> None:
    """Let one model after another answer; now and then go back instead."""
    async with httpx.AsyncClient(base_url=crowd.url, timeout=120, headers=ADMIN) as http:
        turn = 0
        while time.monotonic() + SWITCH / 2 < until:
            await asyncio.sleep(min(SWITCH, max(0.0, until - time.monotonic())) * random.uniform(0.8, 1.0))
            turn += 1
            # What is asked the moment it answers must be known by its name: versions are numbered as they come.
            number = max(int(name[1:]) for name in crowd.sources) + 1
            if turn % 4 == 0:
                answer = await http.post("/admin/rollback")
            else:
                source = str(models[turn % 2])
                crowd.sources[f"v{number}"] = source
                answer = await http.post("/admin/deploy", json={"source": source})
            if answer.status_code != 200:
                crowd.ledger.bad("switch", answer.text)
            crowd.ledger.met["switches"] += 1


async def fill(disk: Path, ledger: Ledger, begin: float, seconds: float) -> None:
    """Leave nothing of a disk, for a while."""
    await asyncio.sleep(max(0.0, begin - time.monotonic()))
    with sqlite3.connect(disk / DATABASE, timeout=30) as connection:  # else its log has room from before
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 4096)
        except OSError:
            ledger.met["disk full"] += 1
    await asyncio.sleep(seconds)
    filler.unlink()


async def watch(server: Server, until: float, memory: list[float]) -> None:
    """Memory, every second."""
    while time.monotonic() < until:
        memory.append(server.memory)
        await asyncio.sleep(1)


async def soak(
    server: Server, crowd: Crowd, models: list[Path], seconds: float, clients: int, disk: Path | None
) -> list[float]:
    """All of it at once; gives the memory, second by second."""
    begun = time.monotonic()
    until, memory = begun + seconds, []
    work = [crowd.run(clients, until), switch(crowd, models, until), watch(server, until, memory)]
    if disk is not None:
        work.append(fill(disk, crowd.ledger, begun + 0.4 * seconds, min(15.0, 0.2 * seconds)))
    await asyncio.gather(*work)
    async with httpx.AsyncClient(base_url=crowd.url, timeout=60) as http:
        for given in [crowd.ledger.owed.pop() for _ in range(len(crowd.ledger.owed))]:
            await crowd.say(http, given)
    return memory


def places(server: Server) -> dict[str, float]:
    """Answers that are still thought to be waited for, a while after everybody has gone."""
    left: dict[str, float] = {}
    for _ in range(50):
        lines = httpx.get(f"{server.url}/metrics").text.splitlines()
        values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        versions = httpx.get(f"{server.url}/admin/versions", headers=ADMIN).json()
        left = {name: float(values[name]) for name in ("kedge_answers_waiting", "kedge_batch_size")}
        left["answers"] = sum(versions[each]["answers"] for each in ("live", "before") if versions[each])
        if not any(left.values()):
            break
        time.sleep(0.2)
    return left


async def killed(server: Server, crowd: Crowd, times: int, clients: int) -> int:
    """Kill it so often while clients are answered; how much feedback that it had confirmed was gone or doubled."""
    wrong, rng = 0, random.Random(0)
    crowd.dying = True
    for _ in range(times):
        load = asyncio.create_task(crowd.run(clients, time.monotonic() + 600, ("whole", "stream", "leaves")))
        await asyncio.sleep(rng.uniform(0.5, 3.0))
        server.process.send_signal(signal.SIGKILL)
        await asyncio.to_thread(server.process.wait)
        crowd.going = False
        await load
        await asyncio.to_thread(server.start)
        crowd.going = True
        wrong += sum(missing_or_doubled(crowd.ledger, server.database))
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10, help="of hostile clients; 0: none")
    parser.add_argument("--clients", type=int, default=16, help="at a time")
    parser.add_argument("--kills", type=int, default=0, help="kill -9 so often, afterwards")
    arguments = parser.parse_args()
    end_in_order()
    faults: Counter = Counter()
    told: dict = {"benchmark": "soak", "minutes": arguments.minutes, "kills": arguments.kills}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        models = [STORIES, other_weights(folder / "other")]
        expected = {str(model): expected_of(model) for model in models}
        mounted = os.geteuid() == 0 and stack.enter_context(small_disk(folder / "disk"))
        if not mounted:
            print("no disk is filled: a tmpfs can be mounted by root alone")
        base = folder / "disk" if mounted else folder
        if arguments.minutes:
            server = Server(folder, base / DATABASE)
            stack.callback(lambda server=server: stop(server.process))
            server.start()
            crowd = Crowd(server.url, expected, {"v1": str(STORIES)})
            disk = base if mounted else None
            memory = asyncio.run(soak(server, crowd, models, 60 * arguments.minutes, arguments.clients, disk))
            left = places(server)
            stop(server.process)
            lost, doubled = missing_or_doubled(crowd.ledger, server.database)
            quarter = len(memory) // 4
            grown = sum(memory[-quarter:]) / quarter - sum(memory[quarter : 2 * quarter]) / quarter if quarter else 0.0
            faults.update({name: count for name, count in crowd.ledger.met.items() if name.startswith("BAD")})
            faults.update({"lost": lost, "doubled": doubled, "places": int(sum(left.values()))})
            faults["tracebacks"] += server.tracebacks()
            told["met"] = dict(sorted(crowd.ledger.met.items()))
            told["acknowledged"] = len(crowd.ledger.acknowledged)
            told["memory_mib"] = {"most": round(max(memory)), "last_quarter_less_second": round(grown, 1)}
            told["examples"] = crowd.ledger.examples
        if arguments.kills:
            server = Server(folder, folder / "killed.db")
            stack.callback(lambda server=server: stop(server.process))
            server.start()
            crowd = Crowd(server.url, expected, {"v1": str(STORIES)})
            wrong = asyncio.run(killed(server, crowd, arguments.kills, arguments.clients))
            faults["lost or doubled by kills"] += wrong
            faults.update({f"{name} (kills)": n for name, n in crowd.ledger.met.items() if name.startswith("BAD")})
            told["acknowledged_under_kills"] = len(crowd.ledger.acknowledged)
            told["examples_under_kills"] = crowd.ledger.examples
    told["faults"] = {name: count for name, count in faults.items() if count}
    print(json.dumps(told, indent=2))
    return 1 if told["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
