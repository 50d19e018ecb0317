"""Any service as a reward: prompts and completions go out as JSON, scores come back."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from pydantic import Field

from kedge.data.records import Prompt
from kedge.errors import RewardError
from kedge.rewards.foreign import TrainerState
from kedge.rewards.function import FunctionReward, Item
from kedge.rewards.library.services import Service, ServiceFailure, ServiceReward, ServiceSpec
from kedge.rewards.scores import AT_REST, Failure, Scores
from kedge.rewards.spec import Loading
from kedge.sampling.completion import Completion
from kedge.waiting import all_of


class HTTP(ServiceSpec):
    """Scores of any service over HTTP.

    It gets POST requests with ``{"prompts": [...], "completions": [...]}``, texts or messages as a reward function has
    them, with a list for each column that ``columns`` names; and answers ``{"scores": [...]}`` or the list alone: a
    number each, ``null`` (it does not judge that one), or a list of numbers, one a token.
    """

    KIND: ClassVar[str] = "http"
    RANGE: ClassVar[str] = "as the service says"

    url: str
    """Of the service, such as ``"http://localhost:8000/score"``."""
    columns: tuple[str, ...] = ()
    """Of the data, sent too; ``completion_ids``: the answers' tokens."""
    batch_size: int = Field(32, ge=1)
    """Answers of a request. The answers to one prompt stand together, and may be dealt to two requests."""

    def refuse_missing_columns(self, there: Collection[str]) -> None:
        for column in self.columns:
            if column not in {*there, "completion_ids"}:
                listed = ", ".join(["prompt", *there])
                raise RewardError(
                    f"reward {self.called()!r} wants column {column!r}, which columns= names; there are: {listed}"
                )
        self.prepare()

    def build(self, loading: Loading) -> ServiceReward:
        self.prepare()
        return HTTPReward(self)


class HTTPReward(ServiceReward):
    """Deals the answers to requests."""

    spec: HTTP

    async def later(
        self, prompts: Sequence[Prompt], completions: Sequence[Completion], state: TrainerState = AT_REST
    ) -> Scores:
        reader = FunctionReward(_any_columns, self.name)
        whole = reader.arguments(prompts, completions)
        sent = {name: whole[name] for name in ("prompts", "completions", *self.spec.columns)}
        size = self.spec.batch_size
        batches = [range(i, min(i + size, len(prompts))) for i in range(0, len(prompts), size)]

        async def asked(service: Service, batch: range) -> list[Item] | list[Failure]:
            mine, theirs = [prompts[i] for i in batch], [completions[i] for i in batch]
            try:
                reply, _ = await service.post(
                    self.spec.url, {name: [values[i] for i in batch] for name, values in sent.items()}
                )
                return reader.checked(reply.get("scores") if isinstance(reply, dict) else reply, mine, theirs)
            except RewardError as error:
                failure = ServiceFailure("errors", f"gave no scores: {error}")
            except ServiceFailure as error:
                failure = error
            return [self.failed(failure, *sample) for sample in zip(mine, theirs, strict=True)]

        async with self.opened() as service:
            found = await all_of([asked(service, batch) for batch in batches])
        flat = [each for part in found for each in part]
        failures = [each for each in flat if isinstance(each, Failure)]
        items: list[Item] = [self.spec.default if isinstance(each, Failure) else each for each in flat]
        scores = reader.scores(items)
        return scores if self.spec.default is None else replace(scores, failures={self.name: failures})


def _any_columns(**columns: Any) -> list[Item]:
    raise NotImplementedError  # it is the service that is called
