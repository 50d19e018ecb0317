"""Pairs of which one text is preferred (Bradley & Terry 1952)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from kedge.core import preference_loss
from kedge.data.records import Preference, Text
from kedge.evaluation.trust.calibration import fitted_factor
from kedge.evaluation.trust.page import headline, rows, write_report
from kedge.evaluation.trust.report import trust_report
from kedge.models.reward_model import RewardModel
from kedge.training.labels.base import Example, Labels, Told


class Pairs(Labels[Preference]):
    """The preferred text of a pair scores higher.

    Args:
        label_smoothing: share of labels that may be the wrong way round.
        center: coefficient that pulls scores towards 0.
        length_debiasing: what the length alone says is taken as given.
    """

    watched = "accuracy"
    best_by = "accuracy"

    def __init__(self, *, label_smoothing: float, center: float, length_debiasing: bool) -> None:
        self.label_smoothing = label_smoothing
        self.center = center
        self.length_debiasing = length_debiasing
        self.liking = 0.0
        """Of raters for length: margin for a hundred tokens."""

    def texts(self, record: Preference) -> tuple[Text, ...]:
        return record.chosen, record.rejected

    def settle(self, examples: Sequence[Example]) -> None:
        if self.length_debiasing:
            self.liking = fitted_factor([_longer(example) for example in examples])

    def fingerprint(self, example: Example) -> Any:
        return example.sides

    def loss(
        self, model: RewardModel, examples: Sequence[Example], denominator: float, *, training: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        scores = model([example.sides[0] for example in examples] + [example.sides[1] for example in examples])
        chosen, rejected = scores.chunk(2)
        liking = self.liking if training else 0.0
        return preference_loss(
            chosen,
            rejected,
            margin=scores.new_tensor([x.record.margin - liking * _longer(x) for x in examples]),
            agreement=scores.new_tensor([x.record.agreement for x in examples]),
            label_smoothing=self.label_smoothing,
            center=self.center,
            denominator=denominator,
        )

    def report(
        self,
        model: RewardModel,
        held: Sequence[Preference],
        train: Sequence[Preference],
        seed: int,
        folder: Path | None,
    ) -> Told:
        report = trust_report(model.score, held, train, seed=seed)
        if folder is not None:
            write_report(report, folder)
        return Told(headline(report), rows(report))


def _longer(example: Example) -> float:
    """By how many hundred tokens the chosen text is the longer one."""
    chosen, rejected = example.sides
    return (len(chosen) - len(rejected)) / 100
