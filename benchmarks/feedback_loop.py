"""Three rounds of kedge loop from served answers and simulated raters; then a second line of business, with anchors and
without.

    python benchmarks/feedback_loop.py [--quick | --smoke] [--seeds 0 1 2] [--folder runs/feedback-loop]

A support desk begins with what SFT has made of agents' replies. In each round its present version is served over HTTP;
customers ask about one line of products and requests, raters see two answers to a message and post which is better
(by gold, with the noise of the desk's judge), and `kedge loop` makes the next version of that feedback alone. Shown is
gold, which nothing is trained on, on messages that were never asked: its mean and the paired gain over the beginning,
each with its 95% interval, and of the request that has kept least of what it scored then, how much that is.

Then the second line arrives, with a server and a database of its own, so that nothing in its feedback speaks of the
first. Two loops go on from the same version: one has the first line's pairs as anchors, and a gate that wants 95% of
their gold.
"""

import argparse
import json
import math
import random
import shutil
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from workload import show

from kedge.config.settings import write_recipe
from kedge.evaluation.evaluate import Comparison, evaluate
from kedge.recipes.jobs import sft_job
from kedge.recipes.recipe import Recipe
from kedge.sampling.settings import Sampling
from kedge.serving.http.app import create_app
from kedge.serving.http.run import listening, load_service
from kedge.serving.loop import Loop
from kedge.serving.loop.heard import heard
from kedge.storage.writing import strict_json, write_text
from kedge.tasks.starting import desk_model
from kedge.tasks.support_desk import Ticket, draw_ticket, gold_score, preference_probability, write_support_desk

GOLD = "kedge.tasks.support_desk:gold"
LENGTH = 60
LINES: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "first": (("kettle", "toaster", "camera", "desk lamp"), ("refund", "delivery", "broken", "cancel")),
    "second": (("printer", "coffee maker"), ("account", "setup")),
}
"""Products and requests of each."""


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    demonstrations: int = 8000
    asked: int = 1000
    """Messages a round."""
    steps: int = 30
    """Of PPO, a round."""
    held_out: int = 256
    """Messages of each line that gold is measured on."""
    epochs: float = 3.0
    """Of the reward model."""


SIZES = {
    "whole": Size(),
    "quick": Size(demonstrations=5000, asked=400, steps=12, held_out=160, epochs=2.0),
    "smoke": Size(demonstrations=64, asked=24, steps=1, held_out=8, epochs=1.0),
}


# The world --------------------------------------------------------------------------------------------------------


def messages(line: str, count: int, rng: random.Random, taken: set[str]) -> list[Ticket]:
    """So many messages of a line that nobody has written before."""
    products, intents = LINES[line]
    found: list[Ticket] = []
    while len(found) < count:
        ticket = draw_ticket(rng)
        if ticket.product in products and ticket.intent in intents and ticket.message not in taken:
            taken.add(ticket.message)
            found.append(ticket)
    return found


def chat(ticket: Ticket) -> list[dict[str, str]]:
    """As it is asked."""
    return [{"role": "user", "content": ticket.message}]


def served(policy: str, database: Path) -> AbstractContextManager[str]:
    """The address of a server of a policy that keeps what is said."""
    return listening(create_app(load_service(policy, name="desk", feedback=str(database))))


def rated(url: str, tickets: Sequence[Ticket], seed: int) -> None:
    """Each message is asked, and a rater posts which of two answers is the better one."""

    def one(number: int) -> None:
        ticket, rng = tickets[number], random.Random(f"{seed} {number}")
        asked = {
            "model": "desk", "messages": chat(ticket), "n": 2, "seed": seed * 100_000 + number, "max_tokens": LENGTH
        }  # fmt: skip
        answer = client.post(f"{url}/v1/chat/completions", json=asked).raise_for_status().json()
        texts = [choice["message"]["content"] for choice in answer["choices"]]
        if texts[0] == texts[1]:
            return
        a, b = (gold_score(text, ticket.intent, ticket.product) for text in texts)
        better = int(rng.random() >= preference_probability(a, b))
        said = {"id": answer["id"], "index": better, "better_than": {"id": answer["id"], "index": 1 - better}}
        client.post(f"{url}/v1/feedback", json=said).raise_for_status()

    with httpx.Client(timeout=300) as client, ThreadPoolExecutor(16) as raters:
        list(raters.map(one, range(len(tickets))))


# Measures ---------------------------------------------------------------------------------------------------------


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half of its 95% interval."""
    spread = statistics.stdev(values) if len(values) > 1 else math.inf
    return statistics.fmean(values), 1.96 * spread / math.sqrt(len(values))


def compared(policy: str, start: str, tickets: Sequence[Ticket], seed: int) -> Comparison:
    """Two versions' answers to the same messages."""
    rows = [{"prompt": chat(each), "intent": each.intent, "product": each.product} for each in tickets]
    return evaluate(
        policy, start, rows, metrics=GOLD, sampling=Sampling(LENGTH), seed=10_000 + seed, device="cpu"
    )  # fmt: skip


def measured(policy: str, start: str, tickets: Sequence[Ticket], seed: int) -> dict[str, Any]:
    """Gold of a version, its gain over ``start``, and the part of it that each request has kept."""
    comparison = compared(policy, start, tickets, seed)
    before, after = (each.scores["gold"] for each in (comparison.before, comparison.after))
    kept = {}
    for intent in sorted({each.intent for each in tickets}):
        was, now = (
            statistics.fmean(score for score, each in zip(scores, tickets, strict=True) if each.intent == intent)
            for scores in (before, after)
        )
        kept[intent] = now / was if was else math.nan
    return {
        "gold": interval(after), "gain": interval([b - a for a, b in zip(before, after, strict=True)]), "kept": kept,
        "of_before": statistics.fmean(after) / statistics.fmean(before) if any(before) else None,
    }  # fmt: skip


def told(values: tuple[float, float]) -> str:
    return f"{values[0]:.3f} ± {values[1]:.3f}"


# The loop ---------------------------------------------------------------------------------------------------------


def loop_of(folder: Path, name: str, size: Size, seed: int, **settings: Any) -> Loop:
    """A loop of so many rounds, as somebody would write its recipe."""
    common = {"seed": seed, "device": "cpu", "micro_batch_tokens": 2048}
    tables = {
        "loop": {
            "run": str(folder / name),
            "reward": common | {"epochs": size.epochs, "batch_size": 8, "learning_rate": 5e-4},
            "ppo": common | {
                "steps": size.steps, "batch_size": 64, "mini_batch_size": 32, "num_ppo_epochs": 2,
                "response_length": LENGTH, "learning_rate": 5e-4, "kl_coef": 0.05,
            },
            "gate": {"min_score_gain": 0.0},
        } | settings,
    }  # fmt: skip
    write_recipe(folder / f"{name}.toml", tables)
    return Loop(Recipe(folder / f"{name}.toml", [], stage="loop"))


def one_more(name: str, folder: Path, size: Size, seed: int, number: int, **settings: Any) -> Loop:
    """A loop after one more round than it has had."""
    settings["gate"] = {"min_score_gain": 0.0} | settings.get("gate", {})
    loop = loop_of(folder, name, size, seed, rounds=number, **settings)
    ended = loop.run()
    assert ended == "done", ended
    return loop


def beginning(folder: Path, size: Size, seed: int) -> str:
    """What SFT makes of agents' replies about both lines."""
    desk = write_support_desk(
        folder / "data", seed=seed, demonstrations=size.demonstrations, pairs=1, heldout_pairs=1, prompts=1,
        heldout_prompts=1,
    )  # fmt: skip
    desk_model(desk, folder / "model", seed=seed)
    table = {
        "model": str(folder / "model"), "data": str(desk.demonstrations), "run": str(folder / "sft"), "seed": seed,
        "epochs": 2.0, "batch_size": 8, "learning_rate": 4e-3, "device": "cpu",
    }  # fmt: skip
    write_recipe(folder / "sft.toml", {"sft": table})
    sft_job(Recipe(folder / "sft.toml", [])).train()
    return str(folder / "sft")


def one_seed(folder: Path, size: Size, seed: int, rounds: int) -> dict[str, Any]:
    """All of it, in a folder of its own."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    rng, taken = random.Random(f"feedback loop {seed}"), set[str]()
    held = {line: messages(line, size.held_out, rng, taken) for line in LINES}
    start = policy = beginning(folder, size, seed)
    found: dict[str, Any] = {"seed": seed, "rounds": [], "second": {}}
    about: dict[str, Ticket] = {}

    def say(what: str, measures: Mapping[str, Any]) -> None:
        least = min(measures["kept"], key=measures["kept"].get)
        print(
            f"seed {seed} {what}: gold {told(measures['gold'])}, gain {told(measures['gain'])}, least kept: {least} "
            f"{measures['kept'][least]:.0%}", file=sys.stderr, flush=True,
        )  # fmt: skip

    first = folder / "first.db"
    for number in range(1, rounds + 1):
        tickets = messages("first", size.asked, rng, taken)
        about |= {each.message: each for each in tickets}
        with served(policy, first) as url:
            rated(url, tickets, seed * 100 + number)
        loop = one_more("loop", folder, size, seed, number, feedback=str(first), policy=start, reward_model=start)
        policy = loop.policy
        measures = measured(policy, start, held["first"], seed)
        say(f"round {number} ({'accepted' if loop.rounds[-1].state == 'accepted' else 'not accepted'})", measures)
        found["rounds"].append(measures | {"state": loop.rounds[-1].state, "policy": policy})

    anchors = folder / "anchors.jsonl"
    with anchors.open("w", encoding="utf-8") as file:
        for pair in heard(str(first)).pairs:
            ticket = about[pair["prompt"][0]["content"]]
            file.write(json.dumps(pair | {"intent": ticket.intent, "product": ticket.product}) + "\n")
    second = folder / "second.db"
    with served(policy, second) as url:
        rated(url, messages("second", size.asked, rng, taken), seed * 100 + 50)
    settings = {"feedback": str(second), "policy": policy, "reward_model": start}
    anchored = {"anchors": str(anchors), "gate": {"keep": 0.95, "judge": GOLD}}
    for name, more in (("without", {}), ("with", anchored)):
        loop = one_more(f"second-{name}", folder, size, seed, 1, **settings, **more)
        new = loop.rounds[-1].policy  # what came of it, whether or not the gate let it through
        measures = {line: measured(new, policy, held[line], seed) for line in LINES}
        for line in LINES:
            say(f"second line {name} anchors ({loop.rounds[-1].state}), messages of the {line}", measures[line])
        found["second"][name] = measures | {"state": loop.rounds[-1].state}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller: minutes")
    parser.add_argument("--smoke", action="store_true", help="as small as it runs; its numbers mean nothing")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("runs/feedback-loop"))
    arguments = parser.parse_args()
    size = SIZES["smoke" if arguments.smoke else "quick" if arguments.quick else "whole"]
    begun = time.perf_counter()
    found = [one_seed(arguments.folder / f"seed-{seed}", size, seed, arguments.rounds) for seed in arguments.seeds]
    write_text(arguments.folder / "found.json", strict_json(found, indent=2) + "\n")
    rows = []
    for each in found:
        for number, measures in enumerate(each["rounds"], 1):
            rows.append([
                each["seed"], f"round {number}", measures["state"], told(measures["gold"]), told(measures["gain"]),
                f"{min(measures['kept'].values()):.0%}",
            ])  # fmt: skip
        for name, measures in each["second"].items():
            for line in LINES:
                on = measures[line]
                rows.append([
                    each["seed"], f"second line, {name} anchors: {line}", measures["state"], told(on["gold"]),
                    told(on["gain"]), f"{min(on['kept'].values()):.0%}",
                ])  # fmt: skip
    seconds = round(time.perf_counter() - begun)
    columns = ["seed", "", "gate", "gold", "gain", "least kept"]
    show(f"Rounds of kedge loop, {seconds} seconds", columns, rows, {"feedback_loop": found, "seconds": seconds})


if __name__ == "__main__":
    main()
