"""What there is to learn, in one shape: rows, prompts, demonstrations, a reward, metrics and a baseline.

A task of one's own is one file with a subclass of :class:`Task`; see ``docs/tasks.md``.
"""

import hashlib
import inspect
import random
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from types import FunctionType
from typing import Any, ClassVar, Literal, get_args

from kedge.config.settings import nearest, several
from kedge.data.encode import Tokenizer, encode_prompt
from kedge.data.records import Text, as_messages, read_prompts
from kedge.errors import ConfigError, DataError
from kedge.evaluation.evaluate import Evaluation, judge_answers, named_judges
from kedge.models.loading import load_tokenizer
from kedge.rewards.build import RewardLike, build_reward
from kedge.rewards.scores import Reward
from kedge.sampling.completion import Completion

Split = Literal["train", "eval"]
"""What is trained on, and what never is."""

Row = Mapping[str, Any]


def held_out(text: str) -> bool:
    """Whether a text is in the fifth that is held out, by its hash: for data of which nobody has published a split."""
    return int(hashlib.sha256(text.encode()).hexdigest(), 16) % 5 == 0


class Task(ABC):
    """Rows from where they are, and what to make of them. What a stage takes is made of these, see below."""

    name: ClassVar[str]
    """What it is called where tasks are listed."""
    reward: RewardLike | Sequence[RewardLike] | None = None
    """What PPO trains on, in any form that ``PPO`` takes; None: a reward model, to be learnt from the preferences."""
    metrics: RewardLike | Sequence[RewardLike] = ()
    """Judges of which PPO is told nothing, or parts of the reward by themselves; under the names that the field gives
    them."""
    primary_metric: ClassVar[str] = "score"
    """The measure that the field compares policies by: ``score`` (the reward), a metric, or one of :meth:`measures`; a
    minus in front: the smaller the better."""
    temperature: ClassVar[float] = 0.0
    """At which policies answer held-out rows: 0, greedily, where one answer is right; 1 where many are good."""
    needs: ClassVar[str] = ""
    """Where its data comes from and under which licence, for who has to get it; nothing where none is needed."""
    model: ClassVar[str | Path | None] = None
    """What training begins with: a hub id or folder; None: a new small model made for the demonstrations."""
    new: ClassVar[Mapping[str, Any]] = {}
    """Of that new model: arguments of :func:`kedge.tasks.starting.new_model`."""
    sft: ClassVar[Mapping[str, Any]] = {}
    """Settings of SFT, where ``kedge task`` runs it."""
    reward_modeling: ClassVar[Mapping[str, Any]] = {}
    """Settings of the reward model, where the reward is learnt."""
    ppo: ClassVar[Mapping[str, Any]] = {}
    """Settings of PPO."""

    def __init_subclass__(cls, **how: Any) -> None:
        """``reward = my_function`` in a class is that function, and no method that is given the task first."""
        super().__init_subclass__(**how)
        for key in ("reward", "metrics"):
            given = vars(cls).get(key)
            if isinstance(given, FunctionType) and next(iter(inspect.signature(given).parameters), "") != "self":
                setattr(cls, key, staticmethod(given))

    # What a task brings -----------------------------------------------------------------------------------------

    @abstractmethod
    def rows(self, split: Split) -> Iterable[Row]:
        """The rows of a split. What columns they have is the task's own affair; the reward gets them by name."""

    @abstractmethod
    def prompt(self, row: Row) -> Text:
        """What the policy is asked: plain text, or chat messages."""

    def demonstration(self, row: Row) -> str | None:
        """What one would answer; None where nobody has said it."""
        return None

    def is_demonstrated(self, row: Row) -> bool:
        """Whether SFT is shown the row's demonstration: there may be fewer of them than answers that can be judged."""
        return True

    def baseline(self, row: Row) -> str | None:
        """What a sceptic would answer without any learning; None: the task has no such answer."""
        return None

    def others(self, row: Row) -> Mapping[str, str]:
        """Further answers of whoever is no policy, by name, to stand beside the baseline's; none by default."""
        return {}

    def read(self, row: Row, answer: str) -> Any:
        """What an answer says, as :meth:`measures` takes it: whatever takes time is done here, once an answer."""
        return answer

    def measures(self, rows: Sequence[Row], said: Sequence[Any]) -> dict[str, float]:
        """What is true of all answers together and no mean over them, such as macro-averaged F1; nothing by default.

        It is asked hundreds of times, for the intervals.

        Args:
            rows: some of a split's, some of them more than once.
            said: what :meth:`read` made of the answer to each.
        """
        return {}

    def group(self, row: Row) -> Hashable | None:
        """What a row has in common with others that resemble it, such as its document: the bootstrap draws these
        together. None: nothing, a row is drawn by itself."""
        return None

    def preferences(self, split: Split) -> list[Row]:
        """Rows of ``prompt``, ``chosen`` and ``rejected``, to learn a reward model from; none by default."""
        return []

    def keep(self, folder: Path, rows: Sequence[Row], answers: Sequence[str]) -> None:  # noqa: B027 (most keep nothing)
        """Write what else of PPO's answers is worth a file; nothing by default.

        Args:
            folder: ``kept`` of the task's run.
            rows: held out.
            answers: one to each, of the first seed.
        """

    # What the stages take ---------------------------------------------------------------------------------------

    def all_rows(self, split: Split, limit: int | None = None) -> list[Row]:
        """The rows of a split, at least one; of more than ``limit`` so many, always the same ones, from anywhere in it:
        files are often in the order of their labels.

        Raises:
            ConfigError: no such split. DataError: it has no rows.
        """
        self.refuse_unknown(split)
        found = list(self.rows(split) or ())
        for number, row in enumerate(found, start=1):
            if not isinstance(row, Mapping):
                what = type(row).__name__
                raise DataError(f"{self.name}: row {number} of rows({split!r}) is a {what}, not a dict of columns")
        if not found:
            raise DataError(f"{self.name}: no rows of split {split!r}")
        if limit is None or len(found) <= limit:
            return found
        return [found[i] for i in sorted(random.Random(0).sample(range(len(found)), limit))]

    def prompts(self, split: Split, limit: int | None = None) -> list[dict[str, Any]]:
        """Rows for ``PPO(prompts=...)``: the prompt, and the row's other columns for the reward; of :meth:`all_rows`.

        Raises:
            ConfigError: no such split. DataError: it has no rows, or one without a prompt.
        """
        return self.prompts_of(self.all_rows(split, limit), split)

    def demonstrations(self, split: Split = "train") -> list[dict[str, Any]]:
        """Rows of ``prompt`` and ``completion`` for ``SFT``, of those rows that have one.

        Raises:
            ConfigError: no such split. DataError: it has no rows.
        """
        rows = filter(self.is_demonstrated, self.all_rows(split))
        shown = [(self.prompt(row), self.demonstration(row)) for row in rows]
        return [
            {"prompt": prompt, "completion": answer if isinstance(prompt, str) else as_messages(answer)}
            for prompt, answer in shown
            if answer is not None
        ]

    def judges(self) -> dict[str, Reward]:
        """The reward as ``score``, where it is not yet to be learnt, and the metrics by name.

        Raises:
            ConfigError: two of one name, or not a reward.
        """
        scored: dict[str, Reward] = {} if self.reward is None else {"score": build_reward(self.reward)}
        return scored | named_judges(several(self.metrics))

    def evaluate_baseline(
        self,
        split: Split = "eval",
        *,
        limit: int | None = None,
        tokenizer: str | Path | Tokenizer | None = None,
        other: str | None = None,
    ) -> Evaluation:
        """The baseline's answers to the prompts of a split, judged; ``Comparison(it, ppo.after)`` compares with it.

        Args:
            split: which prompts.
            limit: only so many of them, as :meth:`all_rows` takes them.
            tokenizer: the policy's, or where it is: answers are as long as it makes them. Without it they have no
                tokens and no length, and a reward that takes ``completion_ids`` cannot judge them.
            other: one of :meth:`others` in its place.

        Raises:
            ConfigError: the task has no such baseline. DataError, RewardError: as the judges raise them.
        """
        rows = self.all_rows(split, limit)
        answers = [self.baseline(row) if other is None else self.others(row).get(other) for row in rows]
        texts = [answer for answer in answers if answer is not None]
        if len(texts) < len(answers):
            what = "baseline" if other is None else repr(other)
            raise ConfigError(f"{self.name}: no {what} for {len(answers) - len(texts)} of {len(answers)} rows")
        prompts = read_prompts(self.prompts_of(rows, split))
        if isinstance(tokenizer, str | Path):
            tokenizer = load_tokenizer(tokenizer, key="tokenizer")
        completions = [_said(prompt.text, text, tokenizer) for prompt, text in zip(prompts, texts, strict=True)]
        return judge_answers(prompts, completions, self.judges())

    def refuse_unknown(self, split: str) -> None:
        """Raise where it is no split.

        Raises:
            ConfigError: naming those that there are.
        """
        if split not in get_args(Split):
            raise ConfigError(f"{self.name}: no split {split!r}; {nearest(split, list(get_args(Split)))}")

    def prompts_of(self, rows: Sequence[Row], split: Split) -> list[dict[str, Any]]:
        """The same of these rows.

        Raises:
            DataError: one has no prompt.
        """
        found = [{**row, "prompt": self.prompt(row)} for row in rows]
        for number, row in enumerate(found, start=1):
            if not row["prompt"]:
                raise DataError(f"{self.name}: row {number} of split {split!r} has an empty prompt")
        return found


def _said(prompt: Text, answer: str, tokenizer: Tokenizer | None) -> Completion:
    """An answer that no sampler gave."""
    if tokenizer is None:
        return Completion([], [], [], answer, "eos")
    asked = encode_prompt(tokenizer, prompt)
    said = encode_prompt(tokenizer, prompt + answer) if isinstance(prompt, str) else None
    behind = said is not None and said[: len(asked)] == asked  # as the policy would go on with it
    ids = said[len(asked) :] if said and behind else tokenizer(answer, add_special_tokens=False).input_ids
    ends = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    return Completion(asked, [*ids, *ends], [0.0] * len([*ids, *ends]), answer, "eos")
