"""One engine, many callers: a thread that owns the engine and steps it, whoever asks for what in the meantime.

Callers never touch the engine. What they want of it waits in a queue until the step that is being computed is done;
what is written for them comes back through a queue of their own.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Lock, Thread

import torch
from torch import Tensor

from kedge.errors import KedgeError
from kedge.models.device import computed_in
from kedge.sampling.completion import Completion
from kedge.sampling.local.engine import Engine
from kedge.sampling.local.request import Request
from kedge.sampling.sampler import Sampler
from kedge.sampling.settings import Sampling


class ClosedError(KedgeError):
    """Something is asked of a sampler that has been closed."""


@dataclass(eq=False)
class _Caller:
    """Who waits for a request."""

    request: Request
    streams: bool
    """Whether pieces of text are wanted while it is written."""
    pieces: SimpleQueue[str | None] = field(default_factory=SimpleQueue)
    """None is the end."""
    error: Exception | None = None

    def tell(self) -> None:
        """Hand on what has become certain."""
        if self.streams and (piece := self.request.news()):
            self.pieces.put(piece)

    def end(self, error: Exception | None = None) -> None:
        """There is nothing more to come."""
        self.error = error
        self.pieces.put(None)


class Driver(Sampler):
    """Answers many callers at once, from any thread; each gets what it would get alone.

    Args:
        engine: nobody else may step it from now on.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._orders: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self._callers: list[_Caller] = []  # the thread's own
        self._precision: torch.dtype | None = None
        self._closing = Lock()
        self._closed = False
        self._thread = Thread(target=self._drive, name="engine", daemon=True)
        self._thread.start()

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, *, seed: int = 0, first_request: int = 0
    ) -> list[Completion]:
        requests = self._engine.requests(prompts, sampling, seed, first_request)
        callers = [_Caller(request, streams=False) for request in requests]
        self._take_up(callers)
        try:
            for caller in callers:
                caller.pieces.get()
                if caller.error is not None:
                    raise caller.error
        finally:
            self._give_up(callers)
        return [request.completion() for request in requests]

    def stream(self, prompt: Sequence[int], sampling: Sampling, *, seed: int = 0, request: int = 0) -> Iterator[str]:
        caller = _Caller(self._engine.request(prompt, sampling, seed, request, "prompt"), streams=True)
        self._take_up([caller])
        try:
            while (piece := caller.pieces.get()) is not None:
                yield piece
            if caller.error is not None:
                raise caller.error
        finally:
            self._give_up([caller])

    def publish(self, weights: Mapping[str, Tensor], version: int) -> None:
        """Between two steps; what is being written goes on with the new weights. Returns when they are in place."""
        done: Future[None] = Future()

        def order() -> None:
            try:
                done.set_result(self._engine.publish(weights, version))
            except Exception as error:  # noqa: BLE001  it is the caller's, who waits for it in another thread
                done.set_exception(error)

        self._order(order)
        done.result()

    def close(self) -> None:
        """Stop the thread. Who is still waiting gets an error."""
        with self._closing:
            self._closed = True
            self._orders.put(lambda: None)  # it may be waiting for one
        self._thread.join()

    def _take_up(self, callers: Sequence[_Caller]) -> None:
        precision = computed_in(self._engine.lm.device)  # the caller's, which another thread does not see

        def order() -> None:
            if not self._callers:
                self._precision = precision
            for caller in callers:
                self._engine.enqueue(caller.request)
            self._callers.extend(callers)

        self._order(order)

    def _give_up(self, callers: Sequence[_Caller]) -> None:
        """Nobody waits for these any more; those that are done are left as they are."""
        going = [caller.request for caller in callers if caller.request.finish_reason is None]
        if going:
            with suppress(ClosedError):
                self._order(lambda: self._engine.cancel(*going))

    def _order(self, order: Callable[[], object]) -> None:
        with self._closing:  # an order behind the last one would never be carried out
            if self._closed:
                raise ClosedError("the sampler is closed")
            self._orders.put(order)

    # In the thread ----------------------------------------------------------------------------------------------

    def _drive(self) -> None:
        while not self._closed:
            try:
                self._carry_out()
                with self._autocast():
                    self._engine.step()
                for caller in self._callers:
                    caller.tell()
            except Exception as error:  # noqa: BLE001  whatever it is, callers in other threads wait for it
                self._end_all(error)
            for caller in self._callers:
                if caller.request.finish_reason is not None:
                    caller.end()
            self._callers = [caller for caller in self._callers if caller.request.finish_reason is None]
        self._carry_out_rest()
        self._end_all(ClosedError("the sampler was closed before the answer was written"))
        self._engine.close()

    def _autocast(self) -> torch.autocast:
        """As whoever found the engine at rest would compute; others join them."""
        kind = self._engine.lm.device.type
        return torch.autocast(kind, self._precision or torch.bfloat16, enabled=self._precision is not None)

    def _carry_out(self) -> None:
        """The orders that wait; where nothing is being written, wait for one."""
        if not self._callers:
            self._orders.get()()
        self._carry_out_rest()

    def _carry_out_rest(self) -> None:
        while not self._orders.empty():  # nobody else takes any out
            self._orders.get()()

    def _end_all(self, error: Exception) -> None:
        callers, self._callers = self._callers, []
        self._engine.cancel(*(caller.request for caller in callers))
        for caller in callers:
            caller.end(error)
