"""What the built-in rewards share: a kind that reads answers as text, beside columns of the data.

A new one is a subclass of :class:`TextSpec` with ``KIND``, ``RANGE``, its settings and :meth:`TextSpec.one`; its class
stands in ``LIBRARY`` of ``rewards/kinds.py``, and its line in ``docs/reward-library.md``.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from kedge.config.settings import nearest
from kedge.data.records import Prompt, Text
from kedge.errors import ConfigError, RewardError
from kedge.rewards.foreign import TrainerState
from kedge.rewards.scores import AT_REST, Reward, Scores
from kedge.rewards.spec import Loading, RewardSpec
from kedge.runs.fingerprints import of_code, of_rows
from kedge.sampling.completion import Completion


class Said(NamedTuple):
    """What a reward says of one answer."""

    score: float | None
    """None: it does not judge this one."""
    remark: str = ""
    """Why, for who reads the samples."""


@dataclass(frozen=True)
class Sample:
    """One answer, and what it is judged by."""

    text: str
    prompt: Text = ""
    tokens: int | None = None
    """None where nobody counted them."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    where: str = "sample"

    def texts(self, column: str) -> list[str] | None:
        """A column that holds a text or a number, or a list of them: any of these is right. None where it is empty.

        Raises:
            RewardError: it holds something else.
        """
        value = self.columns.get(column)
        values = value if isinstance(value, list | tuple) else [value]
        if value is None:
            return None
        if not values or not all(isinstance(each, str | int | float) for each in values):
            raise RewardError(f"{self.where}: column {column!r} must hold a text, or a list of texts; it is {value!r}")
        return [str(each) for each in values]


class TextSpec(RewardSpec):
    """A reward that reads texts. Called from Python it is a reward function: ``Match()(["4"], answer=["4"])``."""

    def one(self, sample: Sample) -> Said:
        """What it says of one answer."""
        raise NotImplementedError

    def judge(self, samples: Sequence[Sample]) -> Sequence[Said]:
        """What it says of all answers of a call, those to one prompt together."""
        return [self.one(sample) for sample in samples]

    def wanted(self) -> Mapping[str, str]:
        """``{setting: column of the data}``."""
        return {}

    def prepare(self) -> None:
        """Import what it needs, and read its files; ConfigError where that cannot be done."""

    def files(self) -> Sequence[Path]:
        """Those that it reads: a resumed run must be given them unchanged."""
        return ()

    def contents(self) -> list[Any]:
        """What these files hold."""
        return [lines_of(path, self._called()) for path in self.files()]

    def build(self, loading: Loading) -> Reward:
        self.prepare()
        return TextReward(self)

    def refuse_missing_columns(self, there: Collection[str]) -> None:
        for setting, column in self.wanted().items():
            if column not in there:
                raise RewardError(
                    f"reward {self._called()!r} wants column {column!r}, which {setting}= names; there are: "
                    f"{', '.join(['prompt', *there])}"
                )
        self.prepare()

    def __call__(
        self, completions: Sequence[Any], prompts: Sequence[Any] | None = None, **columns: Any
    ) -> list[float | None]:
        """The scores of N answers: texts, or ``[{"role": "assistant", "content": ...}]`` each.

        Args:
            completions: the answers.
            prompts: what was asked, where that matters.
            **columns: of the data, lists of N; ``completion_ids``, the answers' tokens.
        """
        self.prepare()
        for setting, column in self.wanted().items():
            if column not in columns:
                given = nearest(column, [*columns]) if columns else "none is given"
                raise RewardError(f"{self._called()}: column {column!r}, which {setting}= names, is missing; {given}")
        ids = columns.get("completion_ids")
        lists = {name: values for name, values in columns.items() if isinstance(values, Sequence)}
        samples = [
            Sample(
                text=answer if isinstance(answer, str) else "\n".join(str(m["content"]) for m in answer),
                prompt="" if prompts is None else prompts[i],
                tokens=None if ids is None else len(ids[i]),
                columns={name: values[i] for name, values in lists.items()},
                where=f"sample {i}",
            )
            for i, answer in enumerate(completions)
        ]
        return [said.score for said in self.judge(samples)]

    def _called(self) -> str:
        return self.name or self._own_kind() or self.kind


class TextReward(Reward):
    """Lets a kind judge the answers.

    Args:
        spec: the kind.
        judge: what judges, where it is more than the kind itself: one with a model that has been loaded.
    """

    def __init__(self, spec: TextSpec, judge: Callable[[Sequence[Sample]], Sequence[Said]] | None = None) -> None:
        self.spec = spec
        self.judge = judge or spec.judge
        self.name = spec._called()

    def __call__(
        self, prompts: Sequence[Prompt], completions: Sequence[Completion], state: TrainerState = AT_REST
    ) -> Scores:
        samples = [
            Sample(c.text, p.text, len(c.ids) if c.ids else None, p.columns, f"reward {self.name!r}, {p.origin}")
            for p, c in zip(prompts, completions, strict=True)
        ]
        said = self.judge(samples)
        scores = [float("nan") if each.score is None else float(each.score) for each in said]
        remarks = {self.name: [each.remark for each in said]}
        return Scores(scores, [None] * len(scores), {self.name: scores}, remarks=remarks)

    def fingerprint(self) -> str:
        """Of the kind's source and of what its files hold."""
        files = self.spec.contents()
        return of_code(self.spec) + (f", files {of_rows(files)}" if files else "")


def lines_of(path: Path, who: str) -> list[str]:
    """The lines of a text file.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{who}: {path} cannot be read: {error}; paths are from the current folder") from None
