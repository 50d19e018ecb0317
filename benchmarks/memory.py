"""Memory of scoring 4,096 tokens at a vocabulary of 152k, forward and backward: in chunks, and all at once.

    python benchmarks/memory.py

Each way in a process of its own; peak resident memory above what the weights and the imports take.
"""

import json
import resource
import subprocess
import sys
import threading
import time

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from workload import show

from kedge.core import entropy, token_logprobs
from kedge.models.forward import forward_tokens
from kedge.models.language_model import LanguageModel

VOCABULARY, TOKENS, ROWS, HIDDEN = 152_064, 4_096, 16, 128


def resident() -> int:
    """Bytes of this process in memory now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def measure(way: str) -> dict[str, float]:
    """Peak bytes above the weights, and seconds."""
    config = AutoConfig.for_model(
        "qwen3", vocab_size=VOCABULARY, hidden_size=HIDDEN, intermediate_size=256, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=32, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    lm = LanguageModel(AutoModelForCausalLM.from_config(config).eval(), None, ())
    width = TOKENS // ROWS + 1
    tokens = torch.randint(0, VOCABULARY, (ROWS, width))
    mask = torch.arange(width).expand(ROWS, -1) > 0
    assert lm.head is not None
    before, peak, going = resident(), 0, True

    def watch() -> None:
        nonlocal peak
        while going:
            peak = max(peak, resident())
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    if way == "chunks":
        scores = forward_tokens(lm, tokens, mask, temperature=1.0, with_entropy=True, entropy_gradient=False)
        loss = scores.logprobs.sum()
    else:
        logits = lm.model(input_ids=tokens).logits[:, :-1]
        with torch.no_grad():
            entropy(logits)
        loss = token_logprobs(logits, tokens[:, 1:]).sum()
    loss.backward()
    seconds = time.perf_counter() - start
    going = False
    watcher.join()
    gradient = sum(float(weight.grad.double().square().sum()) for weight in lm.model.parameters()) ** 0.5
    return {"bytes": peak - before, "seconds": seconds, "loss": float(loss), "gradient norm": gradient}


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1])))
        return
    found = {}
    for way in ("chunks", "plain"):
        output = subprocess.run([sys.executable, __file__, way], check=True, capture_output=True, text=True).stdout
        found[way] = json.loads(output.splitlines()[-1])
    rows = [
        (way, f"{at['bytes'] / 2**20:,.0f}", at["seconds"], at["loss"], at["gradient norm"])
        for way, at in found.items()
    ]
    ratio = found["chunks"]["bytes"] / found["plain"]["bytes"]
    rows.append(("chunks / plain", f"{ratio:.3f}", found["chunks"]["seconds"] / found["plain"]["seconds"], "", ""))
    title = f"{TOKENS:,} tokens at a vocabulary of {VOCABULARY:,}"
    show(
        title,
        ("way", "MiB", "seconds", "loss", "gradient norm"),
        rows,
        {"benchmark": "memory", "ratio": ratio, **found},
    )


if __name__ == "__main__":
    main()
