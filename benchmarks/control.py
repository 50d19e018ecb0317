"""Steps a second on CartPole: kedge and Stable-Baselines3 with the same settings, in turns; and 64 vectorised ones.

    python benchmarks/control.py [--steps 50000] [--rounds 3]

SB3 runs by ../shared/peers/sb3_cartpole.py, in an environment of its own (made at the first call).
One thread each: the networks are small.
"""

import argparse
import cProfile
import json
import pstats
import statistics
import subprocess
import sys
import time
from pathlib import Path

import gymnasium as gym
import torch
from workload import SHARED, show

from kedge.control import Agent, evaluate_policy

PEER = Path(__file__).parent / ".peers" / "sb3"
ZOO = {
    "n_envs": 8, "n_steps": 32, "batch_size": 256, "n_epochs": 20, "gamma": 0.98, "gae_lambda": 0.8,
    "learning_rate": 1e-3, "learning_rate_schedule": "linear", "clip_range_schedule": "linear",
}  # fmt: skip
SETTINGS = {"defaults-1": {}, "zoo-8": ZOO}


def peer(steps: int) -> dict[str, float]:
    """Steps a second of SB3 by setting."""
    if not (PEER / "bin" / "python").exists():
        subprocess.run([sys.executable, "-m", "venv", PEER], check=True)
        wanted = ["stable-baselines3==2.9.2", "gymnasium", "torch==2.13.0"]
        subprocess.run([PEER / "bin" / "pip", "install", "-q", *wanted], check=True)
    command = [PEER / "bin" / "python", SHARED / "peers" / "sb3_cartpole.py", "--steps", str(steps)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    lines = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    return {line["setting"]: line["steps_per_second"] for line in lines}


def ours(steps: int, settings: dict[str, object]) -> tuple[float, float]:
    """Steps a second, and the return of 20 episodes after."""
    agent = Agent("CartPole-v1", **settings)
    start = time.perf_counter()
    agent.learn(steps)
    return steps / (time.perf_counter() - start), evaluate_policy(agent, "CartPole-v1", 20)[0]


def vectorised(steps: int) -> tuple[float, list[tuple[str, float]]]:
    """Steps a second of 64 environments in one array, and where the time goes: the largest shares of a profile."""

    def agent() -> Agent:
        envs = gym.make_vec("CartPole-v1", num_envs=64, vectorization_mode="vector_entry_point")
        return Agent(envs, n_steps=64, batch_size=1024, n_epochs=4, learning_rate=1e-3)

    start = time.perf_counter()
    agent().learn(steps)
    speed = steps / (time.perf_counter() - start)
    profile = cProfile.Profile()
    profile.runcall(agent().learn, steps)
    stats = pstats.Stats(profile)
    whole = stats.total_tt
    named = ((f"{Path(file).name}:{function}", own[2] / whole) for (file, _, function), own in stats.stats.items())
    shares = sorted(named, key=lambda share: -share[1])
    return speed, shares[:8]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    theirs: dict[str, list[float]] = {name: [] for name in SETTINGS}
    mine: dict[str, list[float]] = {name: [] for name in SETTINGS}
    returns = {}
    for _ in range(arguments.rounds):
        for name, speed in peer(arguments.steps).items():
            theirs[name].append(speed)
        for name, settings in SETTINGS.items():
            speed, returns[name] = ours(arguments.steps, settings)
            mine[name].append(speed)
    rows = []
    for name in SETTINGS:
        a, b = statistics.median(mine[name]), statistics.median(theirs[name])
        rows.append((name, f"{a:,.0f}", f"{b:,.0f}", round(a / b, 2), returns[name]))
    speed, shares = vectorised(4 * arguments.steps)
    rows.append(("64 in one array", f"{speed:,.0f}", "", "", ""))
    found = {"benchmark": "control", "kedge": mine, "sb3": theirs, "vectorised": speed, "profile": shares}
    show("CartPole-v1, steps a second", ("setting", "kedge", "SB3", "ratio", "return"), rows, found)


if __name__ == "__main__":
    main()
