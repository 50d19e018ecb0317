"""The page: files that a browser reads as they are, from here alone."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from fastapi import APIRouter
from fastapi.responses import Response

from kedge.serving.http.errors import ApiError

FILES = Path(__file__).parents[1] / "page"

KINDS: Mapping[str, str] = MappingProxyType(
    {
        ".html": "text/html; charset=utf-8",
        ".css": "text/css; charset=utf-8",
        ".js": "text/javascript; charset=utf-8",  # the system's own list may not know it, and a browser must
        ".svg": "image/svg+xml",
    }
)

POLICY = (
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self'",
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
    "require-trusted-types-for 'script'",  # and there are none: no text becomes markup, whoever wrote it
    "trusted-types 'none'",
)
HEADERS: Mapping[str, str] = MappingProxyType(
    {
        "Content-Security-Policy": "; ".join(POLICY),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",  # another kedge has other files
    }
)


def page_routes() -> APIRouter:
    """``/`` and ``/page``: the same for everybody, without a key."""
    routes = APIRouter(include_in_schema=False)
    # By name and read once: whatever a path says, no other file can be reached.
    files = {path.name: path.read_bytes() for path in FILES.iterdir() if path.suffix in KINDS}

    @routes.get("/")
    async def front() -> Response:
        return told("index.html")

    @routes.get("/page/{name}")
    async def file(name: str) -> Response:
        return told(name)

    def told(name: str) -> Response:
        if name not in files:
            raise ApiError(404, f"there is no {name!r} here")
        return Response(files[name], media_type=KINDS[Path(name).suffix], headers=dict(HEADERS))

    return routes
