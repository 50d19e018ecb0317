"""Numbers that raters gave, one for each objective, learnt by regression (Wang et al. 2024, "Interpretable preferences
via multi-objective reward modeling and mixture-of-experts": its first stage)."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kedge.core import rating_loss
from kedge.data.ratings import Rating
from kedge.data.records import Text
from kedge.errors import DataError
from kedge.evaluation.trust.ratings import rating_report, rows, write_rating_report
from kedge.models.reading import Objective, Reading
from kedge.models.reward_model import RewardModel
from kedge.training.labels.base import Example, Labels, Told


class Ratings(Labels[Rating]):
    """The head gives each objective's number, in standard deviations from its mean.

    Args:
        objectives: ``{name: its weight in the score}``.
        records: those that are trained on.

    Raises:
        DataError: an objective of which all numbers are the same.
    """

    watched = "error"
    best_by = "-error"

    def __init__(self, objectives: Mapping[str, float], records: Sequence[Rating]) -> None:
        self.objectives = tuple(
            _objective(name, weight, [record.scores[i] for record in records])
            for i, (name, weight) in enumerate(objectives.items())
        )

    @property
    def reading(self) -> Reading:
        return Reading(self.objectives)

    def texts(self, record: Rating) -> tuple[Text, ...]:
        return (record.text,)

    def fingerprint(self, example: Example) -> Any:
        return example.sides, example.record.scores

    def loss(
        self, model: RewardModel, examples: Sequence[Example], denominator: float, *, training: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        outputs = model.run([example.sides[0] for example in examples])
        given = [[self._standard(i, score) for i, score in enumerate(x.record.scores)] for x in examples]
        return rating_loss(outputs, outputs.new_tensor(given), denominator=denominator)

    def report(
        self, model: RewardModel, held: Sequence[Rating], train: Sequence[Rating], seed: int, folder: Path | None
    ) -> Told:
        report = rating_report(model, held, train, seed=seed)
        if folder is not None:
            write_rating_report(report, folder)
        return Told(report.headline(), rows(report))

    def _standard(self, i: int, score: float | None) -> float:
        objective = self.objectives[i]
        return torch.nan if score is None else (score - objective.mean) / objective.std


def _objective(name: str, weight: float, scores: Sequence[float | None]) -> Objective:
    known = [score for score in scores if score is not None]
    if len(set(known)) < 2:
        what = f"all are {known[0]:g}" if known else "none is there"
        raise DataError(f"objectives: {name!r}: {what}, in {len(scores)} rows; there is nothing to learn")
    return Objective(name, weight, statistics.fmean(known), statistics.pstdev(known))
