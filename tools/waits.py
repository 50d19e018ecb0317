"""How often the host waits for an accelerator, counted on one that is not there (tests/pretend.py).

    python tools/waits.py [--kind mps]
    PYTHONPATH=other/src python tools/waits.py            of another version's code

A burst of eight tokens to four prompts; collecting and updating on eight answers, in one micro-batch and in eight. A
tiny Llama: the counts do not depend on its size.
"""

import argparse
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from kedge import PPO
from kedge.models.language_model import LanguageModel
from kedge.sampling.local import graphs
from kedge.sampling.local.engine import Engine
from kedge.sampling.settings import Sampling
from kedge.training.ppo.throughput import SIDE

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import tape
from pretend import Seen, pretending, put

PROMPTS = ["t5 t6 t7", "t8 t9", "t10 t11 t12", "t15"]
SETTINGS = {
    "steps": 1, "batch_size": 8, "mini_batch_size": 8, "num_ppo_epochs": 1, "response_length": 6,
}  # fmt: skip
MICRO_BATCHES = {"1": 400, "8": 9}


def language_model() -> LanguageModel:
    """Of random weights; its end of text ends no answer."""
    plain = Tokenizer(models.WordLevel({f"t{i}": i for i in range(320)}, unk_token="t0"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    config = AutoConfig.for_model(
        "llama", vocab_size=320, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, eos_token_id=1, pad_token_id=2, bos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="t0", eos_token="t1", pad_token="t2")
    return LanguageModel(AutoModelForCausalLM.from_config(config).eval(), tokenizer, ())


def reward(prompts: list[str], completions: list[str]) -> list[float]:
    """Something that tells answers apart."""
    return [len({*text.split()}) / 9 for text in completions]


def counted(seen: Seen, work: Callable[[], object]) -> tuple[object, tuple[int, int, int]]:
    """What the work gives; its waits, uploads and operations."""
    for counter in (seen.waits, seen.uploads, seen.ops):
        counter.clear()
    found = work()
    return found, (sum(seen.waits.values()), sum(seen.uploads.values()), sum(seen.ops.values()))


def burst(seen: Seen) -> tuple[int, int, int]:
    """Counts of eight tokens."""
    lm = language_model()
    put(lm.model)
    engine = Engine(lm, burst=8)
    prompts = [lm.tokenizer(text).input_ids for text in PROMPTS]
    engine.generate(prompts, Sampling(4), seed=1)  # the trials of the first time
    for prompt in prompts:
        engine.submit(prompt, Sampling(100), seed=2)
    engine.step()  # takes the prompts in
    return counted(seen, engine.step)[1]


def step(seen: Seen, critic: str, budget: int) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Counts of collecting answers, and of updating on them."""
    lm = language_model()
    put(lm.model)
    settings = SETTINGS | {"critic": critic, "micro_batch_tokens": budget, "target_kl": "none"}
    ppo = PPO(lm.model, PROMPTS[:1] * 8, reward, settings, tokenizer=lm.tokenizer, progress=False)
    experience, collecting = counted(seen, ppo.collect)
    return collecting, counted(seen, lambda: ppo.update(experience.batch, 0, 0.0))[1]  # type: ignore[attr-defined]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", default="cuda", choices=["cuda", "mps"])
    kind = parser.parse_args().kind
    warnings.filterwarnings("ignore")
    graphs.record = tape.record
    sys.modules["kedge.sampling.local.engine"].is_tight = lambda device: False  # type: ignore[attr-defined]
    sys.modules["kedge.models.language_model"].total_memory = lambda device: 2**30  # type: ignore[attr-defined]
    SIDE["cuda"] = 64  # what measures a GPU takes a CPU a minute
    table = Table("", "micro-batches", "waits", "uploads", "operations", title=f"On {kind}")
    with pretending(kind) as seen:
        table.add_row("eight tokens", "", *map(str, burst(seen)))
        for critic in ("separate", "shared"):
            for parts, budget in MICRO_BATCHES.items():
                for name, counts in zip(("collect", "update"), step(seen, critic, budget), strict=True):
                    table.add_row(f"{name}, {critic} critic", parts, *map(str, counts))
    Console().print(table)


if __name__ == "__main__":
    main()
