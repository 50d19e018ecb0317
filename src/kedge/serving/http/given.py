"""Prompts and answers of one request, as the guard lets them through; where there is none, as they are."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from kedge.data.records import Prompt, Text
from kedge.errors import StorageError
from kedge.serving.guard.decisions import Decision
from kedge.serving.guard.guard import Case
from kedge.serving.guard.judging import Judged
from kedge.serving.guard.watch import Watch
from kedge.serving.http.errors import ApiError
from kedge.serving.http.service import Answer, Asking, Service
from kedge.serving.http.told import FINISHED, Form

log = logging.getLogger("kedge.serving")

AT_ONCE = 20_000
"""Characters that are encoded while everybody waits: some milliseconds."""


@dataclass(eq=False)
class Passing:
    """One request on its way through the guard."""

    service: Service
    form: Form
    user: str | None
    decided: list[list[Decision]] = field(default_factory=list)
    """About each prompt."""

    async def prompts(self, prompts: Sequence[Any], param: str) -> list[Any]:
        """The prompts that are answered: each a text, messages, or tokens.

        Args:
            prompts: as they were asked.
            param: that they were.

        Raises:
            ApiError: one is not answered.
        """
        guard, passed = self.service.guard, []
        for prompt in prompts:
            if guard is None or not guard.looks_at("prompt"):
                passed.append(prompt)
                self.decided.append([])
                continue
            texts = self._texts(prompt)
            told, decisions = await guard.prompt(texts)
            await self.record(self.form.name, self.service.live.number, decisions)
            self.decided.append(decisions)
            for decision in decisions:
                if decision.did == "block":
                    said = f": {decision.rule.message}" if decision.rule.message else ""
                    message = f"{param}: stopped by the rule {decision.rule.name!r}{said}"
                    raise ApiError(400, message, param=param, code="content_filter")
            passed.append(prompt if told == texts else _with_texts(prompt, told))
        return passed

    async def encoded(self, prompts: Sequence[Any], param: str) -> list[list[int]]:
        """Token ids of each prompt; while long ones are encoded others are answered.

        Raises:
            ApiError: one cannot be encoded.
        """

        def encode() -> list[list[int]]:
            return [x if is_tokens(x) else self.service.encoded(x, param) for x in prompts]

        characters = sum(
            len(x) if isinstance(x, str) else sum(len(m["content"]) for m in x) for x in prompts if not is_tokens(x)
        )
        return await asyncio.to_thread(encode) if characters > AT_ONCE else encode()

    def give(self, index: int, answer: Answer, asking: Asking, prompt: Any, number: int, *, grows: bool) -> "Given":
        """An answer on its way to the client.

        Args:
            index: in the response.
            answer: it.
            asking: that it belongs to.
            prompt: that it answers.
            number: of that one.
            grows: it may leave piece by piece.
        """
        guard, watch = self.service.guard, None
        if guard is not None and guard.looks_at("answer"):
            # What a token's log-probability tells must not leave before its text.
            watch = guard.watch("answer", grows=grows and self.form.likeliest is None)
        asked: Text = prompt if isinstance(prompt, str) or not is_tokens(prompt) else self._texts(prompt)[0]
        return Given(self, index, answer, asking, asked, watch, [*self.decided[number]])

    async def record(self, name: str, version: int, decisions: Sequence[Decision]) -> None:
        """Keep what was decided; it is on disk when this returns.

        Args:
            name: of the response or answer.
            version: of the weights.
            decisions: about it.

        Raises:
            ApiError: it cannot be written, and nothing must come of it.
        """
        assert self.service.guard is not None
        for decision in decisions:
            self.service.metrics.decisions.labels(decision.rule.name, decision.on, decision.did).inc()
        try:
            await self.service.guard.record(Case(name, version, self.user), decisions)
        except StorageError as error:
            log.error("the audit log cannot be written: %r", error)
            message = "what the guard decided cannot be written down; ask again later"
            raise ApiError(503, message, code="not_kept", retry_after=5) from None

    def _texts(self, prompt: Any) -> list[str]:
        """Every text of a prompt, without special tokens: those within a word would hide it, and are written as text
        too."""
        tokenizer = self.service.live.lm.tokenizer
        if is_tokens(prompt):
            known = [token for token in prompt if token < len(tokenizer)]  # others have no text, and are refused later
            return [str(tokenizer.decode(known, skip_special_tokens=True))]
        tokens = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
        special = re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) or "(?!)")
        texts = [prompt] if isinstance(prompt, str) else [message["content"] for message in prompt]
        return [special.sub("", text) for text in texts]


class Given:
    """An answer as it is given.

    Args:
        passing: the request that it belongs to.
        index: in the response.
        answer: it, while it is written.
        asking: that it is one of.
        prompt: that it answers.
        watch: looks at it; None: nobody does.
        decisions: about its prompt.
    """

    def __init__(
        self,
        passing: Passing,
        index: int,
        answer: Answer,
        asking: Asking,
        prompt: Text,
        watch: Watch | None,
        decisions: list[Decision],
    ) -> None:
        self.index = index
        self.answer = answer
        self._passing = passing
        self._asking = asking
        self._prompt = prompt
        self._watch = watch
        self._about_prompt = decisions
        self._recorded = 0

    @property
    def altered(self) -> bool:
        """Whether the client gets something else than what was written."""
        return self._watch is not None and self._watch.altered

    @property
    def finished(self) -> str | None:
        """Why it ended, as clients hear it."""
        stopped = self._watch is not None and self._watch.stopped is not None
        return "content_filter" if stopped else FINISHED[self.answer.ticket.request.finish_reason]

    @property
    def told(self) -> str | None:
        """What the client got in place of what was written; None: just that."""
        return self._watch.told if self._watch is not None and self._watch.altered else None

    @property
    def held(self) -> list[dict[str, Any]] | None:
        """What the guard did about it and its prompt, for who looks at it later; None: nothing."""
        decisions = [*self._about_prompt, *([] if self._watch is None else self._watch.decisions)]
        return [decision.told() for decision in decisions if decision.did != "pass"] or None

    async def text(self) -> AsyncIterator[str]:
        """Pieces that may be given. What was decided about them is on disk before they are.

        Raises:
            ApiError: it could not be written, or what was decided not be kept.
        """
        watch = self._watch
        async for piece in self.answer.text():
            if watch is None:
                yield piece
                continue
            if watch.stopped is not None:
                continue
            watch.hear(piece)
            if watch.may_settle:
                if told := await self._settled(watch):
                    yield told
                if watch.stopped is not None:  # what would still be written is not given to anybody
                    self._asking.version.driver.cancel(self.answer.ticket)
        if watch is not None and watch.stopped is None and (told := await self._settled(watch, ends=True)):
            yield told

    async def whole(self) -> str:
        """All of it."""
        return "".join([piece async for piece in self.text()])

    async def _settled(self, watch: Watch, *, ends: bool = False) -> str:
        piece = await asyncio.to_thread(watch.end if ends else watch.settle)
        guard, passing = self._passing.service.guard, self._passing
        if ends and watch.stopped is None and guard is not None and guard.judges("answer"):
            asked = Judged(Prompt(self._prompt), self.answer.ticket.completion())
            for decision in await guard.judged("answer", asked):
                if decision.stops:
                    piece = watch.stop(decision)
                else:
                    watch.decisions.append(decision)
        new = watch.decisions[self._recorded :]
        self._recorded += len(new)
        await passing.record(f"{passing.form.name}:{self.index}", self._asking.version.number, new)
        return piece


def is_tokens(prompt: Any) -> bool:
    """Whether a prompt is token ids, and no text or messages."""
    return isinstance(prompt, list) and isinstance(prompt[0], int)


def _with_texts(prompt: Any, texts: Sequence[str]) -> Any:
    """A prompt with other texts; tokens become a text."""
    if isinstance(prompt, str) or is_tokens(prompt):
        return texts[0]
    return [message | {"content": text} for message, text in zip(prompt, texts, strict=True)]
