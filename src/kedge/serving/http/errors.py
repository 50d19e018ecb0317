"""What a client hears when something is wrong, in OpenAI's form."""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

KINDS = {401: "authentication_error", 429: "rate_limit_error", 503: "overloaded_error"}
"""``error.type`` by status; of others ``invalid_request_error`` below 500 and ``server_error`` from there on."""


class ApiError(Exception):
    """An answer that is none.

    Args:
        status: of HTTP.
        message: what is wrong and how to mend it.
        param: the parameter that it is about.
        code: for programs.
        retry_after: seconds after which it may be asked again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.retry_after = retry_after

    def body(self) -> dict[str, Any]:
        """As JSON."""
        kind = KINDS.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """As HTTP."""
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.body(), self.status, headers)


def refused(error: Exception) -> ApiError:
    """What is wrong with a request's values, of which the message names the parameter first."""
    said = str(error)
    name, colon, _ = said.partition(":")
    return ApiError(400, said, param=name if colon and name.isidentifier() else None, code="invalid_value")


def of_validation(errors: list[dict[str, Any]]) -> ApiError:
    """The first thing that is wrong with a request, named by its parameter."""
    first = errors[0]
    place = [str(part) for part in first["loc"] if part != "body"]
    if place[:1] == ["prompt"] and first["type"] != "missing":  # one of several types, each of which has been tried
        return ApiError(
            400, "prompt: a text, tokens, or several of them, and none of these without anything in it", param="prompt",
            code="invalid_value",
        )  # fmt: skip
    param = ".".join(place) or None
    if first["type"] == "json_invalid":
        return ApiError(400, f"the body is no JSON: {first['ctx']['error']}")
    if first["type"] in ("model_attributes_type", "dict_type") and not place:
        return ApiError(400, "the body must be a JSON object, sent as Content-Type: application/json")
    if first["type"] == "extra_forbidden":
        return ApiError(400, f"{param}: not supported here; take it out", param=param, code="unsupported_parameter")
    if first["type"] == "missing":
        return ApiError(400, f"{param or 'the body'}: missing", param=param, code="missing_required_parameter")
    said = str(first["msg"]).removeprefix("Value error, ")
    return ApiError(400, f"{param}: {said}", param=param, code="invalid_value") if param else refused(ValueError(said))


def answer_with_errors(app: FastAPI) -> None:
    """Let an app say what is wrong in that form, whatever it is."""

    @app.exception_handler(ApiError)
    async def _known(request: Request, error: ApiError) -> JSONResponse:
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return of_validation([dict(each) for each in error.errors()]).response()

    @app.exception_handler(HTTPException)
    async def _of_http(request: Request, error: HTTPException) -> JSONResponse:
        return ApiError(error.status_code, str(error.detail)).response()
