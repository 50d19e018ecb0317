"""A reward model as a reward: scored on text, with the reward model's own tokenizer and chat template."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import Field, model_validator

from kedge.data.encode import has_template
from kedge.data.records import Prompt, joined, plain
from kedge.errors import ConfigError, RewardError, RewardNotFiniteError
from kedge.models.reading import PLAIN
from kedge.models.reward_model import RewardModel, load_reward_model, with_reading
from kedge.rewards.foreign import TrainerState, is_function_path
from kedge.rewards.scores import AT_REST, Reward, Scores, shown
from kedge.rewards.spec import Loading, RewardSpec
from kedge.runs.fingerprints import of_weights
from kedge.sampling.completion import Completion


class ModelReward(Reward):
    """Scores prompt and completion together. A chat goes through the template; without one, it is an error."""

    def __init__(self, model: RewardModel, name: str = "reward_model") -> None:
        self.model = model
        self.name = name

    def __call__(
        self, prompts: Sequence[Prompt], completions: Sequence[Completion], state: TrainerState = AT_REST
    ) -> Scores:
        whole = [joined(p.text, c.text) for p, c in zip(prompts, completions, strict=True)]
        if not has_template(self.model.tokenizer) and not all(isinstance(text, str) for text in whole):
            raise RewardError(
                f"{self.name}: chat prompts, but the reward model's tokenizer has no chat template"
                f"\n  prompt: {plain(prompts[0].text)[:160]!r}"
            )
        outputs = self.model.run_texts(whole, [c.text for c in completions])
        scores = self.model.reading.score(outputs).tolist()
        for score, prompt, completion in zip(scores, prompts, completions, strict=True):
            if not math.isfinite(score):
                raise RewardNotFiniteError(f"{self.name} gave {score} for{shown(prompt, completion)}")
        each = {f"{self.name}_{name}": x.tolist() for name, x in self.model.reading.several(outputs).items()}
        return Scores(scores, [None] * len(scores), {self.name: scores} | each)

    def fingerprint(self) -> str:
        reading = "" if self.model.reading == PLAIN else f" {self.model.reading}"
        return of_weights(self.model.model) + reading

    def models(self) -> list[RewardModel]:
        return [self.model]


class ModelSpec(RewardSpec):
    """A reward model."""

    model: Any
    """Reward model: a folder, hub id, or run of ``kedge reward``; from Python also a loaded one."""

    label: str | None = None
    """Of a classifier with several labels the one whose log-odds are the reward: ``"POSITIVE"``."""

    objectives: Mapping[str, float] = Field(default_factory=dict)
    """Of a model that has learnt several: what each weighs in the score, in place of what it weighed in training; those
    that are not named weigh nothing. Each is in the metrics as ``NAME_OBJECTIVE``."""

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
            return ModelReward(self._weighed(source))
        if not isinstance(source, str | Path):
            raise ConfigError(f"reward: model={source!r} is no folder, hub id, run, or loaded reward model")
        if isinstance(source, str) and "." in source and "/" not in source and not Path(source).exists():
            raise ConfigError(
                f"reward: {source!r} is no folder; a function is written package.module:name, with a colon"
            )
        model = load_reward_model(source, label=self.label, **asdict(loading))
        model.module.requires_grad_(False)  # nobody else has it, so it may share a trunk
        return ModelReward(self._weighed(model))

    def _weighed(self, model: RewardModel) -> RewardModel:
        return with_reading(model, model.reading.weighed(self.objectives)) if self.objectives else model

    def reward_models(self) -> list[str]:
        return [str(self.model)]

    def fingerprint(self) -> str:
        return ""  # the reward's own is of all weights
