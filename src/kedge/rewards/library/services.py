"""What rewards share that ask a service over HTTP: requests at once, tries, waits, and what counts as a failure."""

import asyncio
import math
import os
import random
import re
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, ClassVar, Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from kedge.config.optional import needed
from kedge.data.records import Prompt
from kedge.errors import ConfigError, RewardError
from kedge.rewards.foreign import TrainerState
from kedge.rewards.scores import AT_REST, Failure, Reason, Reward, Scores, shown
from kedge.rewards.spec import Loading, RewardSpec
from kedge.rewards.waiting import together
from kedge.runs.fingerprints import of_settings
from kedge.sampling.completion import Completion

AGAIN = frozenset({408, 409, 425, 429, *range(500, 600)})
"""Statuses after which a request is tried again."""
LONGEST_WAIT = 60.0
"""Seconds between two tries, whatever the service asks for."""

_VARIABLE = re.compile(r"\$\{(\w+)\}")
_CHANCE = random.Random()  # its own: the run's numbers come from its seed, whatever services do


class ServiceFailure(Exception):
    """A service has no answer, after all tries."""

    def __init__(self, reason: Reason, said: str) -> None:
        super().__init__(said)
        self.reason: Reason = reason


class ServiceSpec(RewardSpec):
    """Settings of a reward that asks a service."""

    timeout: float = Field(60.0, gt=0)
    """Seconds a request may take."""
    retries: int = Field(4, ge=0)
    """Tries after the first one, where the service cannot be reached, is late, or says 408, 409, 425, 429 or 5xx."""
    backoff: float = Field(0.5, ge=0)
    """Seconds before the second try, twice as many before each further one (a minute at most), less up to half of them
    by chance. A ``Retry-After`` of the service's counts where it is longer."""
    concurrency: int = Field(4, ge=1)
    """Requests at once."""
    headers: Mapping[str, str] = Field(default_factory=dict)
    """Of every request; ``${NAME}`` in one is the environment's variable, so that no secret stands in a recipe."""
    default: float | None = None
    """Score of a sample for which the service has none after all tries; ``none``: the run stops, and says which."""

    OPERATION: ClassVar[frozenset[str]] = frozenset(
        {"timeout", "retries", "backoff", "concurrency", "headers", "batch_size", "cache", "api_key_env", "base_url"}
    )
    """Settings that change no score: a resumed run may have others."""
    ADDRESS: ClassVar[str] = "url"

    @model_validator(mode="after")
    def _has_an_address(self) -> Self:
        address = getattr(self, self.ADDRESS)
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ValueError(
                f"{self.ADDRESS}: {address!r} is no address of a service; it begins with http:// or https://"
            )
        return self

    def refuse_missing_columns(self, there: Collection[str]) -> None:
        self.prepare()

    def prepare(self) -> None:
        """ConfigError where a library or a variable is missing."""
        needed("httpx", self.KIND, extra="services")
        self.all_headers()

    def all_headers(self) -> dict[str, str]:
        """With the environment's variables in them.

        Raises:
            ConfigError: one is not set.
        """
        return {name: _VARIABLE.sub(self._variable, value) for name, value in self.headers.items()}

    def fingerprint(self) -> str:
        settings = self.resolved()
        same = settings.keys() - RewardSpec.model_fields.keys() - self.OPERATION
        return of_settings({key: settings[key] for key in sorted(same)})

    def __call__(
        self, completions: Sequence[Any], prompts: Sequence[Any] | None = None, **columns: Any
    ) -> list[float | None]:
        """The scores of N answers, texts or messages, as a reward function gives them."""
        ids = columns.pop("completion_ids", None) or [[]] * len(completions)
        lists = {name: values for name, values in columns.items() if isinstance(values, Sequence)}
        given = [
            Prompt(
                "" if prompts is None else prompts[i],
                {name: values[i] for name, values in lists.items()},
                f"sample {i}",
            )
            for i in range(len(completions))
        ]
        self.refuse_missing_columns(lists)
        texts = [each if isinstance(each, str) else "\n".join(str(m["content"]) for m in each) for each in completions]
        answers = [Completion([], list(ids[i]), [0.0] * len(ids[i]), text, "eos") for i, text in enumerate(texts)]
        scores = self.build(Loading())(given, answers).components[self.called()]
        return [None if math.isnan(score) else score for score in scores]

    def called(self) -> str:
        """Under which it is logged."""
        return self.name or self._own_kind() or self.kind

    def _variable(self, match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            raise ConfigError(f"{self.KIND}: the environment's variable {match[1]}, which headers names, is not set")
        return os.environ[match[1]]


class Service:
    """One service, for as long as a reward waits for it."""

    def __init__(self, spec: ServiceSpec, client: Any) -> None:
        self.spec, self.client = spec, client
        self.turn = asyncio.Semaphore(spec.concurrency)

    async def post(self, url: str, payload: Mapping[str, Any]) -> tuple[Any, int]:
        """What the service replies, of JSON; and how many tries that took, beyond the first.

        Raises:
            ServiceFailure: it does not, after all tries, or refuses.
        """
        return await self._asked(lambda: self.client.post(url, json=payload))

    async def get(self, url: str) -> Any:
        """What it replies where nothing is sent.

        Raises:
            ServiceFailure: as :meth:`post`.
        """
        reply, _ = await self._asked(lambda: self.client.get(url))
        return reply

    async def _asked(self, request: Callable[[], Coroutine[Any, Any, Any]]) -> tuple[Any, int]:
        tried = 0
        while True:
            async with self.turn:
                reply, failure, asked = await self._once(request)
            if failure is None:
                return reply, tried
            if asked is None or tried == self.spec.retries:
                raise ServiceFailure(failure.reason, f"{failure}{f', tried {tried + 1} times' if tried else ''}")
            await self.rest(tried, asked)
            tried += 1

    async def rest(self, tried: int, asked: float = 0.0) -> None:
        """Wait before a further try: longer each time, and not in step with others."""
        own = min(LONGEST_WAIT, self.spec.backoff * 2.0**tried) * (1 - _CHANCE.random() / 2)
        await asyncio.sleep(max(own, min(asked, LONGEST_WAIT)))

    async def _once(
        self, request: Callable[[], Coroutine[Any, Any, Any]]
    ) -> tuple[Any, ServiceFailure | None, float | None]:
        """The reply; or what went wrong, and the seconds to wait before it makes sense to try again (None: never)."""
        httpx = needed("httpx", self.spec.KIND, extra="services")
        try:  # httpx has limits on each read only, and a service may trickle
            response = await asyncio.wait_for(request(), self.spec.timeout)
        except (httpx.TimeoutException, TimeoutError):
            return None, ServiceFailure("timeouts", f"took more than timeout={self.spec.timeout:g} seconds"), 0.0
        except httpx.TransportError as error:
            return None, ServiceFailure("errors", f"cannot be reached: {type(error).__name__}: {error}"), 0.0
        if response.status_code in AGAIN:
            asked = _seconds(response.headers.get("retry-after", ""))
            return None, ServiceFailure("errors", f"said {_excerpt(response)}"), asked
        if not response.is_success:
            return None, ServiceFailure("errors", f"said {_excerpt(response)}"), None
        try:
            return response.json(), None, None
        except ValueError:
            return None, ServiceFailure("errors", f"said what is no JSON: {_excerpt(response)}"), None


class ServiceReward(Reward):
    """Asks a service for scores, and waits for it beside others that wait."""

    def __init__(self, spec: ServiceSpec) -> None:
        self.spec = spec
        self.name = spec.called()
        self.all_headers = spec.all_headers()

    def __call__(
        self, prompts: Sequence[Prompt], completions: Sequence[Completion], state: TrainerState = AT_REST
    ) -> Scores:
        [scores] = together([self.later(prompts, completions, state)])
        assert isinstance(scores, Scores)
        return scores

    async def later(
        self, prompts: Sequence[Prompt], completions: Sequence[Completion], state: TrainerState = AT_REST
    ) -> Scores:
        raise NotImplementedError

    def fingerprint(self) -> str:
        return ""  # the settings tell all

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Service]:
        """The service, while one call lasts."""
        httpx = needed("httpx", self.spec.KIND, extra="services")
        limits = httpx.Limits(max_connections=self.spec.concurrency)
        async with httpx.AsyncClient(headers=self.all_headers, timeout=self.spec.timeout, limits=limits) as client:
            yield Service(self.spec, client)

    def failed(self, failure: ServiceFailure, prompt: Prompt, completion: Completion) -> Failure:
        """A sample that gets the default score.

        Raises:
            RewardError: there is no default.
        """
        said = f"reward {self.name!r}: the service {failure}"
        where = f"\n  service: {getattr(self.spec, self.spec.ADDRESS)}"
        if self.spec.default is None:
            fix = "; set default= to give such samples a score and go on"
            raise RewardError(f"{said}{fix}{shown(prompt, completion)}{where}")
        return Failure(failure.reason, f"{said}{shown(prompt, completion)}{where}")


def _seconds(asked: str) -> float:
    """Of a ``Retry-After``: seconds, or a date; 0 of anything else."""
    if re.fullmatch(r"\d+(\.\d+)?", asked.strip()):
        return float(asked)
    try:
        return max(0.0, (parsedate_to_datetime(asked) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return 0.0


def _excerpt(response: Any) -> str:
    text = " ".join(response.text.split())
    return f"{response.status_code}: {text[:200]!r}" if text else str(response.status_code)
