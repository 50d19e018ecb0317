"""How far a reward can be optimised before people like the answers less: one reward model, or several careful ones.

    python benchmarks/over_optimization.py [--seeds 0 1] [--labels 400] [--members 4] [--steps 150]

The support desk. Each member has learnt from a draw of few noisy labels (bootstrap); PPO then runs without an anchor
(kl_coef 0) against the first of them, against the mean, and against the mean less one and two standard deviations
(Coste et al. 2023). Shown is where the gold score, which is what people would say, is highest on the way, at which KL
from the reference, and what is left of it in the end.
"""

import argparse
import random
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from workload import show

from kedge import PPO, SFT, RewardModeling
from kedge.data.files import read_rows
from kedge.tasks.starting import desk_model
from kedge.tasks.support_desk import write_support_desk

SUPERVISED = {"batch_size": 8, "warmup_steps": 10, "device": "cpu"}
PPO_SETTINGS = {
    "batch_size": 64, "mini_batch_size": 32, "num_ppo_epochs": 2, "response_length": 60, "learning_rate": 5e-4,
    "kl_coef": 0.0, "critic": "shared", "eval_every": 10, "device": "cpu", "samples_per_step": 0,
    "guards": {"kl": "off", "one_component": "off"},
}  # fmt: skip


def rewards_of(members: list[str]) -> dict[str, Any]:
    """What PPO optimises, by the name of the way."""
    ensemble = {"kind": "ensemble", "models": members}
    return {
        "one": members[0],
        "mean": ensemble | {"caution": 0.0},
        "mean - 1 spread": ensemble | {"caution": 1.0},
        "mean - 2 spreads": ensemble | {"caution": 2.0},
    }


def curve(policy: Path, data: Path, reward: Any, steps: int, seed: int) -> list[dict[str, float]]:
    """KL, gold and score on held-out prompts, every ten steps."""
    with tempfile.TemporaryDirectory() as temporary:
        run = Path(temporary) / "ppo"
        ppo = PPO(
            policy, data / "prompts.jsonl", reward, PPO_SETTINGS | {"steps": steps, "seed": seed}, run=run,
            eval_prompts=data / "prompts-heldout.jsonl", metrics="kedge.tasks.support_desk:gold", progress=False,
        )  # fmt: skip
        found = [row for row in ppo if "eval/gold" in row]
        lines = [row.columns for row in read_rows(run / "metrics.jsonl")]
        ppo.close()
    rows = [row for row in lines if "eval/gold" in row] or found
    return [
        {"step": row["step"], "kl": row.get("eval/kl", 0.0), "gold": row["eval/gold"], "score": row["eval/score"]}
        for row in rows
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--labels", type=int, default=400)
    parser.add_argument("--members", type=int, default=4)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    runs: dict[str, list[list[dict[str, float]]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_support_desk(folder / "data", seed=0)
        desk_model(write_support_desk(folder / "data", seed=0), folder / "model", seed=0)
        SFT(folder / "model", folder / "data/demonstrations.jsonl", SUPERVISED | {"epochs": 2, "learning_rate": 4e-3},
            run=folder / "sft", progress=False).train()  # fmt: skip
        rows = [row.columns for row in read_rows(folder / "data/preferences.jsonl")]
        for seed in arguments.seeds:
            labelled = random.Random(seed).sample(rows, arguments.labels)
            members = []
            for member in range(arguments.members):
                drawn = random.Random(1000 * seed + member).choices(labelled, k=len(labelled))
                settings = SUPERVISED | {"epochs": 6, "learning_rate": 5e-4, "seed": 1000 * seed + member}
                members.append(str(folder / f"rm-{seed}-{member}"))
                modeling = RewardModeling(
                    folder / "sft", drawn, settings, run=members[-1], progress=False,
                    eval_data=folder / "data/preferences-heldout.jsonl",
                )  # fmt: skip
                print("member", seed, member, modeling.train()["trust"]["accuracy"], flush=True)
            for way, reward in rewards_of(members).items():
                runs.setdefault(way, []).append(curve(folder / "sft", folder / "data", reward, arguments.steps, seed))
                print(way, seed, [(round(x["kl"], 1), round(x["gold"], 3)) for x in runs[way][-1]], flush=True)
    table = []
    for way, curves in runs.items():
        peaks = [max(found, key=lambda x: x["gold"]) for found in curves]
        ends = [found[-1] for found in curves]
        means = [statistics.fmean(x[key] for x in part) for part in (peaks, ends) for key in ("gold", "kl")]
        table.append((way, *means))
    columns = ("reward", "highest gold", "at KL, nats an answer", "gold in the end", "at KL")
    show(f"Over-optimisation, {arguments.labels} labels, {len(arguments.seeds)} seeds", columns, table,
         {"benchmark": "over_optimization", "runs": runs})  # fmt: skip


if __name__ == "__main__":
    main()
