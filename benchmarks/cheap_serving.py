"""What an answer costs in float32, bfloat16 and int8 on a CPU, and how far it is from float32's.

    python benchmarks/cheap_serving.py [--models stories3M 25M] [--clients 8] [--tokens 64]

Each way is ``kedge serve`` in a process of its own with ``--dtype`` or ``--quantization``; all of them are up at once
and take turns. Greedy answers of so many clients at a time: tokens a second, and the bytes that the process holds. In
this process: the KL from float32's next-token distribution, in nats a token, and how often the likeliest token is the
same, over float32's own answers.
"""

import argparse
import statistics
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from serving_peers import end_in_order, kedge_server, model_named
from workload import in_turns, prompts, show

from kedge.models.language_model import load_language_model
from kedge.sampling.local.engine import Engine
from kedge.sampling.settings import Sampling

WAYS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "float32": ({}, ()),
    "bfloat16": ({"dtype": "bfloat16"}, ("--dtype", "bfloat16")),
    "int8": ({"quantization": "int8"}, ("--quantization", "int8")),
}


@torch.no_grad()
def distances(model: Path, texts: list[str], tokens: int) -> dict[str, tuple[float, float]]:
    """Of each way: nats a token from float32, and the share of places whose likeliest token is the same."""
    plain = load_language_model(model, device="cpu")
    ids = [plain.tokenizer(text).input_ids for text in texts]
    done = Engine(plain).generate(ids, Sampling(max_new_tokens=tokens, temperature=0))
    found = {}
    for name, (how, _) in WAYS.items():
        lm, nats, same = load_language_model(model, device="cpu", **how), [], []
        for each in done:
            row, start = torch.tensor([each.prompt_ids + each.ids]), len(each.prompt_ids) - 1
            p, q = (m.model(row).logits[0, start:-1].float().log_softmax(-1) for m in (plain, lm))
            nats += (p.exp() * (p - q)).sum(-1).tolist()
            same += (p.argmax(-1) == q.argmax(-1)).tolist()
        found[name] = statistics.fmean(nats), statistics.fmean(same)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["stories3M", "25M"], help="stories3M, or 25M: a random Llama")
    parser.add_argument("--clients", type=int, default=8, help="at a time, each with one answer")
    parser.add_argument("--tokens", type=int, default=64, help="of an answer")
    parser.add_argument("--repeats", type=int, default=3, help="rounds that are timed")
    arguments = parser.parse_args()
    end_in_order()
    rows, result = [], {}
    for named in arguments.models:
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            model, texts = model_named(named, Path(folder)), prompts(arguments.clients)
            servers = {
                name: stack.enter_context(kedge_server(model, "--prefix-cache", "0", *options))
                for name, (_, options) in WAYS.items()
            }
            callers = stack.enter_context(ThreadPoolExecutor(arguments.clients))
            written = dict.fromkeys(servers, 0)

            def ask(name: str, servers=servers, callers=callers, texts=texts, written=written) -> None:
                answers = callers.map(lambda text: servers[name].stream(text, tokens=arguments.tokens), texts)
                written[name] = sum(answer.tokens for answer in answers)

            seconds = in_turns({name: lambda name=name: ask(name) for name in servers}, arguments.repeats)
            memory = {name: server.memory / 2**20 for name, server in servers.items()}
            apart = distances(model, texts, arguments.tokens)
        for name, s in seconds.items():
            nats, same = apart[name]
            rows.append((named, name, f"{written[name] / s:,.0f}", f"{memory[name]:,.0f}", nats, f"{same:.1%}"))
            result[f"{named} {name}"] = {
                "tokens_a_second": round(written[name] / s), "mib": round(memory[name]), "kl": nats, "same": same,
            }  # fmt: skip
    columns = ("model", "weights", "tokens/s", "MiB", "KL to float32", "same greedy token")
    show(f"{arguments.clients} clients", columns, rows, {"benchmark": "cheap_serving"} | result)


if __name__ == "__main__":
    main()
