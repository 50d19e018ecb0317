"""What each answer comes to: for a canary, and for whoever reviews answers."""

import asyncio
import logging
import statistics
from concurrent.futures import Future
from contextlib import suppress

from kedge.data.records import joined
from kedge.serving.http.service import Service
from kedge.serving.people.store import GivenAnswer

log = logging.getLogger("kedge.serving")


def measure(service: Service, answer: GivenAnswer, seconds: float) -> None:
    """Measure an answer that has been written to its end: at once what is known, and by the reward models when there
    is time.

    Args:
        service: that gave it.
        answer: as it is kept.
        seconds: that it took.
    """
    versions, tokens = service.versions, max(1, len(answer.ids))
    if versions.canary is not None:
        versions.canary.wrote(answer.id, answer.version)
        numbers = {"tokens": float(tokens), "seconds_a_token": seconds / tokens}
        if service.guard is not None:
            numbers["held"] = float(answer.held is not None)
        versions.canary.count(answer.version, **numbers)
        versions.decide()
    panel, store = service.reward, service.store
    if panel is None:
        return
    reviewed = store is not None and panel.differ
    if not reviewed and versions.canary is None:
        return
    prompt = answer.prompt
    if isinstance(prompt, list) and isinstance(prompt[0], int):
        prompt = service.live.lm.tokenizer.decode(prompt, skip_special_tokens=True)
    coming, loop = panel.later(joined(prompt, answer.text)), asyncio.get_running_loop()

    def judged(done: "Future[tuple[float, ...]]") -> None:
        error = None if done.cancelled() else done.exception()
        if error is not None:
            log.warning("reward models could not be asked about an answer: %s", type(error).__name__)
        elif not done.cancelled():
            if store is not None and panel.differ:
                store.measured(answer.id, statistics.pstdev(done.result()))
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(rewarded, statistics.fmean(done.result()))

    def rewarded(score: float) -> None:
        if versions.canary is not None:
            versions.canary.count(answer.version, reward=score)
            versions.decide()

    if coming is not None:
        coming.add_done_callback(judged)
