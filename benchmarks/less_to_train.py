"""What is learnt where less is trained: happier stories; all of stories3M, LoRA, a prefix, half of the layers, both.

    python benchmarks/less_to_train.py [--seeds 0 1 2] [--steps 30]

The reward is VADER's compound score, 32 answers of 48 tokens a step, a shared critic, the defaults but for the learning
rates below. Measured on 64 answers to openings never trained on, before and after: VADER, and the KL from the reference
in nats an answer.
"""

import argparse
import statistics
import time
from typing import Any

import torch
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
from workload import SHARED, prompts, show

from kedge import PPO

LORA = {"method": "lora", "r": 16, "lora_alpha": 32, "target_modules": "all-linear"}
WAYS: dict[str, dict[str, Any]] = {
    "whole": {"learning_rate": 1e-4},
    "lora": {"learning_rate": 1e-3, "adapter": LORA},
    "half": {"learning_rate": 1e-4, "num_layers_unfrozen": 3},
    "prefix": {"learning_rate": 0.1, "adapter": {"method": "prefix_tuning", "num_virtual_tokens": 20}},
    "half, lora": {"learning_rate": 1e-3, "adapter": LORA, "num_layers_unfrozen": 3},
}
analyzer = SentimentIntensityAnalyzer()


def vader(prompts: list[str], completions: list[str]) -> list[float]:
    """How happy a text sounds, from -1 to 1."""
    return [analyzer.polarity_scores(text)["compound"] for text in completions]


def learnt(way: str, seed: int, steps: int) -> dict[str, float]:
    """One run."""
    texts = list(dict.fromkeys(prompts(4096)))
    settings = {
        "steps": steps, "batch_size": 32, "mini_batch_size": 32, "response_length": 48, "seed": seed,
        "lr_scheduler_type": "constant", "device": "cpu", "samples_per_step": 0,
    }  # fmt: skip
    ppo = PPO(SHARED / "models/stories3M", texts[16:], vader, settings | WAYS[way], eval_prompts=texts[:16] * 4,
              progress=False)  # fmt: skip
    start = time.perf_counter()
    summary = ppo.train()
    seconds = time.perf_counter() - start - summary["seconds"]["evaluate"]
    before, after = summary["before"], summary["after"]
    return {"before": before["score"], "after": after["score"], "kl": after["kl"], "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=[*WAYS])
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    runs: dict[str, list[dict[str, float]]] = {}
    for seed in arguments.seeds:
        for way in arguments.ways:
            runs.setdefault(way, []).append(learnt(way, seed, arguments.steps))
            print(way, seed, runs[way][-1], flush=True)
    rows = [
        (way, *(statistics.fmean(run[key] for run in found) for key in ("before", "after", "kl", "seconds")))
        for way, found in runs.items()
    ]
    title = f"Happier stories, {arguments.steps} steps, {len(arguments.seeds)} seeds"
    columns = ("trained", "VADER before", "after", "KL, nats an answer", "seconds")
    show(title, columns, rows, {"benchmark": "less_to_train", "runs": runs})


if __name__ == "__main__":
    main()
