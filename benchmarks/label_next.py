"""Labels that an ensemble asks for, against labels at random: a reward model's accuracy on the support desk.

    python benchmarks/label_next.py [--seeds 0 1 2 3 4] [--start 100] [--more 100] [--rounds 4]

Both begin with the same labels and take so many more a round: those that kedge.evaluation.acquisition ranks first by
three models' disagreement, or any. Before each round three models are trained anew on all labels so far; shown is the
accuracy of their mean score on the held-out pairs.
"""

import argparse
import random
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from workload import show

from kedge import SFT, RewardModeling
from kedge.data.files import read_rows
from kedge.data.records import Preference, preferences
from kedge.evaluation.acquisition import information, spread_out
from kedge.evaluation.trust.calibration import right
from kedge.tasks.starting import desk_model
from kedge.tasks.support_desk import write_support_desk

SETTINGS = {"epochs": 12, "batch_size": 16, "learning_rate": 1e-3, "warmup_steps": 10, "device": "cpu"}
MEMBERS = 3
CANDIDATES = 1500


def margins_of(
    trunk: Path, rows: Sequence[dict[str, Any]], sets: Sequence[Sequence[Preference]], seed: int
) -> list[Any]:
    """``[sets][MEMBERS][N]`` margins of models trained on these rows, each on a draw of its own with replacement."""
    found: list[list[list[float]]] = [[] for _ in sets]
    for member in range(MEMBERS):
        drawn = random.Random(seed * 100 + member).choices(rows, k=len(rows))
        modeling = RewardModeling(trunk, drawn, SETTINGS | {"seed": seed * 100 + member}, progress=False)
        modeling.train()
        for part, pairs in zip(found, sets, strict=True):
            sides = [modeling.model.score([getattr(pair, side) for pair in pairs]) for side in ("chosen", "rejected")]
            part.append([a - b for a, b in zip(*sides, strict=True)])
    return found


def accuracy(margins: Sequence[Sequence[float]]) -> float:
    """Of the members' mean score."""
    return statistics.fmean(right(sum(of_pair)) for of_pair in zip(*margins, strict=True))


def curve(trunk: Path, rows: Sequence[dict[str, Any]], held: Sequence[Preference], asked: bool, seed: int,
          arguments: argparse.Namespace) -> list[float]:  # fmt: skip
    """Accuracy after each round."""
    order = random.Random(seed).sample(range(len(rows)), CANDIDATES)
    labelled, open_ = order[: arguments.start], order[arguments.start :]
    found = []
    for _ in range(arguments.rounds):
        pairs = preferences_of([rows[i] for i in open_])
        on_held, on_open = margins_of(trunk, [rows[i] for i in labelled], [held, pairs], seed)
        found.append(accuracy(on_held))
        first = list(range(arguments.more))
        taken = spread_out(pairs, information(on_open), arguments.more) if asked else first
        chosen = {open_[i] for i in taken}
        labelled, open_ = labelled + [i for i in open_ if i in chosen], [i for i in open_ if i not in chosen]
    return found


def preferences_of(rows: Sequence[dict[str, Any]]) -> list[Preference]:
    """Pairs of plain rows."""
    from kedge.data.files import Row

    return preferences([Row(row, "row") for row in rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--start", type=int, default=100)
    parser.add_argument("--more", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--trunk", type=Path, default=None, help="A run of SFT on the desk; by default one is made.")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    runs: dict[str, list[list[float]]] = {"random": [], "asked for": []}
    with tempfile.TemporaryDirectory() as temporary:
        desk = write_support_desk(Path(temporary) / "data", seed=0)
        trunk = arguments.trunk or Path(temporary) / "sft"
        if arguments.trunk is None:
            desk_model(desk, Path(temporary) / "model", seed=0)
            SFT(Path(temporary) / "model", Path(temporary) / "data/demonstrations.jsonl",
                {"epochs": 1, "batch_size": 8, "learning_rate": 4e-3, "device": "cpu"}, run=trunk).train()  # fmt: skip
        rows = [row.columns for row in read_rows(Path(temporary) / "data/preferences.jsonl")]
        held = preferences(read_rows(Path(temporary) / "data/preferences-heldout.jsonl"))
        for seed in arguments.seeds:
            for way, asked in (("random", False), ("asked for", True)):
                runs[way].append(curve(trunk, rows, held, asked, seed, arguments))
                print(way, seed, [round(x, 4) for x in runs[way][-1]], flush=True)
    labels = [arguments.start + i * arguments.more for i in range(arguments.rounds)]
    means = {
        way: [statistics.fmean(run[i] for run in found) for i in range(len(labels))] for way, found in runs.items()
    }
    table = [(labels[i], f"{means['random'][i]:.3f}", f"{means['asked for'][i]:.3f}") for i in range(len(labels))]
    show(f"Accuracy, {len(arguments.seeds)} seeds", ("labels", "random", "asked for"), table,
         {"benchmark": "label_next", "labels": labels, "runs": runs})  # fmt: skip


if __name__ == "__main__":
    main()
