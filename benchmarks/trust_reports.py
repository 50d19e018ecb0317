"""Trust reports on real preferences, for three trunks beside a bag of words (TF-IDF) and the texts' length.

    python benchmarks/trust_reports.py [--data sst2 hh ...] [--trunks stories260K stories3M own] [--pairs 1000]

Data: SST-2 and Taskmaster-3's rewards (labels 1 and 0, paired), HH-RLHF, LLaMA-Factory's demonstrations in English and
Chinese, AlpacaEval (GPT-4's choices), from the folder that KEDGE_SHARED names. "own" is a Llama of half a million
parameters with a tokenizer of the data's, trained on its texts for one pass first. Two passes over the pairs, the last
256 tokens of a text.
"""

import argparse
import csv
import gzip
import json
import random
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from workload import SHARED, show

from kedge import SFT, RewardModeling
from kedge.models.tiny import new_llama, new_tokenizer

DATA = SHARED / "data"
HELD = 400
Rows = list[dict[str, Any]]


def sst2() -> Rows:
    """Sentences of film reviews, 1 where positive."""
    with open(DATA / "sst2/train.tsv", encoding="utf-8") as file:
        _, *found = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
    return [{"text": text, "label": int(label)} for text, label in random.Random(0).sample(found, 8000)]


def hh() -> Rows:
    """Dialogues, of which the less harmful one is chosen."""
    with gzip.open(DATA / "hh-rlhf-harmless/pairs.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def demo(language: str) -> Rows:
    """LLaMA-Factory's."""
    with gzip.open(DATA / f"llama-factory-demo/dpo_{language}_demo.json.gz", "rt", encoding="utf-8") as file:
        rows = json.load(file)
    return [
        {
            "prompt": "\n\n".join(turn["value"] for turn in row["conversations"]) + "\n\n",
            "chosen": row["chosen"]["value"],
            "rejected": row["rejected"]["value"],
        }
        for row in rows
    ]


def alpaca() -> Rows:
    """Answers of two models, and which of them GPT-4 preferred; ties are left out."""
    rows = []
    for name in ("alpaca-7b", "alpaca-farm-ppo-human"):
        with gzip.open(DATA / f"alpaca-eval/{name}.annotations.json.gz", "rt", encoding="utf-8") as file:
            rows += [row for row in json.load(file) if row["preference"] in (1, 2)]
    return [
        {
            "prompt": row["instruction"] + "\n\n",
            "chosen": row[f"output_{int(row['preference'])}"],
            "rejected": row[f"output_{3 - int(row['preference'])}"],
        }
        for row in rows
    ]


def taskmaster() -> Rows:
    """What an agent of a cinema says or calls next, and whether that is right."""
    rows: list[Any] = []
    for path in sorted((DATA / "taskmaster3-reward").glob("reward_*.json.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            rows += json.load(file)
    return [
        {"prompt": f"{row['context']}\n", "completion": row["generation"], "label": int(row["reward"])} for row in rows
    ]


SETS: dict[str, Callable[[], Rows]] = {
    "sst2": sst2, "hh": hh, "demo en": lambda: demo("en"), "demo zh": lambda: demo("zh"), "alpaca": alpaca,
    "taskmaster": taskmaster,
}  # fmt: skip


def own_trunk(rows: Rows, folder: Path) -> Path:
    """A tokenizer of these texts and a model that has read them once."""
    texts = [text for row in rows for text in _texts(row)]
    tokenizer = new_tokenizer(texts, vocabulary=2048)
    new_llama(tokenizer, hidden=96, layers=3, heads=4, positions=512, seed=0).save(folder / "base")
    settings = {
        "epochs": 1,
        "batch_size": 16,
        "learning_rate": 2e-3,
        "max_length": 256,
        "device": "cpu",
        "too_long": "truncate",
    }
    SFT(folder / "base", [{"text": text} for text in texts], settings, run=folder / "sft", progress=False).train()
    return folder / "sft"


def _texts(row: dict[str, Any]) -> Sequence[str]:
    if "text" in row:
        return [row["text"]]
    answers = [row[key] for key in ("chosen", "rejected", "completion") if key in row]
    return [row.get("prompt", "") + answer for answer in answers]


def split(rows: Rows, pairs: int) -> tuple[Rows, Rows]:
    """``(train, held)``; of labels twice as many texts as pairs."""
    rows = random.Random(0).sample(rows, len(rows))
    a_pair = 2 if "label" in rows[0] else 1
    held = min(HELD, len(rows) // a_pair // 5) * a_pair
    return rows[held : held + pairs * a_pair], rows[:held]


def report(trunk: Path, train: Rows, held: Rows, learning_rate: float) -> dict[str, Any]:
    """What the run's trust report says."""
    settings = {
        "epochs": 2, "batch_size": 16, "learning_rate": learning_rate, "max_length": 256, "too_long": "truncate",
        "warmup_ratio": 0.1, "device": "cpu",
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as temporary:
        run = Path(temporary) / "rm"
        modeling = RewardModeling(trunk, train, settings, eval_data=held, run=run, progress=False)
        modeling.train()
        found: dict[str, Any] = json.loads((run / "trust/trust.json").read_text(encoding="utf-8"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=[*SETS], default=[*SETS])
    parser.add_argument("--trunks", nargs="+", default=["stories260K", "stories3M", "own"])
    parser.add_argument("--pairs", type=int, default=1000, help="To train on, at the most.")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rates = {"stories260K": 1e-3, "stories3M": 3e-4, "own": 1e-3}
    table, results = [], {}
    for name in arguments.data:
        train, held = split(SETS[name](), arguments.pairs)
        for trunk in arguments.trunks:
            with tempfile.TemporaryDirectory() as temporary:
                where = own_trunk(train, Path(temporary)) if trunk == "own" else SHARED / "models" / trunk
                found = report(where, train, held, rates[trunk])
            row = (
                name, trunk, len(train), found["pairs"], f"{found['accuracy']:.1%}",
                f"{found['low']:.1%}-{found['high']:.1%}",
                f"{found['baselines'].get('TF-IDF', float('nan')):.1%}", f"{found['baselines']['length']:.1%}",
                f"{found['log_loss']:.3f}", f"{found['calibration_error']:.3f}",
            )  # fmt: skip
            print(*row, flush=True)
            table.append(row)
            kept = ("accuracy", "low", "high", "baselines", "log_loss", "calibration_error", "temperature", "agreement")
            results[f"{name}, {trunk}"] = {key: found[key] for key in kept}
    columns = ("data", "trunk", "rows", "held pairs", "accuracy", "95%", "TF-IDF", "length", "log loss", "calibration")
    show("Trust reports", columns, table, {"benchmark": "trust_reports", "results": results})


if __name__ == "__main__":
    main()
