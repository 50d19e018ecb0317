"""One engine, many callers: a thread that owns the engine and steps it, whoever asks for what in the meantime.

Callers never touch the engine. What they want of it waits in a queue until the step that is being computed is done;
what is written for them comes back through a queue of their own.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Lock, Thread

import torch
from torch import Tensor

from kedge.errors import KedgeError
from kedge.models.device import computed_in
from kedge.sampling.completion import Completion
from kedge.sampling.local.engine import Engine
from kedge.sampling.local.request import Request
from kedge.sampling.local.schemas import Schemas
from kedge.sampling.sampler import Sampler
from kedge.sampling.settings import Sampling


class ClosedError(KedgeError):
    """Something is asked of a sampler that has been closed."""


Hear = Callable[[str | None], object]
"""Is told each piece of text as it becomes certain, and None at the end, in the engine's thread: it must neither wait
nor raise."""


@dataclass(eq=False)
class Ticket:
    """A request that somebody waits for."""

    request: Request
    """What is written; it grows in another thread until the end is told."""
    hear: Hear
    streams: bool
    """Whether pieces of text are wanted while it is written."""
    error: Exception | None = None
    """What ended it before it was written."""

    def completion(self) -> Completion:
        """The answer, once its end has been told.

        Raises:
            KedgeError: whatever ended it before it was written.
        """
        self.refuse_broken()
        return self.request.completion()

    def refuse_broken(self) -> None:
        """Raise what ended it before it was written, if anything did."""
        if self.error is not None:
            raise self.error

    def tell(self) -> None:
        """Hand on what has become certain."""
        if self.streams and (piece := self.request.news()):
            self.hear(piece)

    def end(self, error: Exception | None = None) -> None:
        """There is nothing more to come."""
        self.error = error
        self.hear(None)


class Driver(Sampler):
    """Answers many callers at once, from any thread; each gets what it would get alone.

    Args:
        engine: nobody else may step it from now on.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._orders: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self._tickets: list[Ticket] = []  # the thread's own
        self._precision: torch.dtype | None = None
        self._closing = Lock()
        self._closed = False
        self._thread = Thread(target=self._drive, name="engine", daemon=True)
        self._thread.start()

    @property
    def schemas(self) -> Schemas:
        """That answers may be asked to have."""
        return self._engine.schemas

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, *, seed: int = 0, first_request: int = 0
    ) -> list[Completion]:
        requests = self._engine.requests(prompts, sampling, seed, first_request)
        ended: SimpleQueue[str | None] = SimpleQueue()
        tickets = [Ticket(request, ended.put, streams=False) for request in requests]
        self._take_up(tickets)
        try:
            for _ in tickets:
                ended.get()
        finally:
            self.cancel(*tickets)
        return [ticket.completion() for ticket in tickets]

    def stream(self, prompt: Sequence[int], sampling: Sampling, *, seed: int = 0, request: int = 0) -> Iterator[str]:
        pieces: SimpleQueue[str | None] = SimpleQueue()
        ticket = self.submit(prompt, sampling, pieces.put, seed=seed, request=request)
        try:
            while (piece := pieces.get()) is not None:
                yield piece
            ticket.refuse_broken()
        finally:
            self.cancel(ticket)

    def submit(
        self, prompt: Sequence[int], sampling: Sampling, hear: Hear, *, seed: int = 0, request: int = 0
    ) -> Ticket:
        """Ask for an answer without waiting for it; for callers that wait in ways of their own.

        Args:
            prompt: token ids, at least one.
            sampling: how to draw.
            hear: is told the pieces, and the end.
            seed: of what is drawn.
            request: it draws from the random stream (seed, request).

        Raises:
            DataError: a prompt that cannot be answered. ClosedError: nobody answers any more.
        """
        ticket = Ticket(self._engine.request(prompt, sampling, seed, request, "prompt"), hear, streams=True)
        self._take_up([ticket])
        return ticket

    def cancel(self, *tickets: Ticket) -> None:
        """Nobody waits for these any more; those that are done are left as they are."""
        going = [ticket.request for ticket in tickets if ticket.request.finish_reason is None]
        if going:
            with suppress(ClosedError):
                self._order(lambda: self._engine.cancel(*going))

    @property
    def waiting(self) -> int:
        """Answers that wait for room in the batch, about now."""
        return self._engine.waiting

    @property
    def writing(self) -> int:
        """Answers that are being written, about now."""
        return self._engine.writing

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

    def _take_up(self, tickets: Sequence[Ticket]) -> None:
        precision = computed_in(self._engine.lm.device)  # the caller's, which another thread does not see

        def order() -> None:
            if not self._tickets:
                self._precision = precision
            for ticket in tickets:
                self._engine.enqueue(ticket.request)
            self._tickets.extend(tickets)

        self._order(order)

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
                for ticket in self._tickets:
                    ticket.tell()
            except Exception as error:  # noqa: BLE001  whatever it is, callers in other threads wait for it
                self._end_all(error)
            for ticket in self._tickets:
                if ticket.request.finish_reason is not None:
                    ticket.end()
            self._tickets = [ticket for ticket in self._tickets if ticket.request.finish_reason is None]
        self._carry_out_rest()
        self._end_all(ClosedError("the sampler was closed before the answer was written"))
        self._engine.close()

    def _autocast(self) -> torch.autocast:
        """As whoever found the engine at rest would compute; others join them."""
        kind = self._engine.lm.device.type
        return torch.autocast(kind, self._precision or torch.bfloat16, enabled=self._precision is not None)

    def _carry_out(self) -> None:
        """The orders that wait; where nothing is being written, wait for one."""
        if not self._tickets:
            self._orders.get()()
        self._carry_out_rest()

    def _carry_out_rest(self) -> None:
        while not self._orders.empty():  # nobody else takes any out
            self._orders.get()()

    def _end_all(self, error: Exception) -> None:
        tickets, self._tickets = self._tickets, []
        self._engine.cancel(*(ticket.request for ticket in tickets))
        for ticket in tickets:
            ticket.end(error)
