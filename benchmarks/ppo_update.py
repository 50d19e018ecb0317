"""One PPO update, and one GRPO update, of kedge and of TRL; and the time to a mean VADER score of 0.95.

    python benchmarks/ppo_update.py [--rounds 3]

64 answers of 64 tokens to the same openings, stories260K, 4 passes, one optimizer step a pass, temperature 1. TRL runs
by the scripts in ../shared/peers, each in an environment of its own (made at the first call, in benchmarks/.peers).
kedge and TRL take turns, so that a slow minute hits both.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
from workload import EPISODES, EPOCHS, RESPONSE, SHARED, STORIES, prompts, show

from kedge import PPO, PPOConfig
from kedge.models.critic import SharedCritic
from kedge.models.reward_loading import new_reward_model
from kedge.training.ppo import experience as experience_module
from kedge.training.ppo import trainer as trainer_module
from kedge.training.ppo.update import Update

PEERS = Path(__file__).parent / ".peers"
ENVIRONMENTS = {"trl_ppo": "trl==1.12.0", "trl_grpo": "trl==1.16.0"}
UPDATES = 6
GRPO_UPDATES = 25
TARGET = 0.95

SAME_WORK = {
    "steps": UPDATES, "batch_size": EPISODES, "mini_batch_size": EPISODES, "num_ppo_epochs": EPOCHS,
    "response_length": RESPONSE, "learning_rate": 1e-4, "kl_coef": 0.05, "device": "cpu",
}  # fmt: skip
IN_GROUPS = {"batch_size": 8, "num_generations": 8, "advantage_estimator": "grpo", "kl_in": "loss", "kl_coef": 0.02}
# What reached the target soonest of five settings tried; TRL runs with those of the peers' script.
FASTEST = {
    **SAME_WORK, **IN_GROUPS, "steps": 60, "num_ppo_epochs": 1, "mini_batch_size": 16, "learning_rate": 1e-3,
    "lr_scheduler_type": "constant",
}  # fmt: skip


def peer(name: str, *arguments: str) -> dict[str, Any]:
    """What a peer's script prints."""
    environment = PEERS / name.replace("_", "-")
    if not (environment / "bin" / "python").exists():
        subprocess.run([sys.executable, "-m", "venv", environment], check=True)
        wanted = ["torch==2.13.0", ENVIRONMENTS[name], "transformers<5.20", "vaderSentiment"]
        subprocess.run([environment / "bin" / "pip", "install", "-q", *wanted], check=True)
    command = [environment / "bin" / "python", SHARED / "peers" / f"{name}.py", STORIES, *arguments]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    return found


def vader() -> Callable[..., list[float]]:
    """The reward of the peers' script."""
    analyzer = SentimentIntensityAnalyzer()
    return lambda prompts, completions: [analyzer.polarity_scores(text)["compound"] for text in completions]


def kedge(reward: Any, settings: dict[str, Any]) -> PPO:
    """A trainer, ready."""
    return PPO(STORIES, prompts(4096), reward, PPOConfig(**settings), progress=False)


def seconds_a_step(ppo: PPO) -> list[float]:
    """Of each step but the first, which warms up."""
    seconds = []
    for _ in range(ppo.config.steps):
        start = time.perf_counter()
        ppo.step()
        ppo.step_done += 1
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


def seconds_to_target(settings: dict[str, Any], seed: int) -> float:
    """Until the mean score of a step's answers first reaches 0.95; infinity where it never does."""
    ppo = kedge(vader(), {**settings, "seed": seed})
    start = time.perf_counter()
    for metrics in ppo:
        if metrics["objective/scores"] >= TARGET:
            return time.perf_counter() - start
    return math.inf


def share_of_the_rest() -> float:
    """The share of a step's time that is not sampling, models' forward and backward, reward, or the optimizer."""
    ppo = kedge(vader(), SAME_WORK)
    ppo.step()
    spent = [0.0]

    @contextmanager
    def counted() -> Iterator[None]:
        start = time.perf_counter()
        yield
        spent[0] += time.perf_counter() - start

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            with counted():
                return function(*args, **kwargs)

        return run

    with (
        patch.object(trainer_module, "generate", timed(trainer_module.generate)),
        patch.object(trainer_module, "judge", timed(trainer_module.judge)),
        patch.object(experience_module, "forward_tokens", timed(experience_module.forward_tokens)),
        patch.object(SharedCritic, "values", timed(SharedCritic.values)),
        patch.object(Update, "_forward", timed(Update._forward)),
        patch.object(torch.Tensor, "backward", timed(torch.Tensor.backward)),
        patch.object(ppo.optimizer, "step", timed(ppo.optimizer.step)),
    ):
        start = time.perf_counter()
        for _ in range(3):
            ppo.step_done += 1
            ppo.step()
        whole = time.perf_counter() - start
    return 1 - spent[0] / whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(2)
    found: dict[str, list[float]] = {}
    to_target: dict[str, list[float]] = {"TRL GRPO": [], "kedge": []}

    def note(name: str, seconds: list[float]) -> None:
        found.setdefault(name, []).append(statistics.median(seconds))

    for turn in range(rounds):
        note("TRL PPO", [peer("trl_ppo", "--updates", str(UPDATES))["seconds_per_update"]])
        reward_model = new_reward_model(STORIES, device="cpu")
        note("kedge PPO, separate critic", seconds_a_step(kedge(reward_model, {**SAME_WORK, "critic": "separate"})))
        note("kedge PPO, its default critic", seconds_a_step(kedge(reward_model, SAME_WORK)))
        grpo = peer("trl_grpo", "--updates", str(GRPO_UPDATES))
        note("TRL GRPO", [grpo["seconds_per_update"]])
        to_target["TRL GRPO"].append(grpo["seconds_to_0.95"] or math.inf)
        note("kedge GRPO", seconds_a_step(kedge(vader(), {**SAME_WORK, **IN_GROUPS, "learning_rate": 3e-4})))
        to_target["kedge"].append(seconds_to_target(FASTEST, seed=turn))
    seconds = {name: statistics.median(times) for name, times in found.items()}
    rows = [
        (name, seconds[name], theirs, seconds[theirs] / seconds[name])
        for name, theirs in (
            ("kedge PPO, separate critic", "TRL PPO"),
            ("kedge PPO, its default critic", "TRL PPO"),
            ("kedge GRPO", "TRL GRPO"),
        )
    ]
    medians = {name: statistics.median(times) for name, times in to_target.items()}
    rows.append((f"kedge to VADER {TARGET}", medians["kedge"], "TRL GRPO", medians["TRL GRPO"] / medians["kedge"]))
    rest = share_of_the_rest()
    rows.append(("outside models, sampling, reward, optimizer", f"{rest:.1%}", "", ""))
    result = {"benchmark": "ppo_update", "seconds": found, "to_target": to_target, "rest": round(rest, 4)}
    show("An update", ("what", "seconds", "against", "so many times as fast"), rows, result)


if __name__ == "__main__":
    main()
