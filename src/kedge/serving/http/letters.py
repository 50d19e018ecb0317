"""From the engine's thread to the server's loop."""

import asyncio
from collections import deque
from contextlib import suppress


class Letters:
    """Carries pieces of text to whoever waits for them on a loop: one call for all that a step has written, since each
    call wakes the loop up.

    Args:
        loop: of those who wait.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._waiting: deque[tuple[asyncio.Queue[str | None], str | None]] = deque()
        self._called = False

    def send(self, to: "asyncio.Queue[str | None]", piece: str | None) -> None:
        """From any thread."""
        self._waiting.append((to, piece))
        if not self._called:
            self._called = True
            with suppress(RuntimeError):  # the loop has ended, and nobody listens
                self.loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._called = False  # what is sent from now on is taken along, or calls again
        while self._waiting:
            to, piece = self._waiting.popleft()
            to.put_nowait(piece)
