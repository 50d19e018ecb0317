"""What two processes do for test_fleet_of_processes: ``torchrun fleet_work.py FOLDER URL...``."""

import json
import sys
from pathlib import Path

import torch

from kedge import PPO
from kedge.parallel import join, leave

LORA = {"adapter": {"method": "lora", "r": 4, "target_modules": "all-linear"}, "learning_rate": 1e-2}
DORA = LORA | {"adapter": LORA["adapter"] | {"use_dora": True}}
"""Which goes to the servers as a part of the weights."""
JOBS = {
    "whole": {},
    "sharded": {"shard": True},
    "lora": {"shard": True} | LORA,
    "merged": {"shard": True} | DORA,
    "ahead": {"shard": True, "max_staleness": 2, "steps": 6},
}
SETTINGS = {
    "steps": 3, "batch_size": 4, "mini_batch_size": 4, "response_length": 6, "learning_rate": 1e-3, "device": "cpu",
    "critic": "separate", "micro_batch_tokens": 40, "lr_scheduler_type": "constant",
}  # fmt: skip
PROMPTS = ["the cat", "a dog", "the", "ship", "red house", "on the mat"]


def length(completions):
    return [float(len(completion)) for completion in completions]


def trained(folder, urls, name, **more):
    """PPO by servers; its metrics are returned, and its models kept."""
    fleet = {"kind": "vllm", "urls": urls, "weights": str(folder / "weights"), "stall_timeout": 120.0}
    settings, held = SETTINGS | more, ["a cat", "the dog ran"]
    ppo = PPO(folder / "llama", PROMPTS, length, settings, sampler=fleet, eval_prompts=held, progress=False)
    metrics = [*ppo]
    ppo.summary()
    ppo.save(folder / name)
    versions = [sorted({*completion.versions}) for completion in ppo.experience.completions]
    ppo.close()
    return {"metrics": metrics, "versions": versions}


def main(folder, urls):
    processes = join()
    torch.set_num_threads(1)
    found = {name: trained(folder, urls, name, **more) for name, more in JOBS.items()}
    everybodys = processes.gather(lambda: [found])
    if processes.leads:
        (folder / "found.json").write_text(json.dumps(everybodys))
    leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
