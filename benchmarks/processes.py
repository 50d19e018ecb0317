r"""PPO by several processes of one thread: seconds of an update, and the most memory that a process holds.

    python benchmarks/processes.py --model 8M                      one process, two with whole models, two sharded
    python benchmarks/processes.py --model 110M --give-back --episodes 8 --response 32 --updates 2 \
        --micro-batch-tokens 256

Random Llamas of so many weights, with policy, reference, a critic (``--critic``) and a reward that costs nothing.
Efficiency is the seconds of one process over those of all processes together: 100% where two are twice as fast. Memory
is what no other process has (``RssAnon``), read every 5 ms, of the process that holds most; what the file of a model's
weights takes of the page cache is shared, and not counted.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch
from four_roles import SIZES, made
from workload import EPISODES, EPOCHS, RESPONSE, prompts, show

WAYS = {"one": (1, False), "two": (2, False), "two, sharded": (2, True), "four, sharded": (4, True)}
DEFAULT = ["one", "two", "two, sharded"]


def held() -> int:
    """MiB of memory that are this process's own."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon")) // 1024


class Watch(threading.Thread):
    """The most that was held, by what was being done."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most: dict[str, int] = {}
        self.phase = "start"

    def run(self) -> None:
        while True:
            self.most[self.phase] = max(self.most.get(self.phase, 0), held())
            time.sleep(0.005)


def child(model: str, sharded: bool, arguments: argparse.Namespace) -> None:
    """What the processes of one way do."""
    from kedge import PPO
    from kedge.parallel import join, leave

    torch.set_num_threads(1)
    processes, watch = join(), Watch()
    imports = held()
    watch.start()
    settings: dict[str, Any] = {
        "steps": arguments.updates, "batch_size": arguments.episodes, "mini_batch_size": arguments.episodes,
        "num_ppo_epochs": EPOCHS, "response_length": arguments.response, "learning_rate": 1e-4, "target_kl": "none",
        "samples_per_step": 0, "device": "cpu", "critic": arguments.critic, "shard": sharded,
    }  # fmt: skip
    if arguments.micro_batch_tokens:
        settings["micro_batch_tokens"] = arguments.micro_batch_tokens
    ppo = PPO(model, prompts(4096), _length, settings, progress=False)
    watch.phase = "steps"
    seconds = []
    for _ in range(arguments.updates):
        metrics = ppo.step()
        ppo.step_done += 1
        seconds.append(metrics["time/update"])
    watch.phase = "save"
    with tempfile.TemporaryDirectory() as folder:
        ppo.save(folder)
    found = processes.gather(lambda: [watch.most])
    if processes.leads:
        most = {name: max(each[name] for each in found) for name in found[0]}
        print(json.dumps({"seconds": statistics.median(seconds[1:] or seconds), "mib": most, "imports": imports}))
    leave()


def _length(completions: list[str], **_: Any) -> list[float]:
    return [float(len(completion)) for completion in completions]


def measured(way: str, model: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """What the processes of one way print last."""
    count, sharded = WAYS[way]
    names = ("episodes", "response", "updates", "micro_batch_tokens", "critic")
    same = [f"--{name.replace('_', '-')}={getattr(arguments, name)}" for name in names]
    own = [__file__, "--child", str(model), *(["--sharded"] if sharded else []), *same]
    launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={count}"] if count > 1 else []
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    if arguments.give_back:
        environment["MALLOC_MMAP_THRESHOLD_"] = str(2**20)
    done = subprocess.run(
        [sys.executable, *launcher, *own], capture_output=True, text=True, env=environment, check=False
    )
    if done.returncode:
        raise SystemExit(f"{way}: {done.stderr}")
    found: dict[str, Any] = json.loads(next(line for line in done.stdout.splitlines()[::-1] if line.startswith("{")))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="8M", choices=["stories3M", *SIZES])
    parser.add_argument("--ways", nargs="+", default=DEFAULT, choices=WAYS)
    parser.add_argument("--critic", default="separate", choices=["separate", "shared"])
    parser.add_argument("--rounds", type=int, default=1, help="in turns")
    parser.add_argument("--response", type=int, default=RESPONSE)
    parser.add_argument("--episodes", type=int, default=EPISODES)
    parser.add_argument("--updates", type=int, default=3)
    parser.add_argument("--micro-batch-tokens", type=int, default=0, help="by default as kedge chooses")
    parser.add_argument("--give-back", action="store_true", help="freed memory at once, which glibc keeps; slower")
    parser.add_argument("--child", metavar="MODEL", help=argparse.SUPPRESS)
    parser.add_argument("--sharded", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child, arguments.sharded, arguments)
        return
    runs: dict[str, list[dict[str, Any]]] = {way: [] for way in arguments.ways}
    with tempfile.TemporaryDirectory() as folder:
        model = made(arguments.model, Path(folder))
        for _ in range(arguments.rounds):
            for way in arguments.ways:
                runs[way].append(measured(way, model, arguments))
    seconds = {way: statistics.median(run["seconds"] for run in each) for way, each in runs.items()}
    memory = {way: max(max(run["mib"].values()) - run["imports"] for run in each) for way, each in runs.items()}
    first = arguments.ways[0]
    rows = [
        (
            way,
            seconds[way],
            f"{seconds[first] * WAYS[first][0] / (seconds[way] * WAYS[way][0]):.0%}",
            memory[way],
            f"{memory[way] / memory[first]:.0%}",
        )
        for way in runs
    ]
    columns = ("processes", "seconds an update", "efficiency", "MiB above the imports", "of the first")
    title = f"{arguments.model}, {arguments.critic} critic: {arguments.episodes} answers of {arguments.response} tokens"
    show(title, columns, rows, {"benchmark": "processes", "runs": runs})


if __name__ == "__main__":
    main()
