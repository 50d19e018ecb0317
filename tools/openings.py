"""Writes recipes/openings.jsonl and openings-heldout.jsonl: beginnings of stories, for stories.toml and function.toml.

python tools/openings.py
"""

import json
import random
from pathlib import Path

NAMES = ["Lily", "Tom", "Ben", "Sue", "Max", "Mia", "Sam", "Anna", "Jack", "Lucy"]
NAMES += ["Tim", "Sara", "Leo", "Amy", "Bob", "Ella", "Fin", "Jill", "Dan", "Rose"]
ANIMALS = ["dog", "cat", "bird", "bear", "fish", "frog", "fox", "bunny", "duck", "mouse"]
LOOKS = ["big", "red", "little", "old", "new", "blue", "shiny", "funny", "round", "soft"]
THINGS = ["ball", "box", "hat", "car", "tree", "boat", "book", "toy", "cake", "kite", "stone", "lamp"]
PLACES = ("the park", "the garden", "the beach", "the forest", "the shop", "the lake", "his room", "the old house")
OPENINGS = (
    "Once upon a time, {name} saw a {look} {thing}",
    "Once upon a time, there was a {look} {animal} named {name}.",
    "One day, {name} went to {place} with a {look} {thing}.",
    "{name} and {other} were playing in {place} when it began to rain.",
    "{name} had a {look} {thing}, but {other} wanted it too.",
    "{name} lost a {look} {thing} in {place}.",
    "A {look} {animal} came to {name}'s door and",
    "{name} was sad because the {look} {thing} was",
)


def openings(count: int, seed: int = 0) -> list[str]:
    """``count`` different beginnings."""
    rng = random.Random(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        name, other = rng.sample(NAMES, 2)
        words = {"name": name, "other": other, "look": rng.choice(LOOKS), "thing": rng.choice(THINGS)}
        words |= {"animal": rng.choice(ANIMALS), "place": rng.choice(PLACES)}
        found[rng.choice(OPENINGS).format(**words)] = None
    return list(found)


def write(path: Path, texts: list[str]) -> None:
    """One ``{"prompt": ...}`` a line."""
    path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts), encoding="utf-8")


if __name__ == "__main__":
    recipes = Path(__file__).parents[1] / "recipes"
    texts = openings(2000)
    write(recipes / "openings-heldout.jsonl", texts[:256])
    write(recipes / "openings.jsonl", texts[256:])
