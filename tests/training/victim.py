"""A run of each trainer, small and with everything on that a checkpoint must hold. Processes that get killed run it."""

import gc
import json
import os
import resource

os.environ["HF_HUB_OFFLINE"] = "1"

import torch

from kedge import PPO, SFT, PPOConfig, RewardConfig, RewardModeling, SFTConfig

PPO_SETTINGS = {
    "steps": 6, "batch_size": 4, "mini_batch_size": 2, "num_ppo_epochs": 2, "response_length": 6, "learning_rate": 3e-3,
    "weight_decay": 0.1, "eval_every": 2, "scale_rewards": True, "kl_controller": "adaptive", "kl_target": 0.5,
    "kl_horizon": 50.0, "guards": {"patience": 1, "kl_limit": 1e-6},
}  # fmt: skip
KINDS = {
    "sft": {},
    "reward": {},
    "separate": {"critic": "separate"},
    "shared": {"critic": "shared"},
    "none": {"advantage_estimator": "rloo", "num_generations": 2},
}
RESULTS = {"sft": ("policy",), "reward": ("reward_model",), "none": ("policy",)}
PROMPTS = ["the cat", "a dog ran", "Once upon", "red house", "the mat and", "a little ship", "the red", "dog"]


def by_length(prompts, completions, completion_ids):
    return [float(7 * len(set(ids)) + ids[0] % 5) for ids in completion_ids]


def by_letters(prompts, completions):
    return [float(sum(map(str.isalpha, text))) for text in completions]


def trainer(kind, model, run, *, resume=False, checkpoint_every=1):
    """The trainer of a kind, on the model in a folder."""
    torch.set_num_threads(1)
    common = {"run": run, "resume": resume, "progress": False, "eval_size": 2}
    kept = {"checkpoint_every": checkpoint_every, "device": "cpu"}
    supervised = {"epochs": 3, "batch_size": 2, "eval_every": 2, "learning_rate": 3e-3, "weight_decay": 0.1} | kept
    if kind == "sft":
        rows = [{"prompt": prompt, "completion": f" {prompt} and {i}"} for i, prompt in enumerate(PROMPTS)]
        return SFT(model, rows, SFTConfig(**supervised), **common)
    if kind == "reward":
        rows = [{"prompt": prompt, "chosen": " sat.", "rejected": f" {i}"} for i, prompt in enumerate(PROMPTS)]
        return RewardModeling(model, rows, RewardConfig(**supervised), **common)
    config = PPOConfig(**(PPO_SETTINGS | kept | KINDS[kind]))
    return PPO(model, PROMPTS, [by_length, by_letters], config, metrics=[by_letters], **common)


def train(kind, model, run, *, resume=False):
    """Run it to its end, if nobody kills it."""
    trainer(kind, model, run, resume=resume).train()


def soak(model, run, steps):
    """Train for so many steps; after each, resident bytes and open files go to ``run/soak.jsonl``."""
    torch.set_num_threads(1)
    small = PPO_SETTINGS | {"steps": steps, "eval_every": 10, "checkpoint_every": 10, "device": "cpu"}
    ppo = PPO(model, PROMPTS, by_letters, PPOConfig(**small), run=run, eval_size=2, progress=False)
    for _ in ppo:
        gc.collect()
        with open("/proc/self/statm") as file:
            resident = int(file.read().split()[1]) * resource.getpagesize()
        with (run / "soak.jsonl").open("a") as file:
            file.write(json.dumps([resident, len(os.listdir("/proc/self/fd"))]) + "\n")
