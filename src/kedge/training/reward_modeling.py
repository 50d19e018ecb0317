"""Reward modelling: a score for every answer such that the preferred one of a pair scores higher (Bradley-Terry)."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field
from torch import Tensor

from kedge.core import preference_loss
from kedge.data.records import Preference
from kedge.models.batch import by_token_budget
from kedge.models.reward_model import RewardModel
from kedge.tracking import Metrics, RunFolder
from kedge.training.supervised import Supervised, SupervisedConfig

Pair = tuple[list[int], list[int]]
"""Ids of the chosen and of the rejected text."""


class RewardConfig(SupervisedConfig):
    """Settings of reward modelling."""

    learning_rate: float = 1e-4
    """Peak learning rate of AdamW."""
    center_rewards_coefficient: float = Field(0.01, ge=0)
    """Pulls scores towards 0 (Eisenstein et al. 2023), so that they mean the same from run to run."""


class RewardModeling(Supervised):
    """Trains a reward model on preferences.

    Args:
        model: from :func:`kedge.models.reward_model.new_reward_model`; trained in place. Texts longer than its
            ``max_length`` lose their beginning.
        data: preferences to train on. held_out: others, to measure the accuracy on.
        run: folder for metrics and checkpoints; None leaves none.
    """

    label = "reward model"
    watched = "accuracy"
    config: RewardConfig

    def __init__(
        self,
        model: RewardModel,
        data: Sequence[Preference],
        config: RewardConfig | None = None,
        *,
        held_out: Sequence[Preference] = (),
        run: RunFolder | None = None,
        progress: bool = True,
    ) -> None:
        self.model = model
        self.pairs = [self._encoded(row) for row in data]
        self.held_out = [self._encoded(row) for row in held_out]
        super().__init__(config or RewardConfig(), model.model, run, progress=progress)

    @property
    def sizes(self) -> Sequence[int]:
        return _sizes(self.pairs)

    def weigh(self, rows: Sequence[int]) -> float:
        return float(len(rows))

    def loss(self, rows: Sequence[int], denominator: float) -> tuple[Tensor, dict[str, Tensor]]:
        return self._preference_loss([self.pairs[row] for row in rows], denominator)

    def evaluate(self) -> Metrics:
        totals: Metrics = {}
        for batch in by_token_budget(_sizes(self.held_out), self.config.micro_batch_tokens):
            loss, metrics = self._preference_loss([self.held_out[i] for i in batch], len(self.held_out))
            for name, value in (metrics | {"loss": loss}).items():
                totals[name] = totals.get(name, 0.0) + float(value)
        return totals

    def save(self, folder: str | Path) -> None:
        self.model.save(Path(folder) / "reward_model")

    def load(self, folder: Path) -> None:
        self.model.load_weights(folder / "reward_model")

    def _encoded(self, row: Preference) -> Pair:
        return (
            self.model.encode(row.chosen, origin=row.origin),
            self.model.encode(row.rejected, origin=row.origin),
        )

    def _preference_loss(self, pairs: Sequence[Pair], denominator: float) -> tuple[Tensor, dict[str, Tensor]]:
        scores = self.model([chosen for chosen, _ in pairs] + [rejected for _, rejected in pairs])
        chosen, rejected = scores.chunk(2)
        center = self.config.center_rewards_coefficient
        return preference_loss(chosen, rejected, center=center, denominator=denominator)


def _sizes(pairs: Sequence[Pair]) -> list[int]:
    return [2 * max(len(chosen), len(rejected)) for chosen, rejected in pairs]
