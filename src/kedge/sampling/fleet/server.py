"""One vLLM server, as its client sees it: what is asked of it, how long one waits, and what went wrong.

Started as docs/fleet.md says. Checked against vLLM 0.32.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from kedge.config.optional import needed
from kedge.errors import ConfigError

AGAIN = frozenset({408, 429, 502, 503, 504})
"""Statuses after which a request is tried again."""
CONNECTING = 5.0
"""Seconds until a server that does not take a connection counts as gone."""
PAUSE = 0.5
"""Seconds before a second try, twice as many before the next."""


class ServerFailure(Exception):
    """A server has no answer, after all tries; the message names it and says what it did."""


class ServerRefusal(Exception):
    """A server will not do what it is asked, and no other would: the message has its words."""


class Server:
    """A server.

    Args:
        url: ``http://host:port``.
        timeout: seconds that a request may take.
        tries: how often one is made, where the server cannot be reached or is busy.

    Raises:
        ConfigError: no URL; httpx is not installed.
    """

    def __init__(self, url: str, *, timeout: float, tries: int) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ConfigError(f"sampler: {url!r} is no URL of a server; write http://host:port")
        self.url, self.timeout, self.tries = url.rstrip("/"), timeout, tries
        self._httpx = needed("httpx", "sampler: servers", "services")
        limits = self._httpx.Limits(max_connections=None)
        waits = self._httpx.Timeout(timeout, connect=min(CONNECTING, timeout), pool=None)
        self._client = self._httpx.Client(base_url=self.url, timeout=waits, limits=limits, trust_env=False)

    def generate(self, prompt: Sequence[int], params: Mapping[str, Any], label: str) -> Mapping[str, Any]:
        """The one answer to a prompt: ``ids``, ``logprobs`` and ``finish_reason``.

        Args:
            prompt: token ids.
            params: vLLM's sampling parameters.
            label: of the weights that are to answer; prompts share cached keys with those of the same label alone.

        Raises:
            ServerFailure, ServerRefusal: it has no answer, or has other weights.
        """
        body = {"token_ids": list(prompt), "sampling_params": dict(params), "cache_salt": label}
        said = self._post("/inference/v1/generate", body)
        try:
            [choice] = said["choices"]
            ids = [int(token) for token in choice["token_ids"]]
            logprobs = [float(each["logprob"]) for each in choice["logprobs"]["content"]]
            finish_reason = str(choice["finish_reason"])
            versions = {span["version"] for span in choice["weight_versions"]}
        except (KeyError, TypeError, ValueError) as error:
            raise ServerFailure(f"{self.url}: an answer of another form ({error!r}): {str(said)[:200]}") from None
        # Another reason is "abort", where somebody pauses or stops the server.
        if finish_reason not in ("stop", "length") or not ids or len(ids) != len(logprobs):
            raise ServerFailure(f"{self.url}: no whole answer: {str(said)[:200]}")
        if versions != {label}:
            raise ServerFailure(
                f"{self.url}: answers with weights {', '.join(map(str, sorted(versions)))} in place of {label}: it was "
                "started again, or another job has published to it"
            )
        return {"ids": ids, "logprobs": logprobs, "finish_reason": finish_reason}

    def load(self, folder: str, label: str) -> None:
        """Answer with the weights in a folder, under this label, and forget what was computed with others.

        Raises:
            ServerFailure, ServerRefusal: it does not.
        """
        try:
            self._post("/collective_rpc", {"method": "kedge_load", "kwargs": {"folder": folder}})
            said = self._post("/reset_prefix_cache", None)
            self._post("/update_weight_version", {"new_version": label})
        except (ServerFailure, ServerRefusal) as error:
            hint = f"does it see {folder}, and is it started as docs/fleet.md says?"
            raise type(error)(f"{error}\n{hint}") from None
        if said not in (None, {"success": True}):
            raise ServerFailure(f"{self.url}: keeps keys of old weights: /reset_prefix_cache says {said}")

    def _post(self, path: str, body: Any) -> Any:
        for number in range(1, self.tries + 1):
            last = number == self.tries
            try:
                reply = self._client.post(path, json=body)
            except self._httpx.TimeoutException as error:
                if isinstance(error, self._httpx.ConnectTimeout):
                    raise ServerFailure(f"{self.url}: takes no connection") from None
                what = f"no answer to {path} in {self.timeout:g} s; it hangs, or timeout is too short for its answers"
                raise ServerFailure(f"{self.url}: {what}") from None  # what hangs will hang again
            except self._httpx.TransportError as error:
                if last:
                    raise ServerFailure(f"{self.url}: {path}: {error or type(error).__name__}") from None
            else:
                if reply.is_success:
                    return self._read(reply, path)
                said = f"{self.url}: {path}: status {reply.status_code}: {reply.text[:300]}"
                if 400 <= reply.status_code < 500 and reply.status_code not in AGAIN:
                    raise ServerRefusal(said)
                if last or reply.status_code not in AGAIN:
                    raise ServerFailure(said)
            time.sleep(PAUSE * 2 ** (number - 1))
        raise AssertionError  # tries is at least 1

    def _read(self, reply: Any, path: str) -> Any:
        if not reply.content:
            return None
        try:
            return reply.json()
        except ValueError:
            raise ServerFailure(f"{self.url}: {path}: no JSON: {reply.text[:200]!r}") from None
