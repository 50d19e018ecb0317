"""Scores for a server: in a thread of its own, all that wait together, and whoever waits may give up."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Generic, TypeVar

Asked = TypeVar("Asked")
Score = TypeVar("Score")

AT_ONCE = 32
"""Things that are scored together, at most."""

GRACE = 5.0
"""Seconds that a call has to come to its end when nobody needs it any more."""


class Scorer(Generic[Asked, Score]):
    """Calls a function of many from one thread.

    Args:
        score: a score for each; what it raises for several is found out one by one.
        name: of the thread.
    """

    def __init__(self, score: Callable[[Sequence[Asked]], Sequence[Score]], name: str) -> None:
        self._score = score
        self._orders: SimpleQueue[tuple[Asked, Future[Score]] | None] = SimpleQueue()
        # A daemon: a call that never ends must not keep the server from ending.
        self._thread = Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def ask(self, what: Asked) -> "Future[Score]":
        """Its score, or what the function raised. Who gives up cancels it."""
        done: Future[Score] = Future()
        self._orders.put((what, done))
        return done

    @property
    def waiting(self) -> int:
        """How many have not been begun, about now."""
        return self._orders.qsize()

    def close(self) -> None:
        """Do what is being done, and nothing else."""
        self._orders.put(None)
        self._thread.join(GRACE)

    def _work(self) -> None:
        going = True
        while going:
            orders = [self._orders.get()]
            while len(orders) < AT_ONCE:
                try:
                    orders.append(self._orders.get_nowait())
                except Empty:
                    break
            going = None not in orders
            self._answer([order for order in orders if order is not None and order[1].set_running_or_notify_cancel()])

    def _answer(self, orders: Sequence[tuple[Asked, "Future[Score]"]]) -> None:
        if not orders:
            return
        try:
            scores = self._score([what for what, _ in orders])
        except Exception as error:  # noqa: BLE001  whatever it is, callers in other threads wait for it
            if len(orders) == 1:
                orders[0][1].set_exception(error)
            else:
                for order in orders:
                    self._answer([order])
        else:
            for (_, done), score in zip(orders, scores, strict=True):
                done.set_result(score)
