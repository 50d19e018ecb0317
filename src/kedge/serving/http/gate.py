"""Before anything else sees a request: its key, its size; and behind it: the count of what became of it."""

import hmac
import logging
import traceback
from collections.abc import Mapping, Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kedge.serving.http.errors import ApiError
from kedge.serving.http.metrics import Metrics

log = logging.getLogger("kedge.serving")

OPEN = ("/", "/health", "/ready")
"""Answered without a key: a load balancer has none, nor has a browser before somebody types it into the page."""

OPEN_BELOW = "/page/"
"""And all of the page's files, which are the same for everybody."""


class Gate:
    """ASGI middleware.

    Args:
        app: behind it.
        keys: ``{beginning of the path: keys}``, the longer ones first; one of those of the first that fits must be
            given as a bearer token, and where there are none nothing is asked for.
        body: bytes that a request may have.
        metrics: count the answers.
    """

    def __init__(self, app: ASGIApp, *, keys: Mapping[str, Sequence[str]], body: int, metrics: Metrics) -> None:
        self.app = app
        self.keys = {path: [key.encode() for key in several] for path, several in keys.items()}
        self.body = body
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        begun = False

        async def counted(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                route = getattr(scope.get("route"), "path", "none")  # not the path, of which there are endlessly many
                self.metrics.requests.labels(route, message["status"]).inc()
            await send(message)

        try:
            self._refuse_stranger(scope)
            taken = await self._within_limit(scope, receive)
        except ApiError as error:
            await error.response()(scope, receive, counted)
            return
        try:
            await self.app(scope, taken, counted)
        except Exception as error:  # whatever it is, the client hears of it, and the server goes on
            where = "".join(traceback.format_tb(error.__traceback__))  # not its message, which may quote the request
            log.error("a request failed with %s:\n%s", type(error).__name__, where)
            if begun:
                raise
            message = "the server could not answer; its log says why"
            await ApiError(500, message).response()(scope, receive, counted)

    def _refuse_stranger(self, scope: Scope) -> None:
        keys = next((several for path, several in self.keys.items() if scope["path"].startswith(path)), [])
        if not keys or scope["path"] in OPEN or scope["path"].startswith(OPEN_BELOW):
            return
        given = dict(scope["headers"]).get(b"authorization", b"")
        kind, _, token = given.partition(b" ")
        # All are compared, so that the time does not tell which one was nearly right.
        matches = [hmac.compare_digest(token, key) for key in keys]
        if kind.lower() != b"bearer" or not any(matches):
            raise ApiError(401, "no key, or a wrong one: send it as Authorization: Bearer KEY", code="invalid_api_key")

    async def _within_limit(self, scope: Scope, receive: Receive) -> Receive:
        """The request's body, read; what comes after it is still received."""
        too_large = ApiError(413, f"the body is larger than {self.body} bytes", code="too_large")
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length) > self.body:
            raise too_large
        parts, size, more = [], 0, True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                break
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self.body:
                raise too_large
            more = message.get("more_body", False)
        whole = iter([{"type": "http.request", "body": b"".join(parts), "more_body": False}])

        async def taken() -> Message:
            return next(whole, None) or await receive()

        return taken
