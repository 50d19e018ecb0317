"""The versions that answer, and those that will: loaded beside one another, checked, tried, and switched between."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from kedge.errors import KedgeError
from kedge.serving.http.canary import Canary, Terms
from kedge.serving.http.version import PLAINLY, Held, Version, check, load_version

HISTORY = 100
"""Changes that are remembered."""


class Versions:
    """Which version answers now, which one did before, and which one is being tried.

    The one before stays in memory for a way back; one that was rolled back does not. So there are two with their
    weights, and a third one while it is checked or tried.

    Args:
        first: answers from the start.
        held: how new ones are held in memory.
    """

    def __init__(self, first: Version, held: Held = PLAINLY) -> None:
        self.live = first
        self.before: Version | None = None
        self.canary: Canary | None = None
        self.held = held
        self.history: list[dict[str, Any]] = []
        """What was changed, and why: the last of it last."""
        self._number = first.number
        self._changing = asyncio.Lock()
        self._going: set[asyncio.Task[None]] = set()

    def answering(self, person: str | None) -> Version:
        """Who answers a person, or somebody who does not say who they are."""
        return self.live if self.canary is None else self.canary.answering(person)

    async def deploy(self, source: str, prompts: Sequence[Sequence[int]], terms: Terms | None = None) -> Version:
        """Load new weights beside those that answer, check them, and let them answer what comes from now on.

        Args:
            source: a run, folder or hub id, on the server's machine.
            prompts: that it must be able to answer.
            terms: on which they are tried first on a share of the people; None: they answer everybody at once.

        Raises:
            KedgeError: it cannot be loaded, or may not take the present one's place, which goes on then; another one is
                being tried.
        """
        async with self._changing:
            if self.canary is not None:
                number = self.canary.candidate.version.number
                raise KedgeError(f"version {number} is being tried; promote it or roll it back first")
            self._number += 1
            new = await asyncio.to_thread(load_version, self._number, source, self.held)
            try:
                await asyncio.to_thread(check, new, self.live, prompts)
            except BaseException:
                await asyncio.to_thread(new.driver.close)
                raise
            if terms is None:
                self._switch_to(new)
                self._note("deployed", new, "")
            else:
                self.canary = Canary(self.live, new, terms)
                self._note("canary", new, f"answers {terms.share:.0%} of the people")
            return new

    def promote(self, why: str = "by hand") -> Version:
        """Let the version that is being tried answer everybody.

        Raises:
            KedgeError: there is none.
        """
        if self.canary is None:
            raise KedgeError("no version is being tried")
        new, self.canary = self.canary.candidate.version, None
        self._switch_to(new)
        self._note("promoted", new, why)
        return new

    def roll_back(self, why: str = "by hand") -> Version:
        """Let the version that is being tried answer nobody; where there is none, let the version before answer again.

        Raises:
            KedgeError: there is neither.
        """
        if self.canary is not None:
            tried, self.canary = self.canary.candidate.version, None
            self._let_go(tried)
            self._note("rolled back", tried, why)
        elif self.before is not None:
            former, self.live, self.before = self.live, self.before, None
            self._let_go(former)
            self._note("rolled back", former, why)
        else:
            raise KedgeError("there is no version before this one in memory; deploy the one that is wanted")
        return self.live

    def decide(self) -> None:
        """End a canary that is decided."""
        verdict = None if self.canary is None else self.canary.verdict()
        if verdict is not None:
            did, why = verdict
            self.promote(why) if did == "promoted" else self.roll_back(why)

    def broke(self, version: Version, why: str) -> None:
        """A version could not write an answer: if it is being tried, that was enough of it."""
        if self.canary is not None and self.canary.candidate.version is version:
            self.roll_back(why)

    def told(self) -> dict[str, Any]:
        """For whoever keeps the server: JSON."""
        return {
            "live": self.live.told(),
            "before": None if self.before is None else self.before.told(),
            "canary": None if self.canary is None else self.canary.told(),
            "history": self.history,
        }

    def close(self) -> None:
        """Whoever still waits hears that it is over."""
        tried = None if self.canary is None else self.canary.candidate.version
        for version in filter(None, (self.live, self.before, tried)):
            version.driver.close()

    def _switch_to(self, new: Version) -> None:
        self.live, self.before, former = new, self.live, self.before
        if former is not None:
            self._let_go(former)

    def _let_go(self, version: Version) -> None:
        version.retired = True
        task = asyncio.create_task(asyncio.to_thread(version.close_if_idle))
        self._going.add(task)  # the loop itself would forget it
        task.add_done_callback(self._going.discard)

    def _note(self, did: str, version: Version, why: str) -> None:
        noted = {"time": time.time(), "did": did, "version": version.number, "source": version.source, "why": why}
        self.history = [*self.history, noted][-HISTORY:]
