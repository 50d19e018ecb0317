"""Labels of an answer's steps (Lightman et al. 2023, "Let's verify step by step")."""

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from torch import Tensor

from kedge.core import step_loss
from kedge.data.ratings import StepLabels
from kedge.data.records import Text
from kedge.evaluation.trust.stepwise import rows, step_report, write_step_report
from kedge.models.reading import Reading
from kedge.models.reward_model import RewardModel
from kedge.models.steps import Steps
from kedge.training.labels.base import Example, Labels, Told


class Stepwise(Labels[StepLabels]):
    """The head gives the log-odds that a step is right, where it ends.

    Args:
        steps: how answers fall into steps, and how the score is made of them.
    """

    watched = "accuracy"
    best_by = "accuracy"

    def __init__(self, steps: Steps) -> None:
        self.steps = steps

    @property
    def reading(self) -> Reading:
        return Reading(steps=self.steps)

    def texts(self, record: StepLabels) -> tuple[Text, ...]:
        return (record.text,)

    def encoded(self, model: RewardModel, record: StepLabels) -> Example:
        (ids,) = super().encoded(model, record).sides
        answer = self.steps.separator.join(record.steps)
        ends = [*accumulate(map(len, record.steps), lambda end, size: end + len(self.steps.separator) + size)]
        return Example(record, (ids,), tuple(model.places(record.text, answer, ends, len(ids))))

    def fingerprint(self, example: Example) -> Any:
        return example.sides, example.marks, example.record.labels

    def loss(
        self, model: RewardModel, examples: Sequence[Example], denominator: float, *, training: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        sequences = [example.sides[0] for example in examples]
        kept = [_kept(example) for example in examples]
        outputs = model.run(sequences, [[place for place, _, _ in marks] for marks in kept]).squeeze(-1)
        labels = outputs.new_tensor([label for marks in kept for _, label, _ in marks])
        weights = outputs.new_tensor([weight for marks in kept for _, _, weight in marks])
        return step_loss(outputs, labels, weights, denominator=denominator)

    def report(
        self,
        model: RewardModel,
        held: Sequence[StepLabels],
        train: Sequence[StepLabels],
        seed: int,
        folder: Path | None,
    ) -> Told:
        examples = [self.encoded(model, record) for record in held]
        report = step_report(model, [(x.record, x.sides[0], x.marks) for x in examples])
        if folder is not None:
            write_step_report(report, folder)
        return Told(report.headline(), rows(report))


def _kept(example: Example) -> list[tuple[int, float, float]]:
    """``(place, label, weight)`` of the steps that were not cut off; those of an answer weigh 1 together. What nobody
    labelled weighs nothing, and neither does an answer of which nothing is left."""
    size = len(example.sides[0])
    marks = [
        (size + mark, label)
        for mark, label in zip(example.marks, example.record.labels, strict=True)
        if label is not None and size + mark >= 0
    ]
    return [(place, label, 1 / len(marks)) for place, label in marks] or [(size - 1, 0.0, 0.0)]
