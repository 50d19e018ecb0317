"""The models behind the server, and who is waiting for them."""

import asyncio
import logging
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from kedge.data.encode import encode_prompt, has_template
from kedge.data.records import Text
from kedge.errors import DataError
from kedge.sampling.local.driver import ClosedError, Ticket
from kedge.sampling.settings import Sampling
from kedge.serving.guard.guard import Guard
from kedge.serving.http.canary import Terms
from kedge.serving.http.errors import ApiError, refused
from kedge.serving.http.letters import Letters
from kedge.serving.http.metrics import Metrics
from kedge.serving.http.panel import Panel
from kedge.serving.http.version import Version
from kedge.serving.http.versions import Versions
from kedge.serving.people.store import Store

log = logging.getLogger("kedge.serving")

REMEMBERED = 8
"""Prompts that new weights must be able to answer before they do."""


@dataclass(frozen=True)
class Limits:
    """What a server takes at most."""

    waiting: int = 256
    """Answers that are being written or wait for it; more are refused with 429."""
    seconds: float = 300.0
    """An answer may take."""
    body: int = 2**20
    """Bytes of a request."""


@dataclass(eq=False)
class Answer:
    """One answer while it is written, as seen from the server's loop."""

    ticket: Ticket
    pieces: "asyncio.Queue[str | None]"
    metrics: Metrics
    asked: float = field(default_factory=time.perf_counter)
    """When."""

    async def text(self) -> AsyncIterator[str]:
        """Pieces, as they become certain.

        Raises:
            ApiError: it could not be written.
        """
        began = None
        async for piece in self._together():
            if began is None:
                began = time.perf_counter()
                self.metrics.first_token.observe(began - self.asked)
            yield piece
        if isinstance(self.ticket.error, ClosedError):
            raise going_down()
        if self.ticket.error is not None:  # of the model, and not of this request alone
            log.error("an answer could not be written: %r", self.ticket.error)
            raise ApiError(500, "the answer could not be written; the server's log says why")
        tokens = len(self.ticket.request.ids)
        if began is not None and tokens > 1:
            self.metrics.a_token.observe((time.perf_counter() - began) / (tokens - 1))

    async def _together(self) -> AsyncIterator[str]:
        """What has come since some was taken last: where events are slower than tokens, there are fewer of them."""
        came: list[str | None] = [""]
        while came[-1] is not None:
            came = [await self.pieces.get()]
            while not self.pieces.empty():
                came.append(self.pieces.get_nowait())
            if text := "".join(filter(None, came)):
                yield text

    async def whole(self) -> str:
        """All of it."""
        return "".join([piece async for piece in self.text()])


@dataclass(eq=False)
class Service:
    """A policy, and what stands around it.

    Args:
        name: of the model, as clients ask for it.
        versions: of its weights; one of them answers.
        limits: what is taken at most.
        metrics: are told what happens.
        reward: scores, where there is one.
        store: keeps answers, and what people say of them; None: nobody does.
        guard: looks at prompts and answers; None: nobody does.
    """

    name: str
    versions: Versions
    limits: Limits = field(default_factory=Limits)
    metrics: Metrics = field(default_factory=Metrics)
    reward: Panel | None = None
    store: Store | None = None
    guard: Guard | None = None
    _waiting: int = 0
    _letters: Letters | None = None
    _recent: "deque[Sequence[int]]" = field(default_factory=lambda: deque(maxlen=REMEMBERED))

    def __post_init__(self) -> None:
        self.metrics.watch(lambda: self.live.driver.waiting, lambda: self.live.driver.writing, lambda: self.live.number)

    @property
    def live(self) -> Version:
        """The version that answers what is asked now."""
        return self.versions.live

    @property
    def is_full(self) -> bool:
        """Whether another answer would be refused."""
        return self._waiting >= self.limits.waiting

    def letters(self) -> Letters:
        """To whoever waits on the loop that is running."""
        loop = asyncio.get_running_loop()
        if self._letters is None or self._letters.loop is not loop:
            self._letters = Letters(loop)
        return self._letters

    def refuse_another(self, model: str) -> None:
        """Raise ApiError where another model is asked for."""
        if model != self.name:
            message = f"model: there is no {model!r} here; there is {self.name!r}"
            raise ApiError(404, message, param="model", code="model_not_found")

    def refuse_more_than_ever(self, count: int) -> None:
        """Raise ApiError where so many answers are asked for at once that they are never taken."""
        if count > self.limits.waiting:
            raise ApiError(400, f"n: {count} answers are asked for, and {self.limits.waiting} taken at most", param="n")

    def encoded(self, prompt: Text, param: str) -> list[int]:
        """Token ids of a prompt.

        Raises:
            ApiError: it cannot be encoded.
        """
        tokenizer = self.live.lm.tokenizer
        if not isinstance(prompt, str) and not has_template(tokenizer):
            message = f"{param}: the model has no chat template; ask /v1/completions"
            raise ApiError(400, message, param=param, code="invalid_value")
        try:
            return encode_prompt(tokenizer, prompt, origin=param)
        except DataError as error:
            raise ApiError(400, str(error), param=param, code="invalid_value") from None

    def room(self, prompts: Sequence[Sequence[int]], param: str) -> int:
        """Tokens that fit behind the longest of them.

        Raises:
            ApiError: none.
        """
        longest, positions = max(len(ids) for ids in prompts), self.live.lm.positions
        room = self.live.usual.max_new_tokens if positions is None else positions - longest
        if room < 1:
            message = f"{param}: has {longest} tokens, and the model {positions} positions; shorten it"
            raise ApiError(400, message, param=param, code="context_length_exceeded")
        return room

    def ask(
        self, version: Version, prompts: Sequence[Sequence[int]], sampling: Sampling, n: int, seed: int | None
    ) -> "Asking":
        """``n`` answers of a version to each prompt, in order; for ``async with``, which gives up what is left of them.

        Raises:
            ApiError: there are too many already, or they cannot be answered.
        """
        count = len(prompts) * n
        if self._waiting + count > self.limits.waiting:
            raise ApiError(429, "the server is busy; ask again", code="queue_full", retry_after=1)
        drawn = secrets.randbits(63) if seed is None else seed
        self._recent.extend(prompts)
        return Asking(self, version, [ids for ids in prompts for _ in range(n)], sampling, drawn)

    async def deploy(self, source: str, terms: Terms | None = None) -> Version:
        """As :meth:`Versions.deploy`, which must be able to answer what was asked lately."""
        return await self.versions.deploy(source, [*self._recent], terms)

    def close(self) -> None:
        """Whoever still waits hears that it is going down."""
        self.versions.close()
        if self.reward is not None:
            self.reward.close()
        if self.store is not None:
            self.store.close()
        if self.guard is not None:
            self.guard.close()


def going_down() -> ApiError:
    """Nobody will answer any more."""
    return ApiError(503, "the server is going down; ask again", retry_after=1)


class Asking:
    """Answers that somebody is waiting for, of the version that answered them when they were asked for."""

    def __init__(
        self, service: Service, version: Version, prompts: Sequence[Sequence[int]], sampling: Sampling, seed: int
    ) -> None:
        self.service = service
        self.version = version
        self.prompts = prompts
        self.sampling = sampling
        self.seed = seed
        self.answers: list[Answer] = []

    async def __aenter__(self) -> "list[Answer]":
        self.service._waiting += len(self.prompts)
        self.version.answers += len(self.prompts)
        try:
            await self._make_ready()
            for number, ids in enumerate(self.prompts):
                self.answers.append(self._answer(ids, number))
        except BaseException:
            self._give_up()
            raise
        return self.answers

    async def __aexit__(self, *_: object) -> None:
        self._give_up()
        errors = [answer.ticket.error for answer in self.answers]
        if broken := next((each for each in errors if each is not None and not isinstance(each, ClosedError)), None):
            self.service.versions.broke(self.version, f"an answer could not be written: {type(broken).__name__}")
        if self.version.retired:
            await asyncio.to_thread(self.version.close_if_idle)

    async def _make_ready(self) -> None:
        """A schema that has not been asked for before takes its time, in which others are answered."""
        if self.sampling.json_schema is not None:
            try:
                await asyncio.to_thread(self.version.schemas.begin, self.sampling.json_schema)
            except DataError as error:
                raise ApiError(400, str(error), param="response_format", code="invalid_value") from None

    def _answer(self, ids: Sequence[int], number: int) -> Answer:
        letters, pieces = self.service.letters(), asyncio.Queue[str | None]()
        hear = partial(letters.send, pieces)
        try:
            ticket = self.version.driver.submit(ids, self.sampling, hear, seed=self.seed, request=number)
        except DataError as error:
            raise refused(error) from None
        except ClosedError:
            raise going_down() from None
        return Answer(ticket, pieces, self.service.metrics)

    def _give_up(self) -> None:
        self.service._waiting -= len(self.prompts)
        self.version.answers -= len(self.prompts)
        self.version.driver.cancel(*(answer.ticket for answer in self.answers))
        begun = {id(ids): len(ids) for ids in self.prompts[: len(self.answers)]}  # of n answers it is one and the same
        self.service.metrics.prompt_tokens.inc(sum(begun.values()))
        self.service.metrics.reused.inc(sum(answer.ticket.request.reused for answer in self.answers))
        self.service.metrics.answer_tokens.inc(sum(len(answer.ticket.request.ids) for answer in self.answers))
