"""Whether an answer's code passes its tests."""

import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import ClassVar, Literal

from pydantic import Field

from kedge.errors import ConfigError, RewardError
from kedge.rewards.library.base import Said, Sample, TextSpec
from kedge.rewards.sandbox.run import Job, run
from kedge.rewards.spec import RewardSpec
from kedge.runs.fingerprints import of_settings
from kedge.runs.progress import say

_FENCED = re.compile(r"^[ \t]*(```+|~~~+)[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:^[ \t]*\1|\Z)", re.MULTILINE | re.DOTALL)


def code_in(text: str) -> str:
    """The last fenced block, of Python where there are such; the whole text where there is none."""
    blocks = [(match[2].lower(), match[3]) for match in _FENCED.finditer(text)]
    python = [code for language, code in blocks if language.startswith("py")]
    return [text, *(code for _, code in blocks), *python][-1]


class Code(TextSpec):
    """Whether an answer's Python code passes the tests in a column, such as MBPP's or HumanEval's.

    The code is run in a process of its own with limits, and the tests in another one, which calls its functions: what
    the code does to its own process changes no verdict. What keeps it from files, network and processes:
    docs/reward-library.md. The first test that fails is remarked on.
    """

    KIND: ClassVar[str] = "code"
    RANGE: ClassVar[str] = "0..1"

    column: str = "test_list"
    """Of the data: a list of assert lines, each a test, or a text with asserts in it."""
    entry_point: str | None = None
    """A column with the function that the tests' ``check`` is called with (HumanEval: ``"entry_point"``)."""
    prefix: str | None = None
    """A column that is put before the answer's code; ``"prompt"``: the prompt (HumanEval)."""
    setup: str | None = None
    """A column with code to run before the tests (MBPP: ``"test_setup_code"``)."""
    measure: Literal["all", "share"] = "all"
    """``all``: 1 where all tests pass, else 0; ``share``: the share of them that pass."""
    seconds: float = Field(10.0, gt=0)
    """For one answer with its tests, by the clock; as much of the processor's time."""
    memory: int = Field(512, ge=64)
    """MiB of each of an answer's processes."""
    packages: bool = False
    """Installed packages can be imported, besides the standard library."""
    workers: int | None = Field(None, ge=1)
    """Answers tested at once; ``none``: one for each core."""
    require_namespaces: bool = False
    """Refuse to start where the kernel gives no namespaces, rather than guard by an audit hook alone."""

    def wanted(self) -> Mapping[str, str]:
        columns = {"column": self.column, "entry_point": self.entry_point, "setup": self.setup, "prefix": self.prefix}
        return {name: column for name, column in columns.items() if column and (name, column) != ("prefix", "prompt")}

    def prepare(self) -> None:
        if os.name != "posix":
            raise ConfigError("code: answers are run under Linux and macOS only")
        if not _has_namespaces():
            if self.require_namespaces:
                raise ConfigError("code: the kernel gives no namespaces here; take require_namespaces out")
            _warn_once()

    def fingerprint(self) -> str:
        same = self.resolved().keys() - RewardSpec.model_fields.keys() - {"workers", "require_namespaces"}
        return of_settings({key: self.resolved()[key] for key in sorted(same)})

    def judge(self, samples: Sequence[Sample]) -> Sequence[Said]:
        executor = ThreadPoolExecutor(self.workers or _cores())
        try:
            return [*executor.map(self.one, samples)]
        finally:
            executor.shutdown(cancel_futures=True)

    def one(self, sample: Sample) -> Said:
        tests = sample.texts(self.column)
        if tests is None:
            return Said(None)
        prefix = self._prefix(sample)
        job = Job(
            prefix + code_in(sample.text),
            tests,
            prefix=prefix,
            setup=_lines(sample, self.setup),
            entry="".join(_lines(sample, self.entry_point)) or None,
            share=self.measure == "share",
            seconds=self.seconds,
            memory=self.memory * 2**20,
            packages=self.packages,
        )
        try:
            verdict = run(job)
        except RewardError as error:
            raise RewardError(f"{sample.where}: {error}") from None
        share = verdict.passed / verdict.total
        remark = f"{verdict.passed} of {verdict.total}: {verdict.said}" if verdict.said else ""
        return Said(share if self.measure == "share" else float(share == 1), remark)

    def _prefix(self, sample: Sample) -> str:
        if self.prefix == "prompt" and "prompt" not in sample.columns:
            if not isinstance(sample.prompt, str):
                raise RewardError(f"{sample.where}: prefix=prompt wants a prompt that is a text, and not messages")
            return sample.prompt
        return "".join(_lines(sample, self.prefix))


def _lines(sample: Sample, column: str | None) -> list[str]:
    """What a column holds, if there is one and something in it."""
    return (sample.texts(column) or []) if column and sample.columns.get(column) else []


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def _has_namespaces() -> bool:
    return run(Job("", ["assert True"])).walled


@cache
def _warn_once() -> None:
    say(
        "code: the kernel gives no namespaces here: an audit hook guards against accidents, and not against code that "
        "sets out to get round it; see docs/reward-library.md"
    )
