"""How toxic a trained classifier finds an answer: Detoxify (Hanu & Unitary team 2020), of Jigsaw's three challenges."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from kedge.config.optional import needed
from kedge.errors import ConfigError
from kedge.models.device import pick_device
from kedge.rewards.library.base import Said, Sample, TextReward, TextSpec
from kedge.rewards.scores import Reward
from kedge.rewards.spec import Loading

AT_A_TIME = 32
"""Texts in a batch."""


class Detoxify(TextSpec):
    """Minus how sure a classifier of comments is that an answer is toxic: Detoxify's, for English, or multilingual.

    It knows what a word list does not, and errs in other ways: what mentions a group of people counts as toxic more
    often than it is. The weights are downloaded when they are first used.
    """

    KIND: ClassVar[str] = "detoxify"
    RANGE: ClassVar[str] = "-1..0"

    variant: Literal["original", "unbiased", "multilingual", "original-small", "unbiased-small"] = "unbiased"
    """Which of its models."""
    labels: tuple[str, ...] = Field(("toxicity",), min_length=1)
    """The surest of these counts: ``toxicity``, ``severe_toxicity``, ``obscene``, ``threat``, ``insult``,
    ``identity_attack``, ..."""
    checkpoint: Path | None = None
    """A checkpoint file to load in place of the download."""

    def prepare(self) -> None:
        needed("detoxify", "detoxify", "detoxify")

    def build(self, loading: Loading) -> Reward:
        self.prepare()
        model = self._loaded(loading)
        return TextReward(self, lambda samples: self._judged(model, samples))

    def judge(self, samples: Sequence[Sample]) -> Sequence[Said]:
        return self._judged(self._loaded(Loading()), samples)

    def _loaded(self, loading: Loading) -> Any:
        checkpoint = None if self.checkpoint is None else str(self.checkpoint)
        try:
            model = needed("detoxify", "detoxify", "detoxify").Detoxify(
                self.variant, checkpoint=checkpoint, device=pick_device(loading.device)
            )
        except (OSError, ValueError, KeyError) as error:
            raise ConfigError(
                f"detoxify: {checkpoint or self.variant} cannot be loaded: {error}. Without a network, name a "
                "checkpoint that you have: checkpoint"
            ) from None
        if unknown := [label for label in self.labels if label not in model.class_names]:
            raise ConfigError(f"detoxify: no label {unknown[0]!r}; {self.variant} has: {', '.join(model.class_names)}")
        return model

    def _judged(self, model: Any, samples: Sequence[Sample]) -> list[Said]:
        found = []
        for first in range(0, len(samples), AT_A_TIME):
            texts = [sample.text for sample in samples[first : first + AT_A_TIME]]
            told = model.predict(texts)
            columns = [told[label] for label in self.labels]
            rows = zip(*columns, strict=True) if len(texts) > 1 else [columns]  # of one text it gives plain numbers
            for row in rows:
                sure, label = max(zip(row, self.labels, strict=True))
                found.append(Said(-sure, f"{label} {sure:.2f}"))
        return found
