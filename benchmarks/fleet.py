"""One job with the engine here, with vLLM servers, and with their answers ahead of the update: score, seconds, profile.

    python benchmarks/fleet.py --python /path/to/vllm-env/bin/python
    python benchmarks/fleet.py --python .venv-vllm/bin/python --ways engine 0 2 --servers 2 --seeds 0 1 2

The story model learns to please VADER, 32 answers of 48 tokens a step, a critic of its own. ``0``, ``1``, ``2`` are
``max_staleness`` with servers that kedge starts on this machine. Where they share its cores with the update, nothing is
gained by running ahead; what is seen is that nothing is lost, and how long a step waits for its answers.
"""

import argparse
import os
import statistics
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

from workload import SHARED, show

from kedge.runs.folder import Metrics
from kedge.training.ppo import PPO

RECIPES = Path(__file__).parents[1] / "recipes"
SETTINGS = {"batch_size": 32, "mini_batch_size": 32, "response_length": 48, "learning_rate": 3e-5, "kl_coef": 0.05,
            "critic": "separate", "stop_tokens": ["<s>"]}  # fmt: skip
PHASES = ("generate", "reward", "estimate", "update")
HELD_OUT = 256
WORST = ("sampler/agreement", "policy/first_drift_max", "policy/importance_max", "sampler/staleness_max")


def trained(way: str, seed: int, given: argparse.Namespace, weights: str) -> tuple[list[Metrics], dict[str, Any]]:
    """The metrics of each step, and the summary.

    Args:
        way: ``engine``, or how stale a fleet's answers may be.
        seed: of the job.
        given: the command's arguments.
        weights: a folder to publish through.
    """
    sampler = {"kind": "vllm", "servers": given.servers, "python": given.python, "weights": weights,
               "args": ["--max-model-len", "512"], "timeout": 300.0, "health_timeout": 60.0}  # fmt: skip
    how: dict[str, Any] = {} if way == "engine" else {"sampler": sampler}
    staleness = 0 if way == "engine" else int(way)
    ppo = PPO(
        SHARED / "models/stories3M", RECIPES / "openings.jsonl", "recipes.judges:vader",
        {**SETTINGS, "steps": given.steps, "seed": seed, "max_staleness": staleness},
        eval_size=HELD_OUT, progress=False, **how,
    )  # fmt: skip
    with closing(ppo):
        seen = list(ppo)
        return seen, ppo.summary()


def row(way: str, seed: int, seen: list[Metrics], summary: dict[str, Any]) -> list[str]:
    """A line of the table."""
    phases = [[each.get(f"time/{phase}", 0.0) for each in seen] for phase in PHASES]
    whole = [sum(each) for each in zip(*phases, strict=True)]
    worst = [max(each.get(name, 0.0) for each in seen) for name in WORST]
    scores = [summary[when]["score"] for when in ("before", "after")]
    return [
        way, str(seed), *(f"{score:.3f}" for score in scores), f"{summary['after']['kl']:.2f}",
        *(f"{statistics.median(each):.2f}" for each in [whole, *phases]), *(f"{x:.2g}" for x in worst),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", required=True, help="of vLLM's environment")
    parser.add_argument("--ways", nargs="+", default=["engine", "0", "2"])
    parser.add_argument("--servers", type=int, default=1)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    given = parser.parse_args()
    os.chdir(RECIPES.parent)  # where recipes.judges is found
    heads = ["way", "seed", "before", "after", "KL", "s/step", *PHASES, *(name.rpartition("/")[-1] for name in WORST)]
    rows = []
    with tempfile.TemporaryDirectory() as weights:
        for seed in given.seeds:
            for way in given.ways:
                rows.append(row(way, seed, *trained(way, seed, given, weights)))
                print(*rows[-1], flush=True)  # it takes hours, and may be stopped
    result = {f"{way} {seed}": dict(zip(heads[2:], map(float, rest), strict=True)) for way, seed, *rest in rows}
    show(f"VADER of {HELD_OUT} held-out prompts; median seconds; the worst of all steps", heads, rows, result)
    for way in given.ways if len(given.seeds) > 1 else ():
        gains = [float(line[3]) - float(line[2]) for line in rows if line[0] == way]
        print(f"{way}: gains {statistics.mean(gains):.3f}, deviation over seeds {statistics.stdev(gains):.3f}")


if __name__ == "__main__":
    main()
