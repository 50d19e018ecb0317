"""Coherence, diversity, freedom from bias and harm as one reward, by PPO on stories3M; and with one weight at 0 each.

    python benchmarks/composite.py [--steps 30] [--seed 0] [--only all coherence diversity bias toxicity]

32 answers of 48 tokens a step, defaults but for the learning rate. Each component's mean on 64 answers to openings
never trained on, before and after, whatever it weighs; and the spread of the difference's mean, over the answers.
"""

import argparse
import statistics
from typing import Any

import torch
from workload import SHARED, prompts, show

from kedge import PPO

MODEL = SHARED / "models/stories3M"
PARTS: dict[str, tuple[dict[str, Any], float]] = {
    "coherence": ({"kind": "coherence", "model": str(MODEL), "measure": "both"}, 6.0),
    "diversity": ({"kind": "diversity"}, 8.0),
    "bias": ({"kind": "bias", "model": str(MODEL)}, 3.0),
    "toxicity": ({"kind": "toxicity"}, 2.0),
}


def learnt(without: str, steps: int, seed: int) -> dict[str, dict[str, float]]:
    """``{component: {"before", "after", "error"}}`` of one run."""
    texts = list(dict.fromkeys(prompts(4096)))
    settings = {
        "steps": steps, "batch_size": 32, "mini_batch_size": 32, "response_length": 48, "learning_rate": 1e-5,
        "kl_coef": 0.3, "lr_scheduler_type": "constant", "seed": seed, "device": "cpu", "samples_per_step": 0,
        "stop_tokens": "<s>",
    }  # fmt: skip
    reward = [spec | {"weight": weight, "name": name} for name, (spec, weight) in PARTS.items() if name != without]
    metrics = [spec | {"name": f"{name}_alone"} for name, (spec, _) in PARTS.items()]
    ppo = PPO(MODEL, texts[16:], reward, settings, eval_prompts=texts[:16] * 4, metrics=metrics, progress=False)
    summary = ppo.train()
    assert ppo.before is not None
    assert ppo.after is not None
    found = {}
    for name in PARTS:
        pairs = zip(ppo.before.scores[f"{name}_alone"], ppo.after.scores[f"{name}_alone"], strict=True)
        known = [(a, b) for a, b in pairs if a == a and b == b]
        differences = [b - a for a, b in known]
        found[name] = {
            "before": statistics.fmean(a for a, _ in known),
            "after": statistics.fmean(b for _, b in known),
            "error": statistics.stdev(differences) / len(differences) ** 0.5,
        }
    return found | {"kl": {"before": 0.0, "after": summary["after"]["kl"], "error": 0.0}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=["all", *PARTS], default=["all", *PARTS])
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    runs = {}
    for without in arguments.only:
        runs[without] = learnt(without, arguments.steps, arguments.seed)
        print(without, runs[without], flush=True)
    rows = [
        (
            "all of them" if without == "all" else f"without {without}",
            *(f"{x['before']:.3f} -> {x['after']:.3f} ({(x['after'] - x['before']) / max(x['error'], 1e-9):+.1f})"
              for x in (found[name] for name in PARTS)),
            f"{found['kl']['after']:.1f}",
        )
        for without, found in runs.items()
    ]  # fmt: skip
    title = f"Composite reward, {arguments.steps} steps; in brackets the change in its standard errors"
    show(title, ("reward", *PARTS, "KL"), rows, {"benchmark": "composite", "runs": runs})


if __name__ == "__main__":
    main()
