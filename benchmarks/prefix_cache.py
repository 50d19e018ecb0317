"""Time to the first token of a prompt whose beginning the server has had before, and of one that it has not.

    python benchmarks/prefix_cache.py [--shared 400] [--repeats 9]

stories3M through HTTP, one client. Each pair of prompts begins with tokens of its own: the first one is computed whole,
the second one has 400 tokens in common with it and 8 of its own. Beside it the same with the cache turned off.
"""

import argparse
import random
import statistics

from serving_peers import Served, end_in_order, kedge_server
from workload import SHARED, show

MODEL = SHARED / "models" / "stories3M"
OWN = 8


def first_and_second(server: Served, shared: int, repeats: int, seed: int = 0) -> tuple[list[float], list[float]]:
    """Seconds to the first token of prompts whose beginning is new, and of those that begin as one before."""
    rng = random.Random(seed)
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(repeats + 1):
        begin = [rng.randrange(5, 4000) for _ in range(shared)]
        for kept in times:
            answer = server.stream([*begin, *(rng.randrange(5, 4000) for _ in range(OWN))], tokens=2)
            if turn:  # the first pair warms up
                kept.append(answer.first)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=int, default=400, help="tokens that two prompts have in common")
    parser.add_argument("--repeats", type=int, default=9, help="pairs of prompts")
    arguments = parser.parse_args()
    end_in_order()
    rows, result = [], {}
    for name, options in (("256 MiB", ()), ("off", ("--prefix-cache", "0"))):
        with kedge_server(MODEL, *options) as server:
            first, second = first_and_second(server, arguments.shared, arguments.repeats)
        a, b = statistics.median(first), statistics.median(second)
        rows.append((name, 1000 * a, 1000 * b, a / b))
        result[name] = {"first_ms": round(1000 * a, 2), "second_ms": round(1000 * b, 2), "times": round(a / b, 2)}
    columns = ("cache", "first time, ms", "second time, ms", "so many times as soon")
    show(f"{arguments.shared} shared tokens, {OWN} of its own", columns, rows, {"benchmark": "prefix_cache"} | result)


if __name__ == "__main__":
    main()
