"""What tasks come to, as Markdown: a table for all, a table each, three examples each.

    python benchmarks/tasks.py runs/tasks/*

of folders that `kedge task NAME --run FOLDER` has written.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

LONGEST = 300
"""Characters of an answer that are shown."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+")
    folders = parser.parse_args().folders
    results = [(folder, json.loads((folder / "result.json").read_text())) for folder in folders]
    print("| task | measure | before | SFT | PPO | baseline | PPO above SFT | above the baseline |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for folder, result in results:
        print(line(folder.name, result["primary_metric"], result["measures"]))
    for folder, result in results:
        print(f"\n### {folder.name}\n\nHeld-out rows: {result['rows']}. Seeds: {result['seeds']}.\n")
        print(whole(result["measures"]))
        print(f"\n{seeds(result['primary_metric'].removeprefix('-'), result['by_seed'])}")
        print(examples(folder / "answers.jsonl"))


def line(name: str, measure: str, sides: dict[str, Any]) -> str:
    """The measure that the field compares by, of every side; a minus in front: the smaller the better."""
    smaller, measure = measure.startswith("-"), measure.removeprefix("-")
    others = [side for side in sides if side not in ("before", "sft", "ppo")] or ["sft"]
    sign = -1 if smaller else 1
    baseline = max(others, key=lambda side: sign * sides[side].get(measure, {"value": -math.inf * sign})["value"])
    cells = [said(sides[side].get(measure)) for side in ("before", "sft", "ppo", "baseline") if side in sides]
    cells += [] if "baseline" in sides else ["SFT"]
    above = [verdict(sides["ppo"].get(measure), sides[side].get(measure), smaller) for side in ("sft", baseline)]
    named = "" if baseline in ("baseline", "sft") else f" ({baseline} {said(sides[baseline].get(measure))})"
    return f"| `{name}` | {measure} | {' | '.join([*cells, *above])}{named} |"


def verdict(ours: dict[str, float] | None, theirs: dict[str, float] | None, smaller: bool) -> str:
    if ours is None or theirs is None:
        return ""
    better, worse = (theirs, ours) if smaller else (ours, theirs)
    if better["low"] > worse["high"]:
        return "yes"
    return "no" if better["value"] <= worse["value"] else "within the intervals"


def said(each: dict[str, float] | None) -> str:
    return "" if each is None else f"{each['value']:.3f} [{each['low']:.3f}, {each['high']:.3f}]"


def whole(sides: dict[str, Any]) -> str:
    names = list(sides["ppo"])
    rows = [f"| | {' | '.join(names)} |", f"| {' | '.join(['---'] * (1 + len(names)))} |"]
    rows += [f"| {side} | {' | '.join(said(found.get(name)) for name in names)} |" for side, found in sides.items()]
    return "\n".join(rows)


def seeds(measure: str, by_seed: dict[str, dict[str, list[float]]]) -> str:
    """The measure, seed for seed."""
    shown = {"sft": "SFT", "ppo": "PPO"}
    each = [f"{name} {', '.join(f'{x:.3f}' for x in by_seed[side][measure])}" for side, name in shown.items()]
    return f"Seed for seed, {measure}: {'; '.join(each)}."


def examples(file: Path, count: int = 3) -> str:
    """Rows from all over the held-out ones at which SFT and PPO differ, with what each side's first seed answered."""
    every = [json.loads(each) for each in file.read_text(encoding="utf-8").splitlines()]
    rows = [row for row in every if row["answers"]["sft"][0] != row["answers"]["ppo"][0]] or every
    shown = []
    for row in rows[:: max(1, len(rows) // count)][:count]:
        asked = "\n".join(f"    {text}" for text in row["prompt"].splitlines())
        said_by = [f"- {side}: `{short(each[0])}`" for side, each in row["answers"].items()]
        shown.append("\n".join(["", asked, "", *said_by]))
    return "\n".join(shown)


def short(text: str) -> str:
    text = text.strip().replace("\n", " ⏎ ").replace("`", "'")
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."


if __name__ == "__main__":
    main()
