"""``kedge serve`` against ``transformers serve`` and vLLM on the CPU: the same model, the same requests, in turns.

    python benchmarks/serve.py [--models stories3M 25M] [--clients 1 8 64] [--requests 4] [--rounds 3]
        [--vllm /tmp/vllm/bin/python] [--transformers PYTHON]

Each client asks one request after another: prompts of some 10 to 250 tokens, greedy answers of 8 to 128, streamed. All
servers of a model are up at once and take turns; while one is asked the others are stopped. What is not installed is
left out. How to install vLLM's CPU build stands in docs/serving.md; ``transformers serve`` wants
``transformers[serving]``.
"""

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

from serving_peers import (
    Served,
    Timed,
    end_in_order,
    kedge_server,
    mixed_prompts,
    model_named,
    transformers_server,
    vllm_server,
)  # fmt: skip
from workload import show

LENGTHS = (8, 16, 32, 64, 128)


def asked_by(server: Served, clients: int, requests: int, seed: int) -> tuple[list[Timed], float]:
    """Answers to so many clients, each with so many requests one after another; and the seconds of all."""
    rng = random.Random(seed)
    texts = mixed_prompts(clients * requests, seed)
    work = [(text, rng.choice(LENGTHS)) for text in texts]

    def ask(client: int) -> list[Timed]:
        return [server.stream(text, tokens=tokens) for text, tokens in work[client::clients]]

    with ThreadPoolExecutor(clients) as callers:
        begun = time.perf_counter()
        answers = [answer for some in callers.map(ask, range(clients)) for answer in some]
        return answers, time.perf_counter() - begun


def percentile(values: Sequence[float], share: float) -> float:
    """By rank."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def started(stack: ExitStack, makers: dict[str, Callable[[], AbstractContextManager[Served]]]) -> dict[str, Served]:
    """Those that can be; the others are left out with a line."""
    servers = {}
    for name, maker in makers.items():
        try:
            servers[name] = stack.enter_context(maker())
            servers[name].stream("Once upon a time", tokens=4)
        except (RuntimeError, OSError) as error:
            servers.pop(name, None)
            print(f"{name} is left out: {str(error)[-600:]}", file=sys.stderr)
    return servers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["stories3M", "25M"], help="stories3M, or 25M: a random Llama")
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 8, 64], help="at a time")
    parser.add_argument("--requests", type=int, default=4, help="of a client in a round")
    parser.add_argument("--rounds", type=int, default=3, help="that are timed, after one to warm up")
    parser.add_argument("--vllm", type=Path, default=Path("/tmp/vllm/bin/python"), help="Python that has vLLM")
    parser.add_argument("--transformers", type=Path, default=Path(sys.executable), help="Python that can serve")
    parser.add_argument("--batched", action="store_true", help="transformers serve too writes answers together")
    arguments = parser.parse_args()
    end_in_order()
    rows, result = [], {}
    for named in arguments.models:
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            model = model_named(named, Path(folder))
            servers = started(
                stack,
                {
                    "kedge": lambda model=model: kedge_server(model),
                    "transformers": lambda model=model: transformers_server(
                        model, arguments.transformers, batched=arguments.batched
                    ),
                    "vllm": lambda model=model: vllm_server(model, arguments.vllm),
                },
            )
            for clients in arguments.clients:
                answers: dict[str, list[Timed]] = {name: [] for name in servers}
                speeds: dict[str, list[float]] = {name: [] for name in servers}
                for turn in range(arguments.rounds + 1):
                    for name, server in servers.items():
                        with server.alone(servers.values()):
                            done, seconds = asked_by(server, clients, arguments.requests, seed=turn)
                        if turn:
                            answers[name] += done
                            speeds[name].append(sum(each.tokens for each in done) / seconds)
                for name, done in answers.items():
                    first, a_token = [1000 * x.first for x in done], [1000 * x.a_token for x in done if x.tokens > 1]
                    figures = [
                        statistics.median(speeds[name]), percentile(first, 0.5), percentile(first, 0.99),
                        percentile(a_token, 0.5), percentile(a_token, 0.99),
                    ]  # fmt: skip
                    rows.append((named, clients, name, *figures, sum(each.tokens for each in done)))
                    result[f"{named} {clients} {name}"] = [round(figure, 2) for figure in figures]
    columns = (
        "model", "clients", "server", "tokens/s", "first, p50 ms", "p99", "a token, p50 ms", "p99", "tokens",
    )  # fmt: skip
    show("Servers on the CPU", columns, rows, {"benchmark": "serve"} | result)


if __name__ == "__main__":
    main()
