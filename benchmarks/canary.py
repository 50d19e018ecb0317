"""Canaries over HTTP: one that is worse, one that is better, and copies of what is served, each until it is decided.

    python benchmarks/canary.py [--copies 20] [--steps 20] [--clients 16]

Served is stories3M; the better candidate is what PPO makes of it with VADER's score as its reward, the worse one with
that score turned around. Users ask for answers of 24 tokens, and one in two says what they think of it: a thumb, up
with a probability that rises with VADER's score, which the server is not told. The server judges every answer by the
same score with noise of a spread of one half. A copy that is rolled back is an error; of twenty one may be.
"""

import argparse
import math
import random
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import torch
from less_to_train import vader
from workload import SHARED, prompts, show

from kedge import PPO
from kedge.serving.http.app import create_app
from kedge.serving.http.panel import Panel
from kedge.serving.http.run import listening, load_service

ADMIN = {"Authorization": "Bearer admin"}
MOST = 20_000
"""Answers after which a canary that is not decided is given up."""


class Sentiment:
    """In a reward model's place."""

    def __init__(self) -> None:
        self.noise = random.Random(0)

    def score(self, texts: Sequence[Any]) -> list[float]:
        """VADER's, and noise."""
        return [score + self.noise.gauss(0, 0.5) for score in vader([], [str(text) for text in texts])]


def trained(folder: Path, sign: float, steps: int) -> Path:
    """The run of a policy that PPO has made happier, or sadder."""

    def reward(prompts: list[str], completions: list[str]) -> list[float]:
        return [sign * score for score in vader(prompts, completions)]

    settings = {
        "steps": steps, "batch_size": 32, "mini_batch_size": 32, "response_length": 24, "learning_rate": 3e-5,
        "device": "cpu", "samples_per_step": 0,
    }  # fmt: skip
    texts = list(dict.fromkeys(prompts(2048)))
    PPO(SHARED / "models/stories3M", texts, reward, settings, run=folder, progress=False).train()
    return folder


def user(url: str, name: str, openings: Sequence[str], count: int) -> None:
    """One person, who asks a few times."""
    rng = random.Random(name)
    with httpx.Client(base_url=url, timeout=120) as http:
        for _ in range(count):
            asked = {"model": "stories", "prompt": rng.choice(openings), "max_tokens": 24, "user": name}
            told = http.post("/v1/completions", json=asked).json()
            if rng.random() < 0.5:
                likes = 1 / (1 + math.exp(-3 * vader([], [told["choices"][0]["text"]])[0]))
                thumb = "up" if rng.random() < likes else "down"
                http.post("/v1/feedback", json={"id": told["id"], "index": 0, "thumb": thumb}).raise_for_status()


def decided(url: str, source: Path, clients: int, round_: int) -> tuple[str, int, float, str]:
    """How a canary of half the people ends: the verdict, answers, seconds, and why. Then what was served is again."""
    start, asked, openings = time.perf_counter(), 0, list(dict.fromkeys(prompts(2048)))
    body = {"source": str(source), "canary": {"share": 0.5}}
    told = httpx.post(f"{url}/admin/deploy", json=body, headers=ADMIN, timeout=120)
    told.raise_for_status()
    with ThreadPoolExecutor(clients) as pool:
        while told.json()["canary"] is not None and asked < MOST:
            names = [f"{round_}-{asked + i}" for i in range(clients)]
            [*pool.map(lambda name: user(url, name, openings, 2), names)]
            asked += 2 * clients
            told = httpx.get(f"{url}/admin/versions", headers=ADMIN, timeout=120)
    seconds, last = time.perf_counter() - start, told.json()["history"][-1]
    if last["did"] != "rolled back":
        httpx.post(f"{url}/admin/rollback", headers=ADMIN, timeout=120)
    return last["did"] if told.json()["canary"] is None else "not decided", asked, seconds, last["why"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--copies", type=int, default=20)
    parser.add_argument("--steps", type=int, default=20, help="of PPO, for the candidates")
    parser.add_argument("--clients", type=int, default=16)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        candidates = {
            "worse": trained(Path(scratch) / "worse", -1.0, arguments.steps),
            "better": trained(Path(scratch) / "better", 1.0, arguments.steps),
        } | {f"copy {i + 1}": SHARED / "models/stories3M" for i in range(arguments.copies)}
        service = load_service(
            str(SHARED / "models/stories3M"), name="stories", feedback=str(Path(scratch) / "feedback.db")
        )
        service.reward = Panel([Sentiment()])  # type: ignore[list-item]
        with listening(create_app(service, admin_keys=["admin"])) as url:
            for number, (name, source) in enumerate(candidates.items()):
                rows.append((name, *decided(url, source, arguments.clients, number)))
                print(*rows[-1], flush=True)
    show("Canaries", ("candidate", "end", "answers", "seconds", "why"), rows, {"benchmark": "canary"})


if __name__ == "__main__":
    main()
