"""An event loop in a thread of its own, which callers in other threads ask for what is awaited there."""

import asyncio
from collections.abc import Coroutine
from concurrent.futures import CancelledError, Future
from threading import Thread
from typing import Any, TypeVar

from kedge.errors import SamplerError

T = TypeVar("T")


class Background:
    """Runs coroutines for any thread, until it is closed.

    Args:
        name: of its thread.
    """

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._closing = False
        self._broken: BaseException | None = None
        self._thread = Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What the coroutine gives. A caller that is interrupted has it cancelled.

        Raises:
            SamplerError: it was closed before that.
            Exception: whatever ended what was to run until then.
        """
        if self._broken is not None:
            work.close()
            raise self._broken
        if self._closing:
            work.close()
            raise SamplerError("the sampler is closed")
        asked = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return asked.result()
        except CancelledError:
            raise SamplerError("the sampler was closed before the answers were written") from None
        finally:
            asked.cancel()  # what is done stays done

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Have the coroutine run until it is closed. Nobody waits for it; what ends it before is the next caller's."""

        def ended(task: "Future[None]") -> None:
            if not task.cancelled():
                self._broken = task.exception()

        asyncio.run_coroutine_threadsafe(work, self._loop).add_done_callback(ended)

    def close(self, last: Coroutine[Any, Any, object]) -> None:
        """Cancel whatever runs, wait for this, and end the thread.

        Raises:
            Exception: whatever ended what was to run until now.
        """
        self._closing = True
        for work in (_cancel_others(), last):
            asyncio.run_coroutine_threadsafe(work, self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        if self._broken is not None:
            raise self._broken


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
