"""An accelerator: decoding against its peers; a step of PPO by phase, its share of the arithmetic, memory and plan.

    python benchmarks/gpu.py                                   all of it, on the first GPU
    python benchmarks/gpu.py --sizes 0.5B --rows 16 64         a part
    python benchmarks/gpu.py --dry-run                         at a small size on the CPU: whether it runs

Random weights in the shapes of Qwen2.5, bfloat16. Decoding: 128 tokens of prompt, 256 new ones, from the whole
distribution; no token ends an answer. Peers: transformers' ``generate`` and continuous batching, and vLLM where it is
installed. PPO: shared critic, two passes over 64 answers.
"""

import argparse
import gc
import importlib.util
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedTokenizerFast
from workload import show

from kedge import PPO
from kedge.inspection.machine import Machine
from kedge.inspection.plan import make_plan
from kedge.models.device import pick_device
from kedge.models.language_model import LanguageModel
from kedge.recipes.fitting import planned_job
from kedge.recipes.recipe import Recipe
from kedge.sampling.local.engine import Engine
from kedge.sampling.settings import Sampling
from kedge.training.ppo.throughput import flops_forward, peak_flops

COMMON = {"num_key_value_heads": 2, "max_position_embeddings": 4096, "tie_word_embeddings": True}
SIZES: Mapping[str, Mapping[str, Any]] = {
    "0.5B": COMMON | {"vocab_size": 151_936, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
                      "num_attention_heads": 14},
    "1.5B": COMMON | {"vocab_size": 151_936, "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
                      "num_attention_heads": 12},
    "tiny": COMMON | {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
                      "num_attention_heads": 4},
}  # fmt: skip
ANSWERS = 64


def tokenizer_of(vocabulary: int) -> PreTrainedTokenizerFast:
    """A word a token: ``t0 t1 t2``."""
    words = {f"t{i}": i for i in range(vocabulary)}
    plain = Tokenizer(models.WordLevel(words, unk_token="t0"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="t0", eos_token="t1", pad_token="t2")


def language_model(size: str, device: torch.device, dtype: torch.dtype) -> LanguageModel:
    """Of random weights."""
    config = AutoConfig.for_model("qwen2", **SIZES[size], eos_token_id=1, pad_token_id=2, bos_token_id=None)
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    return LanguageModel(model, tokenizer_of(config.vocab_size), ())


def timed(run: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Seconds of the fastest of a few runs, after one to warm up."""
    best = float("inf")
    for turn in range(repeats + 1):
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if turn:
            best = min(best, time.perf_counter() - start)
    return best


def decoders(
    lm: LanguageModel, prompts: Sequence[Sequence[int]], new: int, rows: int
) -> dict[str, Callable[[], object]]:
    """``{name: run}``: each writes as many tokens to each prompt."""
    engine, ids = Engine(lm, max_rows=rows), torch.tensor(prompts, device=lm.device)
    whole = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "eos_token_id": None, "pad_token_id": 2}

    def generate() -> None:
        lm.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, min_new_tokens=new, **whole)

    def continuous() -> None:
        config = GenerationConfig(max_new_tokens=new, **whole)
        lm.model.generate_batch([list(prompt) for prompt in prompts], generation_config=config)

    found = {"kedge": lambda: engine.generate(prompts, Sampling(new), seed=1), "generate": generate}
    return found | ({"generate_batch": continuous} if lm.device.type == "cuda" else {})


def vllm_seconds(lm: LanguageModel, work: Sequence[tuple[Sequence[Sequence[int]], int]], repeats: int) -> list[float]:
    """Of vLLM, for prompts and a number of new tokens each."""
    from vllm import LLM, SamplingParams

    with tempfile.TemporaryDirectory() as folder:
        lm.model.save_pretrained(folder)
        lm.tokenizer.save_pretrained(folder)
        llm = LLM(folder, gpu_memory_utilization=0.5, max_model_len=1024, disable_log_stats=True)
        seconds = []
        for prompts, new in work:
            sampling = SamplingParams(max_tokens=new, temperature=1.0, ignore_eos=True, detokenize=False)
            asked = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
            ask = lambda asked=asked, sampling=sampling: llm.generate(asked, sampling, use_tqdm=False)  # noqa: E731
            seconds.append(timed(ask, repeats, lm.device))
    return seconds


def decoding(lm: LanguageModel, size: str, arguments: argparse.Namespace) -> tuple[list[Any], dict[str, Any]]:
    """Rows of a table, and the same as numbers: tokens a second."""
    table, found, work = [], {}, []
    generator = torch.Generator().manual_seed(0)
    for rows in arguments.rows:
        high = SIZES[size]["vocab_size"]
        prompts = torch.randint(3, high, (rows, arguments.prompt), generator=generator).tolist()
        work.append((prompts, arguments.new))
        with torch.inference_mode():
            runs = decoders(lm, prompts, arguments.new, rows)
            found[rows] = {name: timed(run, arguments.repeats, lm.device) for name, run in runs.items()}
    if importlib.util.find_spec("vllm") is not None and lm.device.type == "cuda":
        for (prompts, _), seconds in zip(work, vllm_seconds(lm, work, arguments.repeats), strict=True):
            found[len(prompts)]["vllm"] = seconds
    for rows, seconds in found.items():
        for name, s in seconds.items():
            table.append((size, rows, name, s, f"{rows * arguments.new / s:,.0f}", s / seconds["kedge"]))
    return table, {str(rows): {name: round(s, 4) for name, s in each.items()} for rows, each in found.items()}


def step_of_ppo(size: str, device: torch.device, arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds by phase of the last of three steps, what the update makes of the machine, and its memory."""
    with tempfile.TemporaryDirectory() as folder:
        lm = language_model(size, torch.device("cpu"), torch.float32)
        lm.model.save_pretrained(f"{folder}/model")
        lm.tokenizer.save_pretrained(f"{folder}/model")
        del lm
        texts = [" ".join(f"t{3 + (7 * i + j) % 500}" for j in range(arguments.prompt)) for i in range(ANSWERS)]
        Path(folder, "prompts.jsonl").write_text("".join(f'{{"prompt": "{text}"}}\n' for text in texts))
        settings = {
            "steps": 3, "batch_size": ANSWERS, "mini_batch_size": ANSWERS // 2, "num_ppo_epochs": 2,
            "response_length": arguments.new, "critic": "shared", "device": str(device),
        }  # fmt: skip
        settings |= {"autocast": "bfloat16"} if device.type == "cuda" else {}
        lines = "".join(
            f'{key} = "{value}"\n' if isinstance(value, str) else f"{key} = {value}\n"
            for key, value in settings.items()
        )
        recipe = Path(folder, "r.toml")
        recipe.write_text(
            f'[ppo]\npolicy = "{folder}/model"\nprompts = "{folder}/prompts.jsonl"\nreward = "builtins:len"\n{lines}'
        )
        plan = make_plan(planned_job(Recipe(recipe, []), "ppo", Machine.here(device))).peak
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        ppo = PPO(f"{folder}/model", f"{folder}/prompts.jsonl", distinct, settings, progress=False)
        *_, metrics = ppo
        assert ppo.experience is not None
        lengths = ppo.experience.rollouts.lengths.tolist()
        flops = 3 * flops_forward(ppo.policy.model, lengths) * ppo.config.num_ppo_epochs
        peak = peak_flops(device, torch.bfloat16 if device.type == "cuda" else torch.float32)
        found = {name.removeprefix("time/"): s for name, s in metrics.items() if name.startswith("time/")}
        found |= {
            "update_mfu": flops / found["update"] / peak,
            "step_mfu": metrics["throughput/mfu"],
            "plan_bytes": plan,
        }
        return found | ({"peak_bytes": torch.cuda.max_memory_allocated(device)} if device.type == "cuda" else {})


def distinct(prompts: list[str], completions: list[str]) -> list[float]:
    """Of the words of an answer, how many are different."""
    return [len({*text.split()}) / max(1, len(text.split())) for text in completions]


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["0.5B", "1.5B"], choices=list(SIZES))
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 16, 64, 256])
    parser.add_argument("--prompt", type=int, default=128, help="tokens")
    parser.add_argument("--new", type=int, default=256, help="tokens")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dry-run", action="store_true", help="tiny, on the CPU")
    arguments = parser.parse_args(words)
    if arguments.dry_run:
        dry = {"sizes": ["tiny"], "rows": [1, 4], "prompt": 8, "new": 8, "repeats": 1, "device": "cpu"}
        arguments = argparse.Namespace(**vars(arguments) | dry)
    warnings.filterwarnings("ignore")
    transformers.utils.logging.disable_progress_bar()
    device = pick_device(arguments.device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    table, steps, result = [], [], {}
    for size in arguments.sizes:
        lm = language_model(size, device, dtype)
        rows, numbers = decoding(lm, size, arguments)
        table += rows
        del lm
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        step = step_of_ppo(size, device, arguments)
        steps += [(size, key, value) for key, value in step.items()]
        result[size] = {"decode": numbers, "ppo": step}
    columns = ("size", "rows", "by", "seconds", "tokens/s", "kedge is so many times as fast")
    show(f"Decoding, {arguments.new} tokens, on {name}", columns, table, {"benchmark": "gpu", "device": name, **result})
    show(f"A step of PPO, {ANSWERS} answers, on {name}", ("size", "", "seconds, share or bytes"), steps, {})


if __name__ == "__main__":
    main()
