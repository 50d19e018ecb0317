"""Sampling: kedge's engine against transformers' ``generate`` and ``generate_batch``.

    python benchmarks/generate.py [--repeats 7] [--generate-batch]

64 prompts, from the whole distribution at temperature 1; no token ends an answer. Equal lengths: 64 tokens each. Mixed:
geometric, mean 24, at most 128 (``generate`` has one length for all and writes on to the longest).
"""

import argparse
import warnings

import torch
from transformers import GenerationConfig
from workload import EPISODES, RESPONSE, in_turns, mixed_lengths, prompts, qwen3_2m, show, stories

from kedge.models.language_model import LanguageModel
from kedge.sampling.local.engine import Engine
from kedge.sampling.settings import Sampling


def contenders(lm: LanguageModel, lengths: list[int]) -> dict:
    """``{name: run}``: each writes answers of these lengths."""
    lm = LanguageModel(lm.model, lm.tokenizer, ())
    ids = [lm.tokenizer(prompt).input_ids for prompt in prompts(EPISODES)]
    lm.tokenizer.padding_side = "left"
    padded = lm.tokenizer(prompts(EPISODES), return_tensors="pt", padding=True)
    engine = Engine(lm)
    whole = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "eos_token_id": None, "pad_token_id": 0}

    def kedge() -> None:
        for i, (prompt, length) in enumerate(zip(ids, lengths, strict=True)):
            engine.submit(prompt, Sampling(length), request=i)
        while engine.step():
            pass

    def generate() -> None:
        mask = padded.attention_mask
        lm.model.generate(padded.input_ids, attention_mask=mask, max_new_tokens=max(lengths), **whole)

    def generate_batch() -> None:
        config = GenerationConfig(max_new_tokens=max(lengths), **whole)
        with lm.model.continuous_batching_context_manager(generation_config=config) as manager:
            for prompt, length in zip(ids, lengths, strict=True):
                manager.add_request(prompt, max_new_tokens=length)
            done = 0
            while done < len(ids):
                done += manager.get_result(timeout=60) is not None

    return {"kedge": kedge, "generate": generate, "generate_batch": generate_batch}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument(
        "--generate-batch", action="store_true", help="too: once; on a CPU it takes minutes, and psutil"
    )
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    rows, result = [], {}
    for model_name, make in (("stories260K", stories), ("qwen3-2M", qwen3_2m)):
        for workload, lengths in (("equal", [RESPONSE] * EPISODES), ("mixed", mixed_lengths(EPISODES))):
            runs = contenders(make(), lengths)
            once = {"generate_batch": runs.pop("generate_batch")}
            with torch.inference_mode():
                seconds = in_turns(runs, arguments.repeats)
            if arguments.generate_batch:
                seconds |= in_turns(once, 1)
            for name, s in seconds.items():
                rows.append((model_name, workload, name, s, f"{sum(lengths) / s:,.0f}", s / seconds["kedge"]))
            result[f"{model_name} {workload}"] = {name: round(s, 4) for name, s in seconds.items()}
    columns = ("model", "lengths", "by", "seconds", "tokens/s asked for", "kedge is so many times as fast")
    show("64 answers", columns, rows, {"benchmark": "generate", "seconds": result})


if __name__ == "__main__":
    main()
