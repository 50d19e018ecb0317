"""Answers on their way out: whole within a time limit, or as a stream of events; given up when nobody waits."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Send

from kedge.serving.http.errors import ApiError
from kedge.serving.http.given import Given
from kedge.serving.http.service import Answer, Asking, Service
from kedge.serving.http.told import ChatForm, Form, known, usage

Result = TypeVar("Result")
Keep = Callable[[Given], None]
Give = Callable[[int, Answer], Given]
"""Index of an answer, and itself."""


async def streamed(
    service: Service, asking: Asking, form: Form, prompts: list[list[int]], give: Give, keep: Keep, *, counted: bool
) -> AsyncGenerator[str, None]:
    """Server-sent events of all answers, as they are written; one that fails ends the stream with an error.

    Args:
        service: that is asked.
        asking: for the answers.
        form: of the response.
        prompts: as tokens.
        give: an answer to the client.
        keep: is told each answer that is written to its end.
        counted: tokens are reported in the end.
    """
    async with asking as answers:
        try:
            if isinstance(form, ChatForm):
                for index in range(len(answers)):
                    yield event(form.chunk([form.opening(index)]))
            written = [pieces(form, give(index, answer), keep) for index, answer in enumerate(answers)]
            async for choice in together(written, service.limits.seconds):
                yield event(form.chunk([choice]))
            if counted:
                yield event(form.chunk([], usage(prompts, [answer.ticket.request for answer in answers])))
        except TimeoutError:
            yield event(too_slow(service).body())
        except ApiError as error:
            yield event(error.body())
        yield "data: [DONE]\n\n"


class ReadInTime(StreamingResponse):
    """Events; who has not read them some time after they have all been written is given up, and the connection with
    them.

    Args:
        events: server-sent.
        seconds: they may take to be written.
        headers: of the response.
    """

    GRACE = 5.0
    """Seconds for what an answer that took too long is told in the end."""

    def __init__(self, events: AsyncGenerator[str, None], seconds: float, *, headers: Mapping[str, str]) -> None:
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self.events, self.seconds = events, seconds + self.GRACE

    async def stream_response(self, send: Send) -> None:
        try:
            async with asyncio.timeout(self.seconds):
                await super().stream_response(send)
        except TimeoutError:
            await self.events.aclose()  # frees their places


def whole_choice(form: Form, given: Given, text: str) -> dict[str, Any]:
    """The choice of an answer that is given at once."""
    logprobs = None if given.altered else form.logprobs(given.answer.ticket.request, 0, text_from=0)
    return form.choice(given.index, text, given.finished, logprobs)


async def pieces(form: Form, given: Given, keep: Keep) -> AsyncIterator[dict[str, Any]]:
    """Choices of one answer's chunks; the last one says why it ended."""
    request, tokens, characters = given.answer.ticket.request, 0, 0

    def logprobs() -> Any:
        return None if given.altered else form.logprobs(request, tokens, text_from=characters)

    async for text in given.text():
        log = logprobs()
        tokens, characters = known(request), characters + len(text)
        yield form.piece(given.index, text, None, log)
    keep(given)  # before the client knows of its end, and may speak of it
    yield form.piece(given.index, "", given.finished, logprobs())


async def together(streams: Sequence[AsyncIterator[Result]], seconds: float) -> AsyncIterator[Result]:
    """What any of them gives, as it comes.

    Raises:
        TimeoutError: not all of them have ended after so many seconds.
    """
    deadline = time.monotonic() + seconds  # not asyncio's, which is a task's: this is asked from several
    coming = {asyncio.ensure_future(anext(stream)): stream for stream in streams}
    try:
        while coming:
            left = max(0.0, deadline - time.monotonic())
            done, _ = await asyncio.wait(coming, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                raise TimeoutError
            for task in sorted(done, key=lambda task: streams.index(coming[task])):
                stream = coming.pop(task)
                try:
                    yield task.result()
                except StopAsyncIteration:
                    continue
                coming[asyncio.ensure_future(anext(stream))] = stream
    finally:
        for task in coming:
            task.cancel()


async def behind(first: Result, rest: AsyncGenerator[Result, None]) -> AsyncGenerator[Result, None]:
    """All of it, the first one asked for already."""
    async with aclosing(rest):
        yield first
        async for each in rest:
            yield each


def event(body: dict[str, Any]) -> str:
    """A server-sent event."""
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"


async def timely(service: Service, work: Awaitable[Result]) -> Result:
    """What comes within the time limit."""
    try:
        async with asyncio.timeout(service.limits.seconds):
            return await work
    except TimeoutError:
        raise too_slow(service) from None


def too_slow(service: Service) -> ApiError:
    """An answer was not written in time."""
    return ApiError(504, f"the answer took longer than {service.limits.seconds:g} seconds", code="timeout")


async def unless_gone(request: Request, work: Awaitable[Result]) -> Result:
    """The work, given up when the client goes away."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ApiError(499, "the client has gone")
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()
