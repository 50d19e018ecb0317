"""What `kedge plan` says against what a run takes: peak memory and seconds of PPO, on the CPU.

    python benchmarks/plan.py [NAME ...]

Random models with tokenizers of their own, in a temporary folder. Each run is two steps in a process of its own; its
memory is the peak resident memory above what the process had before any model was there. glibc keeps freed memory for
later, and how much depends on everything before; so runs are measured twice: with MALLOC_MMAP_THRESHOLD_ and
MALLOC_TRIM_THRESHOLD_ set, which give freed tensors back at once (what is used), and without (what a user sees).
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast
from workload import show

from kedge.config.settings import write_recipe
from kedge.inspection.plan import Plan
from kedge.recipes.fitting import plans
from kedge.recipes.recipe import Recipe
from kedge.recipes.tables import PPORecipe
from kedge.training.ppo import PPO, PPOConfig

GIVEN_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
PROMPT = 32

SMALL = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 8, "num_attention_heads": 4}
MEDIUM = {"hidden_size": 448, "intermediate_size": 1536, "num_hidden_layers": 10, "num_attention_heads": 7}
LLAMA = {"architecture": "llama", "vocab_size": 8_192}
QWEN = {"architecture": "qwen3", "vocab_size": 32_768, "head_dim": 64, "num_key_value_heads": 1}
WIDE = QWEN | {"vocab_size": 151_936, "num_key_value_heads": 2}
LORA = {"method": "lora", "r": 16, "target_modules": "all-linear"}

SHAPES: dict[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
    "12M, shared critic": (LLAMA | SMALL, {"batch_size": 64}),
    "12M, separate critic": (LLAMA | SMALL, {"batch_size": 64, "critic": "separate"}),
    "12M, no critic": (
        LLAMA | SMALL,
        {"batch_size": 16, "num_generations": 4, "advantage_estimator": "rloo", "micro_batch_tokens": 3072},
    ),
    "41M, separate critic": (
        QWEN | MEDIUM,
        {"batch_size": 32, "critic": "separate", "micro_batch_tokens": 2048},
    ),
    "41M, checkpointing": (QWEN | MEDIUM, {"batch_size": 64, "gradient_checkpointing": True}),
    "46M, 152k words": (WIDE | SMALL, {"batch_size": 32, "micro_batch_tokens": 2048}),
    "46M, 152k words, separate": (
        WIDE | SMALL,
        {"batch_size": 16, "critic": "separate", "micro_batch_tokens": 1024},
    ),
    "12M, 128 long answers": (
        LLAMA | SMALL,
        {"batch_size": 128, "response_length": 224, "micro_batch_tokens": 1024, "gradient_checkpointing": True},
    ),
    "41M, LoRA": (QWEN | MEDIUM, {"batch_size": 32, "adapter": LORA}),
    "41M, LoRA, nf4": (QWEN | MEDIUM, {"batch_size": 32, "adapter": LORA, "quantization": "nf4"}),
    "41M, LoRA, int8": (QWEN | MEDIUM, {"batch_size": 32, "adapter": LORA, "quantization": "int8"}),
    "41M, half frozen": (QWEN | MEDIUM, {"batch_size": 32, "num_layers_unfrozen": 5}),
    "41M, LoRA on the upper half": (QWEN | MEDIUM, {"batch_size": 32, "num_layers_unfrozen": 5, "adapter": LORA}),
    "12M, autocast": (LLAMA | SMALL, {"batch_size": 32, "autocast": "bfloat16"}),
}


def settings_in(folder: Path, settings: Mapping[str, Any]) -> PPORecipe:
    """PPO of the model in ``folder``: two steps of one pass, answers of 64 tokens."""
    answers = settings["batch_size"] * settings.get("num_generations", 1)
    common = {"steps": 2, "num_ppo_epochs": 1, "response_length": 64, "mini_batch_size": answers, "device": "cpu"}
    return PPORecipe(
        **(common | dict(settings)), policy=str(folder), prompts=str(folder / "prompts.jsonl"), reward="x:y"
    )


def _recipe(folder: Path, settings: Mapping[str, Any]) -> Recipe:
    path = folder / "recipe.toml"
    write_recipe(path, {"ppo": settings_in(folder, settings).resolved()})
    return Recipe(path, [])


def write(folder: Path, shape: Mapping[str, Any]) -> None:
    """A random model with a word a token, and prompts."""
    rows = shape["vocab_size"]
    words = {"<pad>": 0, "<eos>": 1} | {f"w{i}": i for i in range(2, rows)}
    level = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<pad>"))
    level.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=level, pad_token="<pad>", eos_token="<eos>").save_pretrained(folder)
    options = {"max_position_embeddings": 512, "tie_word_embeddings": True, "pad_token_id": 0, "eos_token_id": 1}
    options |= {"bos_token_id": None, **shape}
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.for_model(options.pop("architecture"), **options)).save_pretrained(
        folder
    )
    prompts = [" ".join(f"w{(7 * i + 13 * j) % (rows - 2) + 2}" for j in range(PROMPT)) for i in range(128)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))


def resident() -> int:
    """Bytes of this process in memory now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def measure(folder: Path, settings: Mapping[str, Any]) -> dict[str, float]:
    """Peak bytes above what was there before the model, and seconds of the second step's phases."""
    given = settings_in(folder, settings)
    if given.adapter:
        import peft  # noqa: F401, for its own 50 MiB are none of the model's
    torch.ones(64, 64) @ torch.ones(64, 64)
    before, peak, going = resident(), 0, True

    def watch() -> None:
        nonlocal peak
        while going:
            peak = max(peak, resident())
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    config = {key: getattr(given, key) for key in given.model_fields_set if key not in ("policy", "prompts", "reward")}
    trainer = PPO(given.policy, given.prompts, _reward, PPOConfig(**config), progress=False)
    *_, metrics = trainer
    going = False
    watcher.join()
    return {"bytes": peak - before, **{k: metrics[f"time/{k}"] for k in ("generate", "estimate", "update")}}


def _reward(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
    return [float(len(completion) % 7) for completion in completions]


def main() -> None:
    transformers.utils.logging.disable_progress_bar()
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(Path(sys.argv[2]), json.loads(sys.argv[3]))))
        return
    rows, found = [], {}
    for name in sys.argv[1:] or SHAPES:
        shape, settings = SHAPES[name]
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            write(folder, shape)
            start = time.perf_counter()
            [(_, plan)] = plans(_recipe(folder, settings))
            assert isinstance(plan, Plan), plan
            planning = time.perf_counter() - start
            used, seen = (_apart(temporary, settings, environment) for environment in (GIVEN_BACK, {}))
        seconds = sum(phase.seconds or 0.0 for phase in plan.phases)
        taken = sum(seen[phase.name] for phase in plan.phases)
        found[name] = {"predicted": plan.peak, "used": used["bytes"], "seen": seen["bytes"], "planning": planning}
        found[name] |= {"predicted seconds": seconds, "seconds": taken}
        ratios = [plan.peak / of["bytes"] for of in (used, seen)]
        sizes = [f"{of / 2**20:,.0f}" for of in (plan.peak, used["bytes"], seen["bytes"])]
        rows.append((name, *sizes, *ratios, seconds, taken, planning))
        print(*rows[-1], file=sys.stderr, flush=True)
    columns = ("shape", "plan", "used", "seen", "/ used", "/ seen", "plan, s", "run, s", "to plan")
    show("Peak of PPO above the start, MiB; a step", columns, rows, {"benchmark": "plan", **found})


def _apart(folder: str, settings: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, float]:
    """A run in a process of its own."""
    command = [sys.executable, __file__, "--measure", folder, json.dumps(settings)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | environment).stdout
    measured: dict[str, float] = json.loads(output.splitlines()[-1])
    return measured


if __name__ == "__main__":
    main()
