"""One vLLM server, as its client sees it: what is asked of it, how long one waits, and what went wrong.

Started as docs/fleet.md says, or by :mod:`kedge.sampling.fleet.started`. Checked against vLLM 0.32.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from kedge.config.optional import needed
from kedge.errors import ConfigError
from kedge.sampling.fleet.lora import NAME

AGAIN = frozenset({408, 429, 502, 503, 504})
"""Statuses after which a request is tried again."""
CONNECTING = 5.0
"""Seconds until a server that does not take a connection counts as gone."""
COUNTERS = ("vllm:generation_tokens_total", "vllm:prompt_tokens_total")
PAUSE = 0.5
"""Seconds before a second try, twice as many before the next."""


class ServerFailure(Exception):
    """A server has no answer, after all tries; the message names it and says what it did."""


class ServerRefusal(Exception):
    """A server will not do what it is asked, and no other would: the message has its words."""


@dataclass(frozen=True)
class Said:
    """An answer as a server gives it. What is a token wide lines up with ``ids``."""

    ids: Sequence[int]
    logprobs: Sequence[float]
    labels: Sequence[str]
    """Of the weights that wrote each token."""
    finish_reason: str


class Server:
    """A server. All that is ``async`` belongs to one event loop, until :meth:`close`.

    Args:
        url: ``http://host:port``.
        timeout: seconds that a request may take.
        tries: how often one is made, where the server cannot be reached or is busy.
        health_timeout: seconds in which it must say that it is well.
        stall_timeout: seconds in which its engine must do what takes no time.

    Raises:
        ConfigError: no URL; httpx is not installed.
    """

    def __init__(
        self, url: str, *, timeout: float, tries: int, health_timeout: float = 10.0, stall_timeout: float = 30.0
    ) -> None:
        self.url, self.timeout, self.tries = _checked(url), timeout, tries
        self.health_timeout, self.stall_timeout = min(health_timeout, timeout), min(stall_timeout, timeout)
        self._httpx = needed("httpx", "sampler: servers", "services")
        self._opened: Any = None

    async def generate(
        self, prompt: Sequence[int], params: Mapping[str, Any], label: str, *, adapted: bool = False
    ) -> Said:
        """The one answer to a prompt.

        Args:
            prompt: token ids.
            params: vLLM's sampling parameters.
            label: of the weights now; prompts share cached keys with those of the same label alone.
            adapted: whether these are an adapter's, beside those of its base.

        Raises:
            ServerFailure, ServerRefusal: it has no answer.
        """
        body: dict[str, Any] = {"token_ids": list(prompt), "sampling_params": dict(params), "cache_salt": label}
        if adapted:
            body["model"] = NAME
        said = await self._asked("POST", "/inference/v1/generate", body)
        try:
            [choice] = said["choices"]
            ids = [int(token) for token in choice["token_ids"]]
            logprobs = [float(each["logprob"]) for each in choice["logprobs"]["content"]]
            finish_reason = str(choice["finish_reason"])
            labels = [
                str(span["version"]) for span in choice["weight_versions"] for _ in range(span["start"], span["end"])
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise ServerFailure(f"{self.url}: an answer of another form ({error!r}): {str(said)[:200]}") from None
        # Another reason is "abort", where somebody pauses or stops the server.
        if finish_reason not in ("stop", "length") or not len(ids) == len(logprobs) == len(labels) > 0:
            raise ServerFailure(f"{self.url}: no whole answer: {str(said)[:200]}")
        return Said(ids, logprobs, labels, finish_reason)

    async def load(self, folder: str, label: str, base: str | None = None) -> None:
        """Answer with the weights in a folder, under this label, and forget what was computed with others.

        With ``base``, the folder has an adapter, and the other one the weights that it is for, which are read where the
        server has not read them yet.

        What is being written meanwhile stands still, and goes on with the new weights and under their label.

        Raises:
            ServerFailure, ServerRefusal: it does not.
        """
        await self.healthy()  # one that hangs should not cost a whole timeout
        soon = {"timeout": self.stall_timeout}
        try:
            await self._asked("POST", "/pause?mode=keep", None, **soon)
            if base is not None:
                await self._know_adapter(folder)
            whole = {"folder": folder} if base is None else {"folder": base, "adapter": folder}
            await self._asked("POST", "/collective_rpc", {"method": "kedge_load", "kwargs": whole})
            said = await self._asked("POST", "/reset_prefix_cache", None, **soon)
            await self._asked("POST", "/update_weight_version", {"new_version": label}, **soon)
            await self._asked("POST", "/resume", None, **soon)
        except (ServerFailure, ServerRefusal) as error:
            hint = f"does it see {folder}, and is it started as docs/fleet.md says?"
            raise type(error)(f"{error}\n{hint}") from None
        if said not in (None, {"success": True}):
            raise ServerFailure(f"{self.url}: keeps keys of old weights: /reset_prefix_cache says {said}")

    async def _know_adapter(self, folder: str) -> None:
        """Let it take requests for the adapter from here.

        Its front hears of it once: the front's ``load_inplace`` would have the engine read the folder again at every
        token (vLLM 0.32), and an answer that is being written go on with the old one. What is in it is the worker's.
        """
        if NAME in await self._models():
            return
        try:
            await self._replied("POST", "/v1/load_lora_adapter", {"lora_name": NAME, "lora_path": folder})
        except ServerRefusal as error:  # it was started again, and otherwise
            raise ServerFailure(f"{error}\nit takes no adapters") from None

    async def _models(self) -> list[str]:
        said = await self._asked("GET", "/v1/models", None)
        try:
            return [str(each["id"]) for each in said["data"]]
        except (KeyError, TypeError):
            raise ServerFailure(f"{self.url}: /v1/models: an answer of another form: {str(said)[:200]}") from None

    async def rank(self) -> int:
        """The largest rank of an adapter that it loads; 0: it loads none, or knows nothing of this question.

        Raises:
            ServerFailure: it has no answer.
        """
        try:
            said = await self._asked("POST", "/collective_rpc", {"method": "kedge_rank"}, tries=1)
            return min(map(int, said["results"]))
        except (ServerRefusal, KeyError, TypeError, ValueError):
            return 0

    async def healthy(self) -> None:
        """Hear that it is there and well.

        Raises:
            ServerFailure: it is not, or does not say so in ``health_timeout`` seconds.
        """
        await self._asked("GET", "/health", None, timeout=self.health_timeout, tries=1)

    async def positions(self) -> int | None:
        """The tokens of a prompt and its answer that it has room for; None where it does not say.

        Raises:
            ServerFailure, ServerRefusal: it has no answer.
        """
        said = await self._asked("GET", "/v1/models", None)
        try:
            return int(said["data"][0]["max_model_len"])
        except (KeyError, IndexError, TypeError, ValueError):
            return None

    async def tokens(self) -> float | None:
        """How many tokens its engine has read and written since it began; None where it does not say.

        Raises:
            ServerFailure, ServerRefusal: it has no answer.
        """
        reply = await self._replied("GET", "/metrics", None, timeout=self.health_timeout, tries=1)
        counts = [line.rpartition(" ")[-1] for line in reply.text.splitlines() if line.startswith(COUNTERS)]
        return sum(map(float, counts)) if counts else None

    async def close(self) -> None:
        """Close its connections; another event loop may open new ones."""
        opened, self._opened = self._opened, None
        if opened is not None:
            await opened.aclose()

    @property
    def _client(self) -> Any:
        if self._opened is None:
            limits = self._httpx.Limits(max_connections=None)
            waits = self._httpx.Timeout(self.timeout, connect=min(CONNECTING, self.timeout), pool=None)
            self._opened = self._httpx.AsyncClient(base_url=self.url, timeout=waits, limits=limits, trust_env=False)
        return self._opened

    async def _asked(self, method: str, path: str, body: Any, **how: Any) -> Any:
        reply = await self._replied(method, path, body, **how)
        if not reply.content:
            return None
        try:
            return reply.json()
        except ValueError:
            raise ServerFailure(f"{self.url}: {path}: no JSON: {reply.text[:200]!r}") from None

    async def _replied(
        self, method: str, path: str, body: Any, *, timeout: float | None = None, tries: int | None = None
    ) -> Any:
        timeout, tries = timeout or self.timeout, tries or self.tries
        for number in range(1, tries + 1):
            last = number == tries
            try:
                async with asyncio.timeout(timeout):  # all of it: httpx counts from each piece that comes
                    reply = await self._client.request(method, path, json=body)
            except (self._httpx.TimeoutException, TimeoutError) as error:
                if isinstance(error, self._httpx.ConnectTimeout):
                    raise ServerFailure(f"{self.url}: takes no connection") from None
                what = f"no answer to {path} in {timeout:g} s; it hangs, or timeout is too short for its answers"
                raise ServerFailure(f"{self.url}: {what}") from None  # what hangs will hang again
            except self._httpx.RequestError as error:
                if last and isinstance(error, self._httpx.ConnectError):
                    raise ServerFailure(f"{self.url}: takes no connection ({error})") from None
                if last:
                    raise ServerFailure(f"{self.url}: {path}: {str(error) or type(error).__name__}") from None
            else:
                if reply.is_success:
                    return reply
                said = f"{self.url}: {path}: status {reply.status_code}: {reply.text[:300]}"
                if 400 <= reply.status_code < 500 and reply.status_code not in AGAIN:
                    raise ServerRefusal(said)
                if last or reply.status_code not in AGAIN:
                    raise ServerFailure(said)
            await asyncio.sleep(PAUSE * 2 ** (number - 1))
        raise AssertionError  # tries is at least 1


def _checked(url: str) -> str:
    parts = urlsplit(url)
    try:
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:  # a port that is no number
        fine = False
    if not fine:
        raise ConfigError(
            f"sampler: {url!r} is no URL of a server; write http://host:port, such as http://10.0.0.2:8101"
        )
    return url.rstrip("/")
