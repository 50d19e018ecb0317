"""Coroutines of reward functions, awaited together from ordinary code; in a notebook too, where a loop runs already."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any


def together(awaitables: Sequence[Awaitable[Any]]) -> list[Any]:
    """What each of them gives, in their order; the first error ends the others and propagates."""
    with begun(awaitables) as rest:
        return rest()


@contextmanager
def begun(awaitables: Sequence[Awaitable[Any]]) -> Iterator[Callable[[], list[Any]]]:
    """The same while other work is done: gives a function that waits for what is not there yet, and gives it all."""

    async def all_of_them() -> list[Any]:
        tasks = [asyncio.ensure_future(each) for each in awaitables]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    future = asyncio.run_coroutine_threadsafe(all_of_them(), _loop())
    try:
        yield future.result
    finally:
        future.cancel()  # Ctrl-C, or an error of the other work; otherwise it is done


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """A loop that runs for as long as the process does, in a thread of its own.

    One for all calls: what a user's function keeps open from one to the next, such as an HTTP client's connections,
    works on the loop that it was opened on and on no other.
    """
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="rewards", daemon=True).start()
    return loop
