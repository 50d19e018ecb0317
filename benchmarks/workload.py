"""What the benchmarks share: models, prompts, lengths, and timing that takes turns."""

import json
import math
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.table import Table
from transformers import AutoConfig, AutoModelForCausalLM

from kedge.models.language_model import LanguageModel, load_language_model

SHARED = Path(os.environ.get("KEDGE_SHARED", Path(__file__).parents[2] / "shared"))
STORIES = SHARED / "models" / "stories260K"
EPISODES, RESPONSE, EPOCHS = 64, 64, 4
MEAN_LENGTH, LONGEST = 24, 128

NAMES = ["Lily", "Tom", "Ben", "Sue", "Max", "Mia", "Sam", "Anna", "Jack", "Lucy"]
THINGS = ["a big", "a red", "a little", "the old", "her new", "his blue"]


def prompts(n: int, seed: int = 0) -> list[str]:
    """The story openings that the peers' scripts use."""
    rng = random.Random(seed)
    return [f"Once upon a time, {rng.choice(NAMES)} saw {rng.choice(THINGS)}" for _ in range(n)]


def mixed_lengths(n: int, seed: int = 0) -> list[int]:
    """Geometric, mean 24, at most 128."""
    rng = random.Random(seed)
    return [min(LONGEST, 1 + int(math.log(rng.random()) / math.log(1 - 1 / MEAN_LENGTH))) for _ in range(n)]


def stories() -> LanguageModel:
    """The pretrained story model."""
    return load_language_model(STORIES, device="cpu")


def qwen3_2m() -> LanguageModel:
    """A Qwen3 of two million random weights over the story model's vocabulary."""
    lm = stories()
    config = AutoConfig.for_model(
        "qwen3", vocab_size=512, hidden_size=192, intermediate_size=512, num_hidden_layers=4, num_attention_heads=6,
        num_key_value_heads=2, head_dim=32, max_position_embeddings=512, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    return LanguageModel(AutoModelForCausalLM.from_config(config).eval(), lm.tokenizer, lm.eos_ids)


def in_turns(contenders: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median seconds of each, after one run to warm up; they take turns, so that a slow minute hits all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(repeats + 1):
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], result: Mapping[str, Any]) -> None:
    """A table for people, and one line of JSON where there is a result to keep."""
    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*(f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in row))
    Console().print(table)
    if not result:
        return
    machine = {
        "machine": f"{torch.get_num_threads()} threads, {platform.machine()}",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    print(json.dumps({**result, **machine}))
