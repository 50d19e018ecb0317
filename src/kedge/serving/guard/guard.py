"""All rules together: what they do about a prompt and about an answer, and where that is kept."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from kedge.errors import KedgeError
from kedge.serving.guard.audit import AuditLog
from kedge.serving.guard.decisions import Decision, digest
from kedge.serving.guard.judging import Judge, Judged, as_an_answer
from kedge.serving.guard.rules import Rules, Where
from kedge.serving.guard.watch import Watch, finders


@dataclass(frozen=True)
class Case:
    """Whose prompt or answer it is, for the audit log."""

    id: str
    """Of the response, with the number of the prompt or answer in it."""
    version: int
    """Of the weights."""
    user: str | None


class Guard:
    """Rules, ready to look.

    Args:
        rules: what the file says.
        audit: keeps each decision; None: it is kept beside the answers alone.
        trust_remote_code: run code that models of rewards bring.

    Raises:
        ConfigError: a rule's reward is none. ModelError: a model of one cannot be loaded.
    """

    def __init__(self, rules: Rules, audit: AuditLog | None = None, *, trust_remote_code: bool = False) -> None:
        self.rules = rules
        self.audit = audit
        self._finders = {on: finders(rules.looking_at(on)) for on in ("prompt", "answer")}
        self._judges: list[Judge] = []
        try:
            for rule in rules.rule:
                if rule.reward is not None:
                    self._judges.append(Judge(rule, trust_remote_code=trust_remote_code))
        except KedgeError as error:
            self.close()
            raise type(error)(f"--guard: rule {rule.name!r}: {error}") from error

    def judges(self, on: Where) -> Sequence[Judge]:
        """The rules with rewards that look at it."""
        return [judge for judge in self._judges if judge.rule.looks_at(on)]

    def looks_at(self, on: Where) -> bool:
        """Whether there is any rule on it."""
        return bool(self.rules.looking_at(on))

    def watch(self, on: Where, *, grows: bool) -> Watch:
        """A text that is not there yet.

        Args:
            on: what it is.
            grows: some of it may leave before its end, unless a rule judges the whole.
        """
        hold = None if not grows or self.rules.hold == "answer" or self.judges(on) else self.rules.hold
        return Watch(self._finders[on], on, hold, self.rules.seconds)

    async def prompt(self, texts: Sequence[str]) -> tuple[list[str], list[Decision]]:
        """What of a prompt is answered, text by text, and what was decided on the way; of a decision that blocks,
        nothing is."""
        watches = [self.watch("prompt", grows=False) for _ in texts]

        def look() -> None:
            for watch, text in zip(watches, texts, strict=True):
                watch.hear(text)
                watch.end()
                if watch.stopped is not None and watch.stopped.did == "block":
                    return

        await asyncio.to_thread(look)
        decisions = [decision for watch in watches for decision in watch.decisions]
        if not any(decision.did == "block" for decision in decisions):
            decisions += await self.judged("prompt", as_an_answer("\n".join(texts)))
        return [watch.told for watch in watches], decisions

    async def judged(self, on: Where, asked: Judged) -> list[Decision]:
        """What the rules with rewards do, in their order, to the first that stops it."""
        judges = self.judges(on)
        each = await asyncio.gather(*(judge.decide(on, asked, self.rules.seconds) for judge in judges))
        decisions = [decision for decision in each if decision is not None]
        stops = [i for i, decision in enumerate(decisions) if decision.stops]
        return decisions[: stops[0] + 1] if stops else decisions

    async def record(self, case: Case, decisions: Sequence[Decision]) -> None:
        """Write decisions down; they are on disk when this returns.

        Raises:
            StorageError: they are not.
        """
        if self.audit is None or not decisions:
            return
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        about = {
            "time": now, "id": case.id, "version": case.version,
            "user": None if case.user is None else digest(case.user),
        }  # fmt: skip
        await asyncio.to_thread(self.audit.write, [about | decision.told() for decision in decisions])

    def close(self) -> None:
        """Let go of threads and of the audit log."""
        for judge in self._judges:
            judge.close()
        if self.audit is not None:
            self.audit.close()
