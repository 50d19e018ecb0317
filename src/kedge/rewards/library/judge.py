"""A language model as a judge, behind any service that speaks OpenAI's chat completions."""

import asyncio
import math
import os
import statistics
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from kedge.data.records import Prompt
from kedge.errors import ConfigError, RewardError
from kedge.rewards.foreign import TrainerState
from kedge.rewards.library.judging import RUBRIC, columns_in, of_two, on_a_scale, pairs_of, score_in, winner_in
from kedge.rewards.library.replies import Kept, Reply, key_of
from kedge.rewards.library.services import Service, ServiceFailure, ServiceReward, ServiceSpec
from kedge.rewards.scores import AT_REST, Failure, Scores
from kedge.rewards.spec import Loading
from kedge.sampling.completion import Completion
from kedge.waiting import all_of

Read = Callable[[str], float | None]


class Judge(ServiceSpec):
    """Scores of a language model that judges by a rubric, over OpenAI's chat API.

    ``scale``: a score each, as a share of the scale. ``pairwise``: for ``num_generations`` of two or more, the share of
    comparisons with the other answers to the prompt that an answer wins, each asked in both orders; an answer that is
    alone is not judged. A reply that cannot be read is asked for again. Tokens, seconds and further tries stand in the
    metrics beside the score.
    """

    KIND: ClassVar[str] = "judge"
    RANGE: ClassVar[str] = "0..1"
    ADDRESS: ClassVar[str] = "base_url"

    base_url: str
    """Of the service, to which ``/chat/completions`` is added: ``"http://localhost:8000/v1"``."""
    model: str
    """The judge's name there."""
    api_key_env: str | None = None
    """Name of the environment's variable that holds the key."""
    measure: Literal["scale", "pairwise"] = "scale"
    """``scale``: each answer by itself; ``pairwise``: against the others to its prompt."""
    rubric: str = RUBRIC
    """What counts. A column of the data in braces is filled in; so are ``{prompt}`` and ``{answer}``, which otherwise
    follow the rubric."""
    lowest: int = 1
    """Worst score of the scale, 0 as a reward."""
    highest: int = 10
    """Best score of the scale, 1 as a reward."""
    opponents: int | None = Field(None, ge=1)
    """Compare each answer with so many that follow it; ``none``: with all."""
    request: Mapping[str, Any] = Field(default_factory=lambda: {"temperature": 0})
    """What else is sent: ``{ temperature = 0, max_tokens = 500 }``."""
    cache: Path | None = Path("runs/judge.sqlite")
    """File that keeps every reply, so that what was asked before costs nothing; ``none``: keep none."""

    USED_WHEN: ClassVar = {
        "lowest": ("measure", ("scale",)),
        "highest": ("measure", ("scale",)),
        "opponents": ("measure", ("pairwise",)),
    }

    @model_validator(mode="after")
    def _is_a_scale(self) -> Self:
        if self.lowest >= self.highest:
            raise ValueError(f"highest: {self.highest} must be above lowest={self.lowest}")
        if self.measure == "pairwise" and "{answer}" in self.rubric:
            raise ValueError("rubric: with measure=pairwise there are two answers, which follow it; take {answer} out")
        return self

    def refuse_missing_columns(self, there: Collection[str]) -> None:
        for column in columns_in(self.rubric):
            if column not in there:
                listed = ", ".join(["prompt", *there])
                raise RewardError(
                    f"reward {self.called()!r} wants column {column!r}, which rubric= names; there are: {listed}"
                )
        self.prepare()

    def all_headers(self) -> dict[str, str]:
        if self.api_key_env is None:
            return super().all_headers()
        if self.api_key_env not in os.environ:
            raise ConfigError(
                f"judge: the environment's variable {self.api_key_env}, which api_key_env names, is not set"
            )
        return {"Authorization": f"Bearer {os.environ[self.api_key_env]}", **super().all_headers()}

    def build(self, loading: Loading) -> "JudgeReward":
        self.prepare()
        return JudgeReward(self)


class Judged(NamedTuple):
    """What a reply says, and what it took."""

    score: float
    reply: Reply


class JudgeReward(ServiceReward):
    """Asks about each answer, or each pair, and reads the replies."""

    spec: Judge

    def __init__(self, spec: Judge) -> None:
        super().__init__(spec)
        self.kept = Kept(spec.cache)

    async def later(
        self, prompts: Sequence[Prompt], completions: Sequence[Completion], state: TrainerState = AT_REST
    ) -> Scores:
        async with self.opened() as service:
            bench = _Bench(self, service)
            try:
                judge = bench.each if self.spec.measure == "scale" else bench.pairs
                return await judge(prompts, completions)
            finally:
                await bench.end()

    def scores(self, found: Sequence[Sequence[Judged] | Failure], remarks: list[str]) -> Scores:
        """Of N answers, each of which some replies are about, or none; or that has failed."""
        judged = [[] if isinstance(each, Failure) else each for each in found]
        values = [statistics.fmean(one.score for one in each) if each else math.nan for each in judged]
        for i, each in enumerate(found):
            if isinstance(each, Failure) and self.spec.default is not None:
                values[i] = self.spec.default
        took = {
            "tokens": [math.fsum(one.reply.tokens for one in each) for each in judged],
            "seconds": [statistics.fmean(one.reply.seconds for one in each) if each else 0.0 for each in judged],
            "retries": [math.fsum(one.reply.tries for one in each) for each in judged],
        }
        components = {self.name: values} | {
            f"{self.name}_{what}": [x if each else math.nan for x, each in zip(numbers, judged, strict=True)]
            for what, numbers in took.items()
        }
        failures = [each for each in found if isinstance(each, Failure)]
        counted = {} if self.spec.default is None else {self.name: failures}
        return Scores(values, [None] * len(values), components, failures=counted, remarks={self.name: remarks})


class _Bench:
    """One call's questions, each asked once."""

    def __init__(self, reward: JudgeReward, service: Service) -> None:
        self.reward, self.service, self.spec = reward, service, reward.spec
        self.asked: dict[str, asyncio.Future[Judged]] = {}

    async def each(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> Scores:
        lowest, highest = self.spec.lowest, self.spec.highest

        async def one(prompt: Prompt, completion: Completion) -> Judged | Failure:
            question = on_a_scale(self.spec.rubric, prompt, completion.text, lowest, highest)
            try:
                return await self.judged(question, lambda reply: score_in(reply, lowest, highest), f"Score: {highest}")
            except ServiceFailure as failure:
                return self.reward.failed(failure, prompt, completion)

        found = await all_of([one(p, c) for p, c in zip(prompts, completions, strict=True)])
        remarks = ["" if isinstance(each, Failure) else _short(each.reply.text) for each in found]
        return self.reward.scores([each if isinstance(each, Failure) else [each] for each in found], remarks)

    async def pairs(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> Scores:
        async def one(i: int, j: int) -> tuple[Judged, Judged] | Failure:
            texts = completions[i].text, completions[j].text
            if texts[0] == texts[1]:
                return Judged(0.5, Reply("")), Judged(0.5, Reply(""))
            questions = [of_two(self.spec.rubric, prompts[i], *order) for order in (texts, texts[::-1])]
            try:
                ahead, behind = await all_of([self.judged(each, winner_in, "Winner: A") for each in questions])
            except ServiceFailure as failure:
                return self.reward.failed(failure, prompts[i], completions[i])
            share = (ahead.score + 1 - behind.score) / 2
            half = Reply("", *((a + b) / 2 for a, b in zip(ahead.reply[1:], behind.reply[1:], strict=True)))
            return Judged(share, half), Judged(1 - share, half)

        which = pairs_of(prompts, self.spec.opponents)
        found = await all_of([one(i, j) for i, j in which])
        mine: list[list[Judged]] = [[] for _ in prompts]
        failed: dict[int, Failure] = {}
        for (i, j), each in zip(which, found, strict=True):
            if isinstance(each, Failure):
                failed |= {i: each, j: each}
            else:
                mine[i].append(each[0])
                mine[j].append(each[1])
        remarks = [f"won {sum(one.score for one in each):g} of {len(each)}" if each else "" for each in mine]
        return self.reward.scores([failed.get(i, mine[i]) for i in range(len(prompts))], remarks)

    async def judged(self, question: str, read: Read, form: str) -> Judged:
        """What the judge says, or said before."""
        first = question not in self.asked
        if first:
            self.asked[question] = asyncio.ensure_future(self._judged(question, read, form))
        judged = await asyncio.shield(self.asked[question])  # others may wait for it when one has given up
        return judged if first else Judged(judged.score, Reply(judged.reply.text))

    async def end(self) -> None:
        """Ask no further."""
        for asking in self.asked.values():
            asking.cancel()
        await asyncio.gather(*self.asked.values(), return_exceptions=True)

    async def _judged(self, question: str, read: Read, form: str) -> Judged:
        messages = [{"role": "user", "content": question}]
        request = {**self.spec.request, "model": self.spec.model, "messages": messages}
        key = key_of(request)
        kept = self.reward.kept.get(key)
        score = None if kept is None else read(kept.text)
        if kept is not None and score is not None:
            return Judged(score, kept)
        began, tokens, repeated = time.monotonic(), 0.0, 0
        for tried in range(self.spec.retries + 1):
            text, used, tries = await self._reply(request)
            tokens, repeated = tokens + used, repeated + tries
            score = read(text)
            if score is not None:
                reply = Reply(text, tokens, time.monotonic() - began, tried + repeated)
                self.reward.kept.keep(key, reply)
                return Judged(score, reply)
            request = request | {"messages": [*messages, *_asked_again(text, form)]}
            if tried < self.spec.retries:
                await self.service.rest(tried)
        raise ServiceFailure(
            "errors", f"gave no judgement, tried {self.spec.retries + 1} times; the last: {_short(text)!r}"
        )

    async def _reply(self, request: Mapping[str, Any]) -> tuple[str, float, int]:
        reply, tries = await self.service.post(f"{self.spec.base_url.rstrip('/')}/chat/completions", request)
        try:
            text, usage = reply["choices"][0]["message"]["content"], reply.get("usage") or {}
            return str(text or ""), float(usage.get("total_tokens") or 0), tries
        except (KeyError, IndexError, TypeError, ValueError, AttributeError):
            return "", 0.0, tries


def _asked_again(text: str, form: str) -> list[dict[str, str]]:
    again = f"That cannot be read. Reply with one line and nothing else, such as `{form}`."
    return [{"role": "assistant", "content": text}, {"role": "user", "content": again}] if text else []


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 300 else line[:297] + "..."
