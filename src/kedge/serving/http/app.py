"""The server's routes."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from kedge import __version__
from kedge.data.encode import has_template
from kedge.serving.http.admin import admin_routes
from kedge.serving.http.asked import Asked, ChatAsked, CompletionAsked, ScoreAsked
from kedge.serving.http.errors import ApiError, answer_with_errors
from kedge.serving.http.gate import Gate
from kedge.serving.http.opinions import feedback_routes, given_answer
from kedge.serving.http.page import page_routes
from kedge.serving.http.quality import quality_routes
from kedge.serving.http.service import Answer, Service
from kedge.serving.http.streams import behind, streamed, timely, unless_gone
from kedge.serving.http.told import ChatForm, CompletionForm, Form, usage


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
        app.include_router(quality_routes(service))
    answer_with_errors(app)
    started = int(time.time())

    @app.post("/v1/chat/completions")
    async def chat(asked: ChatAsked, request: Request) -> Response:
        service.refuse_another(asked.model)
        messages = [message.model_dump() for message in asked.messages]
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
        texts = [x if isinstance(x, str) else [m.model_dump() for m in x] for x in asked.input]
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
        return {
            "id": name, "object": "model", "created": started, "owned_by": "kedge",
            "chat": has_template(service.live.lm.tokenizer), "feedback": service.store is not None,
        }  # fmt: skip

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
