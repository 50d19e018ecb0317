"""``/admin/quality``: what people say of answers, over time."""

import asyncio
import time
from typing import Annotated, Any

from fastapi import APIRouter, Query
from sqlalchemy.exc import SQLAlchemyError

from kedge.serving.http.errors import ApiError
from kedge.serving.http.opinions import store_of
from kedge.serving.http.service import Service
from kedge.serving.people.quality import DAY, quality


def quality_routes(service: Service) -> APIRouter:
    """For whoever keeps the server."""
    routes = APIRouter(prefix="/admin")

    @routes.get("/quality")
    async def told(days: Annotated[int, Query(ge=1, le=3660)] = 30) -> dict[str, Any]:
        """A row a version and day; the last ``days``, today included."""
        engine, today = store_of(service).engine, int(time.time()) // DAY
        try:
            rows = await asyncio.to_thread(quality, engine, since=today - days + 1)
        except SQLAlchemyError as error:
            said = getattr(error, "orig", None) or error
            raise ApiError(503, f"the database cannot be read: {said}", code="not_read", retry_after=5) from None
        return {"object": "list", "data": rows}

    return routes
