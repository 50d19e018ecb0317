"""Clients as a server meets them: those who wait, those who leave, those who read slowly, and those who send nonsense.

Each answer that came whole is held against what the version that is said to have written it writes alone.
"""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from kedge.models.language_model import load_language_model
from kedge.sampling.local.engine import Engine
from kedge.sampling.settings import Sampling

TOKENS = 24
SEEDS = 6
PROMPTS = (
    "Once upon a time", "Lily saw a big dog", "Tom and his mom went to the park. They", "The sun was warm and",
)  # fmt: skip
REFUSED = (400, 413, 415, 422)


def expected_of(model: Path) -> dict[tuple[str, int], str]:
    """What a model writes for each prompt and seed."""
    lm = load_language_model(model, device="cpu")
    engine, sampling = Engine(lm), Sampling(max_new_tokens=TOKENS)
    asked = [(prompt, seed) for prompt in PROMPTS for seed in range(SEEDS)]
    return {
        (prompt, seed): engine.generate([lm.tokenizer(prompt).input_ids], sampling, seed=seed)[0].text
        for prompt, seed in asked
    }


@dataclass
class Ledger:
    """What clients have met."""

    met: Counter = field(default_factory=Counter)
    acknowledged: set[str] = field(default_factory=set)
    """Keys of feedback that the server has confirmed."""
    owed: list[dict] = field(default_factory=list)
    """Feedback that it has not, and that is sent again."""
    examples: list[str] = field(default_factory=list)
    """Of what should not have been."""

    def bad(self, kind: str, told: object) -> None:
        """Something that should not have been."""
        self.met[f"BAD {kind}"] += 1
        if len(self.examples) < 10:
            self.examples.append(f"{kind}: {str(told)[:300]}")


@dataclass
class Crowd:
    """Clients of one server.

    Args:
        url: of the server.
        expected: by source of a version, what it writes.
        sources: by fingerprint of a version, its source; it grows while weights are switched.
    """

    url: str
    expected: Mapping[str, Mapping[tuple[str, int], str]]
    sources: dict[str, str]
    ledger: Ledger = field(default_factory=Ledger)
    going: bool = True
    dying: bool = False
    """Whether the server may be killed at any moment, so that broken connections are no fault."""

    async def run(self, clients: int, until: float, kinds: Sequence[str] = ()) -> None:
        """So many of them, until a moment of ``time.monotonic``."""
        async with httpx.AsyncClient(base_url=self.url, timeout=60, limits=httpx.Limits(max_connections=None)) as http:
            await asyncio.gather(
                *(self._one(http, random.Random(f"{i} {until}"), until, kinds) for i in range(clients))
            )

    async def _one(self, http: httpx.AsyncClient, rng: random.Random, until: float, kinds: Sequence[str]) -> None:
        ways = {
            "whole": self.whole, "stream": self.stream, "leaves": self.leaves, "slow": self.slow,
            "malformed": self.malformed, "oversized": self.oversized, "half": self.half, "hurried": self.hurried,
        }  # fmt: skip
        names = [*(kinds or ways)]
        while self.going and time.monotonic() < until:
            name = rng.choice(names)
            try:
                await ways[name](http, rng)
                self.ledger.met[name] += 1
            except httpx.TransportError as error:
                if self.dying:
                    await asyncio.sleep(0.1)
                else:
                    self.ledger.bad("connection", f"{name}: {error!r}")

    def asked(self, rng: random.Random, **more: object) -> tuple[tuple[str, int], dict]:
        """A prompt and a seed, and the request."""
        prompt, seed = rng.choice(PROMPTS), rng.randrange(SEEDS)
        body = {"model": "m", "prompt": prompt, "seed": seed, "max_tokens": TOKENS, "user": f"u{rng.randrange(9)}"}
        return (prompt, seed), body | more

    def check(self, key: tuple[str, int], text: str, fingerprint: str) -> None:
        """Whether a version has written what it writes alone."""
        source = self.sources.get(fingerprint)
        if source is None:
            self.ledger.bad("version", f"{fingerprint} was never deployed")
        elif text != self.expected[source][key]:
            self.ledger.bad("text", f"{fingerprint} {source} {key}: {text!r} and not {self.expected[source][key]!r}")
        else:
            self.ledger.met["checked"] += 1

    def usual(self, answer: httpx.Response) -> bool:
        """Whether it is an answer; a server that is full may say so."""
        if answer.status_code == 200:
            return True
        if answer.status_code == 429:
            self.ledger.met["429"] += 1
        elif not (self.dying and answer.status_code == 503):
            self.ledger.bad(f"status {answer.status_code}", answer.text)
        return False

    async def whole(self, http: httpx.AsyncClient, rng: random.Random) -> None:
        """Waits for the answer, and says what it thinks of it; sometimes twice."""
        key, body = self.asked(rng)
        answer = await http.post("/v1/completions", json=body)
        if not self.usual(answer):
            return
        told = answer.json()
        self.check(key, told["choices"][0]["text"], told["system_fingerprint"])
        given = {
            "key": f"{rng.getrandbits(64):x}",
            "body": {"id": told["id"], "index": 0, "thumb": rng.choice(["up", "down"]), "annotator": "a"},
        }
        for _ in range(rng.choice((1, 1, 2))):
            await self.say(http, given)
        if self.ledger.owed and rng.random() < 0.5:
            await self.say(http, self.ledger.owed.pop(0))

    async def say(self, http: httpx.AsyncClient, given: dict) -> None:
        """Send feedback; what is not confirmed is owed."""
        try:
            answer = await http.post("/v1/feedback", json=given["body"], headers={"Idempotency-Key": given["key"]})
        except httpx.TransportError:
            self.ledger.owed.append(given)
            raise
        if answer.status_code == 200:
            self.ledger.acknowledged.add(given["key"])
        elif answer.status_code == 503:
            self.ledger.met["feedback 503"] += 1
            self.ledger.owed.append(given)
        elif answer.status_code == 404 and self.dying:
            self.ledger.met["answer died with the server"] += 1
        else:
            self.ledger.bad(f"feedback {answer.status_code}", answer.text)

    async def stream(self, http: httpx.AsyncClient, rng: random.Random, pause: float = 0.0, most: int = 10**9) -> None:
        """Reads to the end, or to a piece of that number."""
        key, body = self.asked(rng, stream=True)
        text, fingerprint, ended = "", "", False
        async with http.stream("POST", "/v1/completions", json=body) as answer:
            if answer.status_code != 200:
                await answer.aread()
                self.usual(answer)
                return
            count = 0
            async for line in answer.aiter_lines():
                if line == "data: [DONE]":
                    ended = True
                if not line.startswith("data: {"):
                    continue
                told = json.loads(line[6:])
                if "error" in told:
                    self.ledger.bad("stream", line)
                    return
                fingerprint = told["system_fingerprint"]
                text += told["choices"][0]["text"]
                count += 1
                if count >= most:
                    return
                await asyncio.sleep(pause)
        if ended:
            self.check(key, text, fingerprint)
        elif not self.dying:
            self.ledger.bad("stream", "it ended before its end")

    async def leaves(self, http: httpx.AsyncClient, rng: random.Random) -> None:
        """Goes away in the middle."""
        await self.stream(http, rng, most=rng.randrange(1, 12))

    async def slow(self, http: httpx.AsyncClient, rng: random.Random) -> None:
        """Takes its time over every piece."""
        await self.stream(http, rng, pause=0.1)

    async def hurried(self, http: httpx.AsyncClient, rng: random.Random) -> None:
        """Gives up before the answer is there."""
        _, body = self.asked(rng, n=4)
        try:
            await http.post("/v1/completions", json=body, timeout=rng.uniform(0.005, 0.1))
        except httpx.TimeoutException:
            self.ledger.met["gave up"] += 1

    async def malformed(self, http: httpx.AsyncClient, rng: random.Random) -> None:
        """Sends what is no request."""
        _, body = self.asked(rng)
        whole = json.dumps(body).encode()
        bodies = (
            whole[: rng.randrange(len(whole))], rng.randbytes(200), b"[" * 5000, b"{}", b"null", b"",
            json.dumps(body | {"max_tokens": -1}).encode(), json.dumps(body | {"what": 1}).encode(),
            json.dumps(body | {"prompt": [[]]}).encode(), json.dumps(body | {"prompt": "\ud800"}).encode(),
            json.dumps(body | {"logit_bias": {"999999": 1}}).encode(), b'{"model": "m", "prompt": "a", "seed": 1e999}',
        )  # fmt: skip
        content = rng.choice(bodies)
        answer = await http.post("/v1/completions", content=content, headers={"Content-Type": "application/json"})
        if answer.status_code not in REFUSED:
            self.ledger.bad(f"malformed {answer.status_code}", f"{content[:80]!r}: {answer.text}")

    async def oversized(self, http: httpx.AsyncClient, rng: random.Random) -> None:
        """Sends more than is taken."""
        _, body = self.asked(rng, prompt="a" * 2**21)
        try:
            answer = await http.post("/v1/completions", json=body)
        except httpx.WriteError:  # it was not even read
            return
        if answer.status_code != 413:
            self.ledger.bad(f"oversized {answer.status_code}", answer.text)

    async def half(self, http: httpx.AsyncClient, rng: random.Random) -> None:
        """Promises a body, sends half of it, and is gone."""
        _, body = self.asked(rng)
        content = json.dumps(body).encode()
        at = httpx.URL(self.url)
        try:
            _, writer = await asyncio.open_connection(at.host, at.port)
            lines = "POST /v1/completions HTTP/1.1", "Host: x", "Content-Type: application/json"
            head = "\r\n".join([*lines, f"Content-Length: {len(content)}", "", ""])
            writer.write(head.encode() + content[: rng.randrange(len(content))])
            await writer.drain()
            writer.close()
            await writer.wait_closed()
        except OSError as error:
            raise httpx.ConnectError(str(error)) from error
