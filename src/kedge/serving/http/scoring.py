"""``/v1/score``: reward models over HTTP, beside a policy or alone, so that they need no room where one is trained."""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.responses import PlainTextResponse

from kedge import __version__
from kedge.data.records import Text
from kedge.errors import DataError
from kedge.serving.http.asked import ScoreAsked
from kedge.serving.http.errors import ApiError, answer_with_errors
from kedge.serving.http.gate import Gate
from kedge.serving.http.metrics import Metrics
from kedge.serving.http.panel import Panel

BODY = 2**24
"""Bytes of a request to a server that only scores: 256 texts of 64 KiB."""


class Scores:
    """What reward models say of texts, one request after another, off the server's loop.

    Args:
        panel: of them; None: there are none.
    """

    def __init__(self, panel: Panel | None) -> None:
        self.panel = panel
        self._turn = asyncio.Lock()

    async def __call__(self, asked: ScoreAsked) -> dict[str, Any]:
        """The reply to a request.

        Raises:
            ApiError: there is no reward model, or it cannot read the texts, or gives no number for one.
        """
        if self.panel is None:
            raise ApiError(404, "there is no reward model here; start the server with --reward-model")
        texts: list[Text] = [x if isinstance(x, str) else [m.model_dump() for m in x] for x in asked.input]
        async with self._turn:
            try:
                scores = await asyncio.to_thread(self.panel.score, texts, asked.answers)
            except DataError as error:
                raise ApiError(400, str(error), param="input", code="invalid_value") from None
            fingerprint = await asyncio.to_thread(self.panel.fingerprint)
        for index, score in enumerate(scores):
            if not math.isfinite(score):
                raise ApiError(422, f"input.{index}: the reward model gives {score}", param="input")
        data = [{"object": "score", "index": index, "score": score} for index, score in enumerate(scores)]
        return {"object": "list", "model": asked.model, "system_fingerprint": fingerprint, "data": data}


def score_route(app: FastAPI, scores: Scores, refuse_another: Callable[[str], None]) -> None:
    """Let an app answer it.

    Args:
        app: answers.
        scores: of what is asked.
        refuse_another: raises ApiError where another model is asked for.
    """

    @app.post("/v1/score")
    async def score(asked: ScoreAsked) -> dict[str, Any]:
        refuse_another(asked.model)
        return await scores(asked)


def create_scoring_app(name: str, panel: Panel, *, keys: Sequence[str] = ()) -> FastAPI:
    """A server of reward models and nothing else.

    Args:
        name: as clients ask for them.
        panel: of the models.
        keys: one of which a client must give; none: nothing is asked for.
    """
    metrics, started = Metrics(), int(time.time())
    app = FastAPI(title="kedge", version=__version__)
    app.add_middleware(Gate, keys={"": keys}, body=BODY, metrics=metrics)
    answer_with_errors(app)

    def refuse_another(model: str) -> None:
        if model != name:
            message = f"model: there is no {model!r} here; there is {name!r}"
            raise ApiError(404, message, param="model", code="model_not_found")

    score_route(app, Scores(panel), refuse_another)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": name, "object": "model", "created": started, "owned_by": "kedge"}]}

    @app.get("/health")
    @app.get("/ready")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/metrics")
    async def told() -> PlainTextResponse:
        return PlainTextResponse(metrics.text(), media_type="text/plain; version=0.0.4")

    return app
