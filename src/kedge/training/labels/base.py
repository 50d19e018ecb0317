"""What reward modelling asks of labels of any kind. The kind is that of the data's records."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

from torch import Tensor

from kedge.data.records import Text
from kedge.models.reading import PLAIN, Reading
from kedge.models.reward_model import RewardModel

Record = TypeVar("Record")


class Example(NamedTuple):
    """A record in token ids."""

    record: Any
    sides: tuple[list[int], ...]
    """Its texts."""
    marks: tuple[int, ...] = ()
    """Tokens of the text, counted from behind, at which it is labelled; none: at its end."""

    @property
    def size(self) -> int:
        """Tokens, as micro-batches are cut."""
        return len(self.sides) * max(map(len, self.sides))

    @property
    def longest(self) -> int:
        """Tokens of its longest text."""
        return max(map(len, self.sides))


class Told(NamedTuple):
    """What a trust report says."""

    headline: dict[str, Any]
    """For the summary."""
    rows: list[tuple[str, str, str]]
    """``(what, how much, how to read it)``."""


class Labels(ABC, Generic[Record]):
    """Labels of one kind, told the records that are trained on."""

    watched: ClassVar[str]
    """The metric beside the progress bar."""
    best_by: ClassVar[str]
    """The held-out metric that says which checkpoint is the best; with a minus in front, the smaller the better."""

    @property
    def reading(self) -> Reading:
        """How the model makes its score of what the head gives."""
        return PLAIN

    @abstractmethod
    def texts(self, record: Record) -> tuple[Text, ...]:
        """What the model reads of a record."""

    def encoded(self, model: RewardModel, record: Record) -> Example:
        """A record in the model's tokens, all of them."""
        origin = getattr(record, "origin", "record")
        return Example(record, tuple(model.encode_whole(text, origin=origin) for text in self.texts(record)))

    def settle(self, examples: Sequence[Example]) -> None:
        """Once those that are trained on have been encoded and cut."""

    @abstractmethod
    def fingerprint(self, example: Example) -> Any:
        """An example, for a resumed run to know it by."""

    @abstractmethod
    def loss(
        self, model: RewardModel, examples: Sequence[Example], denominator: float, *, training: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and metrics of some examples; those of the parts of a minibatch add up.

        Args:
            model: that learns.
            examples: a part of a minibatch.
            denominator: how many examples all of it are.
            training: False on held-out examples, where nothing is taken off.
        """

    @abstractmethod
    def report(
        self, model: RewardModel, held: Sequence[Record], train: Sequence[Record], seed: int, folder: Path | None
    ) -> Told:
        """Measure a trained model on held-out records, and write it down.

        Args:
            model: trained.
            held: records that it was not trained on.
            train: those that it was trained on, for baselines.
            seed: of the baselines.
            folder: where; None in a process that takes part and does not write.
        """
