"""A reward model as a reward: scored on text, with the reward model's own tokenizer and chat template."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import Field, model_validator

from kedge.data.encode import Tokenizer, has_template
from kedge.data.records import Prompt, Text, joined, plain
from kedge.errors import ConfigError, RewardError, RewardNotFiniteError
from kedge.models.reading import PLAIN
from kedge.models.reward_loading import load_reward_model
from kedge.models.reward_model import RewardModel, with_reading
from kedge.rewards.foreign import TrainerState, is_function_path
from kedge.rewards.scores import AT_REST, Reward, Scores, shown
from kedge.rewards.spec import Loading, RewardSpec
from kedge.runs.fingerprints import of_weights
from kedge.sampling.completion import Completion
from kedge.sampling.local.text import GrowingText


class ModelReward(Reward):
    """Scores prompt and completion together. A chat goes through the template; without one, it is an error."""

    def __init__(self, model: RewardModel, name: str = "reward_model") -> None:
        self.model = model
        self.name = name

    def __call__(
        self, prompts: Sequence[Prompt], completions: Sequence[Completion], state: TrainerState = AT_REST
    ) -> Scores:
        outputs = self.model.run_texts(self.texts(prompts, completions), [c.text for c in completions])
        scores: list[float] = self.model.reading.score(outputs).tolist()
        self.refuse_not_finite(scores, prompts, completions)
        each = {f"{self.name}_{name}": x.tolist() for name, x in self.model.reading.several(outputs).items()}
        return Scores(scores, [None] * len(scores), {self.name: scores} | each)

    def texts(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[Text]:
        """What is scored.

        Raises:
            RewardError: chats, and no template for them.
        """
        whole = [joined(p.text, c.text) for p, c in zip(prompts, completions, strict=True)]
        if not has_template(self.model.tokenizer) and not all(isinstance(text, str) for text in whole):
            raise RewardError(
                f"{self.name}: chat prompts, but the reward model's tokenizer has no chat template"
                f"\n  prompt: {plain(prompts[0].text)[:160]!r}"
            )
        return whole

    def refuse_not_finite(
        self, scores: Sequence[float], prompts: Sequence[Prompt], completions: Sequence[Completion]
    ) -> None:
        """Raise RewardNotFiniteError at the first score that is no number."""
        for score, prompt, completion in zip(scores, prompts, completions, strict=True):
            if not math.isfinite(score):
                raise RewardNotFiniteError(f"{self.name} gave {score} for{shown(prompt, completion)}")

    def fingerprint(self) -> str:
        reading = "" if self.model.reading == PLAIN else f" {self.model.reading}"
        return of_weights(self.model.model) + reading

    def models(self) -> list[RewardModel]:
        return [self.model]


class DenseReward(ModelReward):
    """Of a model that reads steps: each is paid where the policy ended it, with what it changed the score by, so that
    all of it is the score (a difference of potentials: Ng et al. 1999). Of answers whose writer is not known the score
    is paid on the last token.
    """

    writer: Tokenizer | None = None

    def written_by(self, tokenizer: Tokenizer) -> None:
        self.writer = tokenizer

    def __call__(
        self, prompts: Sequence[Prompt], completions: Sequence[Completion], state: TrainerState = AT_REST
    ) -> Scores:
        if self.writer is None:
            return super().__call__(prompts, completions, state)
        each = self.model.run_steps(self.texts(prompts, completions), [c.text for c in completions])
        so_far = [self.model.reading.score_so_far(outputs).tolist() for outputs in each]
        scores = [of_steps[-1] for of_steps in so_far]
        self.refuse_not_finite(scores, prompts, completions)
        paid: list[list[float] | None] = [
            self._paid(self.writer, c, of_steps) for c, of_steps in zip(completions, so_far, strict=True)
        ]
        return Scores([0.0] * len(scores), paid, {self.name: scores})

    def fingerprint(self) -> str:
        return f"{super().fingerprint()} step by step"

    def _paid(self, writer: Tokenizer, completion: Completion, so_far: Sequence[float]) -> list[float]:
        """For each token what the steps that end there change the score by."""
        assert self.model.reading.steps is not None
        written = GrowingText.lengths(writer, completion.prompt_ids, completion.ids)
        paid = [0.0] * len(written)
        ends = self.model.reading.steps.of(completion.text)[-len(so_far) :]
        for end, now, before in zip(ends, so_far, [0.0, *so_far[:-1]], strict=True):
            there = next((token for token, length in enumerate(written) if length >= end), len(written) - 1)
            paid[there] += now - before
        return paid


class ModelSpec(RewardSpec):
    """A reward model."""

    model: Any
    """Reward model: a folder, hub id, or run of ``kedge reward``; from Python also a loaded one."""

    label: str | None = None
    """Of a classifier with several labels the one whose log-odds are the reward: ``"POSITIVE"``."""

    objectives: Mapping[str, float] = Field(default_factory=dict)
    """Of a model that has learnt several: what each weighs in the score, in place of what it weighed in training; those
    that are not named weigh nothing. Each is in the metrics as ``NAME_OBJECTIVE``."""

    dense: bool = False
    """Of a model that has learnt which steps are right: pay at the end of each step what it changed the score by, so
    that all of it is the score; ``false``: all of it on the last token."""

    SAID_BY: ClassVar[str] = "model"
    REFUSED: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("workers", "time_limit", "default"),
        "not used with function=none; a reward model is called by the run itself; take it out",
    )

    @model_validator(mode="after")
    def _is_named(self) -> Self:
        if self.model is None:
            raise ValueError("model: missing; name a folder, hub id, or run of `kedge reward`")
        if isinstance(self.model, str) and is_function_path(self.model):
            raise ValueError(f"model: {self.model!r} reads like a function; write function = {self.model!r}")
        return self

    def build(self, loading: Loading) -> ModelReward:
        source = self.model
        if isinstance(source, RewardModel):
            if self.label is not None:
                raise ConfigError("reward: label is not used with a loaded reward model; load it with label=...")
            return self._reward(source)
        if not isinstance(source, str | Path):
            raise ConfigError(f"reward: model={source!r} is no folder, hub id, run, or loaded reward model")
        if isinstance(source, str) and "." in source and "/" not in source and not Path(source).exists():
            raise ConfigError(
                f"reward: {source!r} is no folder; a function is written package.module:name, with a colon"
            )
        model = load_reward_model(source, label=self.label, **loading.of_reward_models())
        model.module.requires_grad_(False)  # nobody else has it, so it may share a trunk
        return self._reward(model)

    def _reward(self, model: RewardModel) -> ModelReward:
        if self.dense and model.reading.steps is None:
            raise ConfigError("reward: dense is for a model that has learnt which steps are right; take it out")
        weighed = with_reading(model, model.reading.weighed(self.objectives)) if self.objectives else model
        return DenseReward(weighed) if self.dense else ModelReward(weighed)

    def reward_models(self) -> list[str]:
        return [str(self.model)]

    def fingerprint(self) -> str:
        return ""  # the reward's own is of all weights
