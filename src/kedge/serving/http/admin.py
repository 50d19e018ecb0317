"""Routes for whoever keeps the server: which weights answer."""

from typing import Any

from fastapi import APIRouter
from pydantic import Field

from kedge.errors import KedgeError
from kedge.serving.http.asked import Strict
from kedge.serving.http.canary import Terms
from kedge.serving.http.errors import ApiError
from kedge.serving.http.opinions import store_of, written
from kedge.serving.http.service import Service


class Trial(Strict):
    """On which terms it is tried first, see :class:`Terms`."""

    share: float = Field(gt=0, lt=1)
    error: float = Field(Terms.error, gt=0, lt=1)
    margin: float = Field(Terms.margin, gt=0)
    least: int = Field(Terms.least, ge=2)


class Deployment(Strict):
    """What is to answer from now on."""

    source: str = Field(min_length=1, max_length=1024)
    """A run, folder or hub id, as the server finds it."""
    canary: Trial | None = None
    """It answers a share of the people first; None: everybody at once."""


def admin_routes(service: Service) -> APIRouter:
    """``/admin``: behind keys of its own."""
    routes = APIRouter(prefix="/admin")

    @routes.get("/versions")
    async def versions() -> dict[str, Any]:
        return service.versions.told()

    @routes.post("/deploy")
    async def deploy(asked: Deployment) -> dict[str, Any]:
        try:
            await service.deploy(asked.source, None if asked.canary is None else Terms(**asked.canary.model_dump()))
        except KedgeError as error:
            raise ApiError(409, f"not deployed: {error}", param="source", code="not_deployed") from None
        return service.versions.told()

    @routes.post("/promote")
    async def promote() -> dict[str, Any]:
        try:
            service.versions.promote()
        except KedgeError as error:
            raise ApiError(409, str(error), code="not_deployed") from None
        return service.versions.told()

    @routes.post("/rollback")
    async def rollback() -> dict[str, Any]:
        try:
            service.versions.roll_back()
        except KedgeError as error:
            raise ApiError(409, str(error), code="not_deployed") from None
        return service.versions.told()

    @routes.get("/audit")
    async def audit() -> dict[str, Any]:
        if service.guard is None or service.guard.audit is None:
            raise ApiError(404, "there is no audit log here; start the server with --audit", code="no_audit")
        chain = service.guard.audit.chain
        return {"head": chain.head, "count": chain.count}

    @routes.delete("/people/{person:path}")
    async def forget(person: str) -> dict[str, Any]:
        return {"person": person, "deleted": await written(store_of(service).forget(person))}

    return routes
