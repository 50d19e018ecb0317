"""A reward model that another process serves: texts go out, its scores come back, and it needs no room here."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

from pydantic import Field

from kedge.data.records import Prompt, joined
from kedge.errors import RewardError
from kedge.rewards.foreign import TrainerState
from kedge.rewards.library.services import Service, ServiceFailure, ServiceReward, ServiceSpec
from kedge.rewards.scores import AT_REST, Failure, Scores
from kedge.rewards.spec import Loading
from kedge.rewards.waiting import together
from kedge.sampling.completion import Completion
from kedge.waiting import all_of


class Remote(ServiceSpec):
    """A reward model behind ``kedge serve --reward-model FOLDER``, which gives the scores that it would give here.

    The service says which weights answer. A run whose service has others in the middle stops, and it is resumed only
    where the service has those that it began with; where that is, and under which name, may change.
    """

    KIND: ClassVar[str] = "remote"
    RANGE: ClassVar[str] = "as the model says"
    OPERATION: ClassVar[frozenset[str]] = ServiceSpec.OPERATION | {"url", "model"}

    url: str
    """Of the server, such as ``"http://localhost:8001"``."""
    model: str | None = None
    """As the server calls it; ``none``: whatever it serves."""
    batch_size: int = Field(32, ge=1, le=256)
    """Answers of a request."""

    def build(self, loading: Loading) -> ServiceReward:
        self.prepare()
        return RemoteReward(self)


class RemoteReward(ServiceReward):
    """Deals whole texts to requests."""

    spec: Remote

    def __init__(self, spec: Remote) -> None:
        super().__init__(spec)
        self.url = f"{spec.url.rstrip('/').removesuffix('/v1')}/v1"
        self.model = spec.model
        self.served = ""
        """The fingerprint of the weights that answer; nothing before the first answer."""

    async def later(
        self, prompts: Sequence[Prompt], completions: Sequence[Completion], state: TrainerState = AT_REST
    ) -> Scores:
        size = self.spec.batch_size
        batches = [range(i, min(i + size, len(prompts))) for i in range(0, len(prompts), size)]

        async def asked(service: Service, batch: range) -> list[float] | list[Failure]:
            mine, theirs = [prompts[i] for i in batch], [completions[i] for i in batch]
            try:
                return await self._scores(
                    service,
                    [joined(p.text, c.text) for p, c in zip(mine, theirs, strict=True)],
                    [each.text for each in theirs],
                )
            except ServiceFailure as error:
                return [self.failed(error, *sample) for sample in zip(mine, theirs, strict=True)]

        async with self.opened() as service:
            await self._find_model(service)
            found = await all_of([asked(service, batch) for batch in batches])
        flat = [each for part in found for each in part]
        failures = [each for each in flat if isinstance(each, Failure)]
        default = math.nan if self.spec.default is None else self.spec.default
        whole = [default if isinstance(each, Failure) else each for each in flat]
        scores = Scores(whole, [None] * len(whole), {self.name: whole})
        return scores if self.spec.default is None else replace(scores, failures={self.name: failures})

    def fingerprint(self) -> str:
        """Of the weights that answer there; the service is asked, and tried.

        Raises:
            RewardError: it has no answer.
        """

        async def trial() -> None:
            async with self.opened() as service:
                await self._find_model(service)
                try:
                    await self._scores(service, ["a"], ["a"])
                except ServiceFailure as error:
                    raise RewardError(f"reward {self.name!r}: the service {error}\n  service: {self.url}") from None

        if not self.served:
            together([trial()])
        return f"served {self.served}"

    async def _find_model(self, service: Service) -> None:
        """By which name to ask.

        Raises:
            RewardError: the service does not say.
        """
        if self.model is not None:
            return
        try:
            reply = await service.get(f"{self.url}/models")
            self.model = str(reply["data"][0]["id"])
        except ServiceFailure as error:
            raise RewardError(f"reward {self.name!r}: the service {error}\n  service: {self.url}") from None
        except (LookupError, TypeError) as error:
            raise RewardError(
                f"reward {self.name!r}: the service does not say what it serves; name it with model=\n  "
                f"service: {self.url}"
            ) from error

    async def _scores(self, service: Service, texts: Sequence[Any], answers: Sequence[str]) -> list[float]:
        """One request's.

        Raises:
            ServiceFailure: it has none. RewardError: other weights answer than before.
        """
        payload = {"model": self.model, "input": list(texts), "answers": list(answers)}
        reply, _ = await service.post(f"{self.url}/score", payload)
        try:
            served = str(reply["system_fingerprint"])
            scores = [float(each["score"]) for each in sorted(reply["data"], key=lambda each: int(each["index"]))]
        except (LookupError, TypeError, ValueError):
            raise ServiceFailure("errors", "gave no scores; is it `kedge serve --reward-model`?") from None
        if len(scores) != len(texts) or not all(map(math.isfinite, scores)):
            raise ServiceFailure("errors", f"gave {len(scores)} scores for {len(texts)} answers, or no finite ones")
        if self.served and served != self.served:
            raise RewardError(
                f"reward {self.name!r}: the service answers with other weights than it began with, {served} and not "
                f"{self.served}: scores of both are not to be compared. Serve those again and --resume, or begin "
                f"another run\n  service: {self.url}"
            )
        self.served = served
        return scores
