"""The server's routes."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from kedge import __version__
from kedge.serving.http.admin import admin_routes
from kedge.serving.http.asked import Asked, ChatAsked, CompletionAsked, ScoreAsked
from kedge.serving.http.errors import ApiError, answer_with_errors
from kedge.serving.http.gate import Gate
from kedge.serving.http.opinions import feedback_routes, given_answer
from kedge.serving.http.service import Answer, Asking, Service
from kedge.serving.http.told import FINISHED, ChatForm, CompletionForm, Form, known, usage

Result = TypeVar("Result")
Keep = Callable[[int, Answer], None]
"""Index of an answer, and itself."""


def create_app(service: Service, *, keys: Sequence[str] = (), admin_keys: Sequence[str] = ()) -> FastAPI:
    """The server of a policy.

    Args:
        service: answers. It is closed with the app.
        keys: one of which a client must give; none: nothing is asked for.
        admin_keys: one of which whoever changes the weights must give; none: nobody can.
    """

    @asynccontextmanager
    async def living(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.close)

    app = FastAPI(title="kedge", version=__version__, lifespan=living)
    gates = {"/admin": admin_keys, "": keys} if admin_keys else {"": keys}
    app.add_middleware(Gate, keys=gates, body=service.limits.body, metrics=service.metrics)
    app.include_router(feedback_routes(service))
    if admin_keys:
        app.include_router(admin_routes(service))
    answer_with_errors(app)
    started = int(time.time())

    @app.post("/v1/chat/completions")
    async def chat(asked: ChatAsked, request: Request) -> Response:
        service.refuse_another(asked.model)
        messages = [{"role": message.role, "content": message.content} for message in asked.messages]
        form = ChatForm(service.name, service.live.lm.tokenizer, service.live.fingerprint, asked.likeliest)
        return await answered(request, asked, form, [messages], [service.encoded(messages, "messages")])

    @app.post("/v1/completions")
    async def complete(asked: CompletionAsked, request: Request) -> Response:
        service.refuse_another(asked.model)
        form = CompletionForm(service.name, service.live.lm.tokenizer, service.live.fingerprint, asked.likeliest)
        prompts = [x if isinstance(x, list) else service.encoded(x, "prompt") for x in asked.prompts]
        return await answered(request, asked, form, asked.prompts, prompts)

    @app.post("/v1/score")
    async def score(asked: ScoreAsked) -> dict[str, Any]:
        service.refuse_another(asked.model)
        texts = [x if isinstance(x, str) else [m.model_dump(exclude={"name"}) for m in x] for x in asked.input]
        scores = await service.score(texts)
        data = [{"object": "score", "index": index, "score": score} for index, score in enumerate(scores)]
        return {"object": "list", "model": service.name, "data": data}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [told_of(service.name)]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        service.refuse_another(name)
        return told_of(name)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/ready")
    async def ready() -> JSONResponse:
        busy = service.is_full
        return JSONResponse({"status": "busy" if busy else "ok"}, 503 if busy else 200)

    @app.get("/metrics")
    async def metrics() -> PlainTextResponse:
        return PlainTextResponse(service.metrics.text(), media_type="text/plain; version=0.0.4")

    def told_of(name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": started, "owned_by": "kedge"}

    async def answered(
        request: Request, asked: Asked, form: Form, prompts: Sequence[Any], encoded: list[list[int]]
    ) -> Response:
        param = "messages" if isinstance(asked, ChatAsked) else "prompt"
        try:
            sampling = asked.sampling(service.live.usual, service.room(encoded, param))
        except ValueError as error:
            raise ApiError(400, str(error), code="invalid_value") from None
        asking = service.ask(encoded, sampling, asked.n, asked.seed)

        def keep(index: int, answer: Answer) -> None:
            if service.store is not None:
                prompt = prompts[index // asked.n]
                service.store.keep(given_answer(form, index, answer, asking.version, prompt, asked.user))

        if asked.stream:
            counted = asked.stream_options is not None and asked.stream_options.include_usage
            events = streamed(service, asking, form, encoded, keep, counted=counted)
            first = await unless_gone(request, anext(events))  # what is refused is so before a stream has begun
            headers = {"Cache-Control": "no-cache"}
            return StreamingResponse(behind(first, events), media_type="text/event-stream", headers=headers)
        async with asking as answers:
            texts = await unless_gone(request, timely(service, asyncio.gather(*(each.whole() for each in answers))))
            for index, answer in enumerate(answers):
                keep(index, answer)
            requests = [answer.ticket.request for answer in answers]
            return JSONResponse(form.whole(texts, requests, usage(encoded, requests)))

    return app


async def streamed(
    service: Service, asking: Asking, form: Form, prompts: list[list[int]], keep: Keep, *, counted: bool
) -> AsyncIterator[str]:
    """Server-sent events of all answers, as they are written; one that fails ends the stream with an error.

    Args:
        service: that is asked.
        asking: for the answers.
        form: of the response.
        prompts: as tokens.
        keep: is told each answer that is written to its end.
        counted: tokens are reported in the end.
    """
    async with asking as answers:
        try:
            if isinstance(form, ChatForm):
                for index in range(len(answers)):
                    yield event(form.chunk([form.opening(index)]))
            written = [pieces(form, index, answer, keep) for index, answer in enumerate(answers)]
            async for choice in together(written, service.limits.seconds):
                yield event(form.chunk([choice]))
            if counted:
                yield event(form.chunk([], usage(prompts, [answer.ticket.request for answer in answers])))
        except TimeoutError:
            yield event(too_slow(service).body())
        except ApiError as error:
            yield event(error.body())
        yield "data: [DONE]\n\n"


async def pieces(form: Form, index: int, answer: Answer, keep: Keep) -> AsyncIterator[dict[str, Any]]:
    """Choices of one answer's chunks; the last one says why it ended."""
    request, tokens, characters = answer.ticket.request, 0, 0
    async for text in answer.text():
        logprobs = form.logprobs(request, tokens, text_from=characters)
        tokens, characters = known(request), characters + len(text)
        yield form.piece(index, text, None, logprobs)
    keep(index, answer)  # before the client knows of its end, and may speak of it
    rest = form.logprobs(request, tokens, text_from=characters)
    yield form.piece(index, "", FINISHED[request.finish_reason], rest)


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


async def behind(first: Result, rest: AsyncIterator[Result]) -> AsyncIterator[Result]:
    """All of it, the first one asked for already."""
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
