"""Answers that run ahead: while an update works on a step's answers, those of the steps to come are being written.

Whoever takes the answers of step n has those of steps n + 1 to n + k begun: with weights that are at most k updates old
when their step comes. With k = 0 a step's answers are written when they are asked for, by whoever asks.
"""

from collections.abc import Callable
from concurrent.futures import Future, wait
from threading import Thread

from kedge.errors import ConfigError
from kedge.sampling.completion import Completion
from kedge.sampling.sampler import Sampler


class Ahead:
    """The answers of one step after another.

    Args:
        write: writes those of a step (from 0), with random numbers that are the step's whoever asks and when; called in
            threads where ``steps`` is not 0.
        steps: how many steps ahead.
        last: no step from this one on is begun before it is asked for.
    """

    def __init__(self, write: Callable[[int], list[Completion]], *, steps: int, last: int) -> None:
        self._write, self.steps, self.last = write, steps, last
        self._begun: dict[int, Future[list[Completion]]] = {}
        self._threads: list[Thread] = []

    def take(self, step: int) -> list[Completion]:
        """The answers of a step, which are waited for; those of the next steps are begun.

        Raises:
            Exception: whatever ``write`` raised for this step, in whichever thread.
        """
        if not self.steps:
            return self._write(step)
        for each in [step, *range(step + 1, min(step + self.steps + 1, self.last))]:
            if each not in self._begun:
                self._begin(each)
        return self._begun.pop(step).result()

    def settle(self) -> None:
        """Wait until nothing is being written; what was begun stays to be taken."""
        wait(self._begun.values())

    def close(self) -> None:
        """Wait for the threads; nothing that was begun is taken any more. Whoever writes should have been closed."""
        self._begun.clear()
        for thread in self._threads:
            thread.join()

    def _begin(self, step: int) -> None:
        answers: Future[list[Completion]] = Future()

        def work() -> None:
            try:
                answers.set_result(self._write(step))
            except BaseException as error:  # noqa: BLE001  whatever it is, it is the step's, who waits in another thread
                answers.set_exception(error)

        self._begun[step] = answers
        thread = Thread(target=work, name=f"answers-of-step-{step + 1}", daemon=True)
        self._threads = [each for each in self._threads if each.is_alive()] + [thread]
        thread.start()


def refuse_running_ahead(steps: int, sampler: Sampler) -> None:
    """Raise where a sampler's answers cannot run so many steps ahead.

    Raises:
        ConfigError: it writes with the weights that are being trained.
    """
    if steps and not sampler.writes_apart:
        raise ConfigError(
            f"max_staleness: {steps} needs a sampler with weights of its own, and {type(sampler).__name__} writes with "
            'those that are being trained; name servers (sampler = { kind = "vllm", ... }), or set max_staleness to 0'
        )
