"""Answers that people should look at: what the guard held, and what reward models do not agree about."""

import asyncio
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from pydantic import Field

from kedge.serving.http.asked import AnswerNamed, Kept, Strict
from kedge.serving.http.opinions import store_of, written
from kedge.serving.http.service import Service
from kedge.serving.people.store import Feedback

SHOWN = ("created", "model", "version", "prompt", "text", "told", "held", "disagreement", "finish_reason")
"""What a reviewer sees of an answer; who asked is not in it."""


class Verdict(Strict):
    """What a reviewer says of what the model wrote, whatever the client got."""

    verdict: Literal["good", "bad"]
    correction: Kept | None = Field(None, min_length=1)
    """What it should have been."""
    comment: Kept | None = Field(None, min_length=1)
    annotator: Kept | None = Field(None, min_length=1, max_length=256)


def review_routes(service: Service) -> APIRouter:
    """``/admin/review``."""
    routes = APIRouter(prefix="/admin/review")

    @routes.get("")
    async def queue(limit: Annotated[int, Query(ge=1, le=500)] = 50) -> dict[str, Any]:
        rows, waiting = await asyncio.to_thread(store_of(service).awaiting_review, limit)
        return {"object": "list", "data": [_shown(row) for row in rows], "waiting": waiting}

    @routes.post("/{id}/{index}")
    async def review(
        id: Annotated[Kept, Path(max_length=64)], index: Annotated[int, Path(ge=0, lt=10_000)], said: Verdict
    ) -> dict[str, Any]:
        given = Feedback(
            AnswerNamed(id=id, index=index).key,
            thumb=int(said.verdict == "good"),
            correction=said.correction,
            comment=said.comment,
            annotator=said.annotator,
        )
        return {"object": "feedback", "number": await written(store_of(service).review(given))}

    return routes


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    name, _, index = row["id"].rpartition(":")
    return {"id": name, "index": int(index)} | {key: row[key] for key in SHOWN}
