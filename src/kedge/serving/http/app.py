"""The server's routes."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from kedge import __version__
from kedge.data.encode import has_template
from kedge.sampling.settings import Sampling
from kedge.serving.http.admin import admin_routes
from kedge.serving.http.asked import Asked, ChatAsked, CompletionAsked
from kedge.serving.http.errors import answer_with_errors, refused
from kedge.serving.http.gate import Gate
from kedge.serving.http.given import Given, Passing
from kedge.serving.http.measuring import measure
from kedge.serving.http.opinions import feedback_routes, given_answer
from kedge.serving.http.page import page_routes
from kedge.serving.http.quality import quality_routes
from kedge.serving.http.reviewing import review_routes
from kedge.serving.http.scoring import Scores, score_route
from kedge.serving.http.service import Answer, Service
from kedge.serving.http.streams import ReadInTime, behind, streamed, timely, unless_gone, whole_choice
from kedge.serving.http.told import ChatForm, CompletionForm, Form, usage
from kedge.serving.http.version import Version


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
    app.include_router(page_routes())
    app.include_router(feedback_routes(service))
    if admin_keys:
        app.include_router(admin_routes(service))
        app.include_router(review_routes(service))
        app.include_router(quality_routes(service))
    answer_with_errors(app)
    score_route(app, Scores(service.reward), service.refuse_another)
    started = int(time.time())

    @app.post("/v1/chat/completions")
    async def chat(asked: ChatAsked, request: Request) -> Response:
        service.refuse_another(asked.model)
        messages = [message.model_dump() for message in asked.messages]
        version = service.versions.answering(asked.user)
        form = ChatForm(service.name, version.lm.tokenizer, version.fingerprint, asked.likeliest)
        return await answered(request, asked, version, form, [messages], "messages")

    @app.post("/v1/completions")
    async def complete(asked: CompletionAsked, request: Request) -> Response:
        service.refuse_another(asked.model)
        version = service.versions.answering(asked.user)
        form = CompletionForm(service.name, version.lm.tokenizer, version.fingerprint, asked.likeliest)
        return await answered(request, asked, version, form, asked.prompts, "prompt")

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
        return {
            "id": name, "object": "model", "created": started, "owned_by": "kedge",
            "chat": has_template(service.live.lm.tokenizer), "feedback": service.store is not None,
        }  # fmt: skip

    async def answered(
        request: Request, asked: Asked, version: Version, form: Form, prompts: Sequence[Any], param: str
    ) -> Response:
        came = time.time()
        service.refuse_more_than_ever(len(prompts) * asked.n)
        passing = Passing(service, form, asked.user)
        async with version.kept():  # the guard may look longer at a prompt than a version is on trial
            prompts = await unless_gone(request, timely(service, passing.prompts(prompts, param)))
            encoded = await passing.encoded(prompts, param)
            try:
                sampling = asked.sampling(version.usual, service.room(encoded, param))
            except ValueError as error:
                raise refused(error) from None
            return await responded(request, asked, version, form, passing, prompts, encoded, sampling, came)

    async def responded(
        request: Request, asked: Asked, version: Version, form: Form, passing: Passing, prompts: Sequence[Any],
        encoded: list[list[int]], sampling: Sampling, came: float,
    ) -> Response:  # fmt: skip
        asking = service.ask(version, encoded, sampling, asked.n, asked.seed)

        def give(index: int, answer: Answer) -> Given:
            number = index // asked.n
            return passing.give(index, answer, asking, prompts[number], number, grows=asked.stream)

        def keep(given: Given) -> None:
            kept = given_answer(form, given, version, prompts[given.index // asked.n], asked.user)
            if service.store is not None:
                service.store.keep(kept, came)
            measure(service, kept, time.perf_counter() - given.answer.asked)

        if asked.stream:
            counted = asked.stream_options is not None and asked.stream_options.include_usage
            events = streamed(service, asking, form, encoded, give, keep, counted=counted)
            first = await unless_gone(request, anext(events))  # what is refused is so before a stream has begun
            headers = {"Cache-Control": "no-cache"}
            return ReadInTime(behind(first, events), service.limits.seconds, headers=headers)
        async with asking as answers:
            given = [give(index, answer) for index, answer in enumerate(answers)]
            texts = await unless_gone(request, timely(service, asyncio.gather(*(each.whole() for each in given))))
            for each in given:
                keep(each)
            choices = [whole_choice(form, each, text) for each, text in zip(given, texts, strict=True)]
            used = usage(encoded, [answer.ticket.request for answer in answers])
            return JSONResponse(form.whole(choices, used))

    return app
