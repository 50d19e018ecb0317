"""How far updates go: one job over learning rates, ways, rewards and seeds, and what became of each policy.

    python benchmarks/held_updates.py                                     180 runs of 40 steps: hours on a CPU
    python benchmarks/held_updates.py --models stories260K --rates 1e-3 --ways shared --rewards vader --seeds 1
    python benchmarks/held_updates.py --unheld                            the same without target_kl
    python benchmarks/held_updates.py --stop-after 5                      the first steps alone, where most goes wrong

Defaults but for what is named. The KL of an update is over all its answers, nats a token. A finished run is a line in
the log, and is not run again. One thread and one process a worker.
"""

import argparse
import itertools
import json
import statistics
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from workload import SHARED, show

from kedge.runs.folder import Metrics
from kedge.training.ppo import PPO
from kedge.training.ppo.batch import Batch

RECIPES = Path(__file__).parents[1] / "recipes"
STEPS, HELD_OUT = 40, 128
WAYS: dict[str, dict[str, Any]] = {
    "shared": {},
    "separate": {"critic": "separate"},
    "grpo": {"advantage_estimator": "grpo", "num_generations": 8, "batch_size": 8},
}
Job = tuple[str, str, str, float, int, bool]
"""Model, reward, way, learning rate, seed, whether updates are held."""


def happy(prompts: list[str], completions: list[str], **columns: object) -> list[float]:
    """A sparse reward: the share of "happy" and "fun" among the words."""
    words = [[word.strip(".,!?\"'").lower() for word in text.split()] for text in completions]
    return [sum(word in ("happy", "fun") for word in text) / max(len(text), 1) for text in words]


REWARDS = {"vader": "recipes.judges:vader", "happy": happy}


class Watched(PPO):
    """PPO that measures each update on all its answers."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.went: list[float] = []

    def _update(self, batch: Batch, kl_coef: float) -> Metrics:
        metrics = super()._update(batch, kl_coef)
        self.went.append(self.update._divergence(batch))
        return metrics


def run(job: Job, *, device: str, stop_after: int) -> dict[str, Any]:
    """Train; what is left of the policy."""
    model, reward, way, rate, seed, held = job
    torch.set_num_threads(1)
    settings: dict[str, Any] = {"learning_rate": rate, "seed": seed, "steps": STEPS, "device": device}
    ppo = Watched(
        SHARED / "models" / model,
        RECIPES / "openings.jsonl",
        REWARDS[reward],
        settings | WAYS[way] | {"stop_tokens": "<s>"} | ({} if held else {"target_kl": None}),
        eval_prompts=[json.loads(line) for line in (RECIPES / "openings-heldout.jsonl").open()][:HELD_OUT],
        progress=False,
    )
    steps: list[Metrics] = []
    guards: list[list[Any]] = []
    for step in ppo:
        steps.append(step)
        guards += [[len(steps), name] for name in ppo.guards.spoken if name not in [n for _, n in guards]]
        if len(steps) == stop_after:
            break
    after = ppo.evaluate().summary()
    assert ppo.before is not None
    return {
        "before": ppo.before.summary()["score"],
        "after": after["score"],
        "distinct_2": after["distinct_2"],
        "kl": after["kl"],
        "steps": len(steps),
        "went": [round(kl, 4) for kl in ppo.went],
        "lengths": [round(step["completions/mean_length"], 1) for step in steps],
        "lr_scale": [round(step["policy/lr_scale"], 3) for step in steps],
        "guards": guards,
    }


def row(runs: Sequence[dict[str, Any]]) -> list[str]:
    """The seeds of one setting: the worst of each sign of a wreck, the mean of the score."""
    model, reward, way, rate, *_ = runs[0]["job"]
    first: dict[str, int] = {}
    for step, name in (guard for run in runs for guard in run["guards"]):
        first[name] = min(step, first.get(name, step))
    before, after = (statistics.mean(run[when] for run in runs) for when in ("before", "after"))
    return [
        f"{model} {reward} {way} {rate:g}",
        str(len(runs)),
        f"{max(max(run['went']) for run in runs):.3f}",
        f"{min(min(run['lengths']) / run['lengths'][0] for run in runs):.0%}",
        f"{before:.3f} -> {after:.3f}",
        f"{min(run['distinct_2'] for run in runs):.0%}",
        " ".join(f"{name}@{step}" for name, step in first.items()),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["stories3M", "stories260K"])
    parser.add_argument("--rewards", nargs="+", choices=REWARDS, default=[*REWARDS])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=[*WAYS])
    parser.add_argument("--rates", nargs="+", type=float, default=[1e-5, 3e-5, 1e-4, 3e-4, 1e-3])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--unheld", action="store_true")
    parser.add_argument("--stop-after", type=int, default=STEPS)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--log", type=Path, default=Path("held_updates.jsonl"))
    given = parser.parse_args()
    settings = list(itertools.product(given.models, given.rewards, given.ways, given.rates))
    jobs: list[Job] = [(*setting, seed, not given.unheld) for seed in given.seeds for setting in settings]
    lines = [json.loads(line) for line in given.log.read_text().splitlines()] if given.log.exists() else []
    done: dict[Job, dict[str, Any]] = {tuple(line["job"]): line for line in lines if line["steps"] >= given.stop_after}
    work = partial(run, device=given.device, stop_after=given.stop_after)
    with ProcessPoolExecutor(given.workers, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(work, job): job for job in jobs if job not in done}
        for future in as_completed(futures):
            job = futures[future]
            done[job] = {"job": job, **future.result()}
            with given.log.open("a") as log:
                log.write(json.dumps(done[job]) + "\n")
            print(*row([done[job]]), f"seed {job[4]}", flush=True)
    held = not given.unheld
    show(
        f"Updates {'held within target_kl' if held else 'not held'}: the largest of all, the shortest answers, ...",
        ["what", "seeds", "KL", "length", "score", "word pairs", "guards (first step)"],
        [row([done[*setting, seed, held] for seed in given.seeds]) for setting in settings],
        {"benchmark": "held_updates"},
    )


if __name__ == "__main__":
    main()
