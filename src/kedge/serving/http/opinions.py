"""What people say of answers, on its way from a request to the database."""

import asyncio
from concurrent.futures import Future
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Header

from kedge.serving.http.asked import FeedbackAsked
from kedge.serving.http.errors import ApiError
from kedge.serving.http.given import Given
from kedge.serving.http.service import Service
from kedge.serving.http.told import Form
from kedge.serving.http.version import Version
from kedge.serving.people.store import (
    AlreadyReviewedError,
    Feedback,
    GivenAnswer,
    KeyReusedError,
    NoSuchAnswerError,
    NotComparableError,
    NotKeptError,
    Store,
)


def store_of(service: Service) -> Store:
    """Where feedback is kept.

    Raises:
        ApiError: nowhere.
    """
    if service.store is None:
        raise ApiError(404, "no feedback is kept here; start the server with --feedback", code="no_feedback")
    return service.store


async def written(order: "Future[int]") -> int:
    """What the database says once it has it on disk, whether or not the client still waits.

    Raises:
        ApiError: it does not.
    """
    try:
        return await asyncio.shield(asyncio.wrap_future(order))
    except NoSuchAnswerError as error:
        raise ApiError(404, str(error), param="id", code="no_such_answer") from None
    except NotComparableError as error:
        raise ApiError(400, str(error), param="better_than", code="invalid_value") from None
    except KeyReusedError as error:
        raise ApiError(422, str(error), param="Idempotency-Key", code="idempotency_key_reused") from None
    except AlreadyReviewedError as error:
        raise ApiError(409, str(error), param="id", code="already_reviewed") from None
    except NotKeptError as error:
        raise ApiError(503, str(error), code="not_kept", retry_after=5) from None


def given_answer(form: Form, given: Given, version: Version, prompt: Any, person: str | None) -> GivenAnswer:
    """An answer that has been written to its end, as it is kept.

    Args:
        form: of the response that it is in.
        given: it.
        version: wrote it.
        prompt: as it was answered: a text, messages or tokens.
        person: who asked, where that was said.
    """
    done, sampling = given.answer.ticket.completion(), asdict(given.answer.ticket.request.sampling)
    return GivenAnswer(
        f"{form.name}:{given.index}", form.model, version.number, version.source, person, prompt, done.prompt_ids,
        done.text, done.ids, done.logprobs, sampling, done.finish_reason, given.held, given.told,
    )  # fmt: skip


def feedback_routes(service: Service) -> APIRouter:
    """``/v1/feedback``."""
    routes = APIRouter()

    @routes.post("/v1/feedback")
    async def take(
        asked: FeedbackAsked, idempotency_key: Annotated[str | None, Header(max_length=256)] = None
    ) -> dict[str, Any]:
        store = store_of(service)
        given = Feedback(
            asked.key,
            None if asked.thumb is None else int(asked.thumb == "up"),
            asked.score,
            None if asked.better_than is None else asked.better_than.key,
            asked.correction,
            asked.comment,
            asked.annotator,
            idempotency_key or None,
        )
        number = await written(store.take(given))
        if given.thumb is not None and service.versions.canary is not None:
            service.versions.canary.hear(given.answer, thumb=given.thumb)
            service.versions.decide()
        return {"object": "feedback", "number": number}

    return routes
