"""Several reward models as one, which is careful where they do not agree (Coste et al. 2023)."""

import math
import statistics
from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import Field, field_validator

from kedge.data.records import Prompt
from kedge.models.reward_loading import load_reward_model
from kedge.models.reward_model import RewardModel
from kedge.rewards.foreign import TrainerState
from kedge.rewards.model import ModelReward
from kedge.rewards.scores import AT_REST, Reward, Scores
from kedge.rewards.spec import Loading, RewardSpec
from kedge.sampling.completion import Completion


class EnsembleReward(Reward):
    """The members' mean less a multiple of their spread.

    Args:
        members: reward models, trained apart: on other seeds, or other parts of the data.
        caution: standard deviations that are taken off.
        name: under which it is logged; the spread as ``NAME_spread``.
    """

    def __init__(self, members: Sequence[ModelReward], caution: float, name: str = "ensemble") -> None:
        self.members = members
        self.caution = caution
        self.name = name

    def __call__(
        self, prompts: Sequence[Prompt], completions: Sequence[Completion], state: TrainerState = AT_REST
    ) -> Scores:
        each = [member(prompts, completions, state).total for member in self.members]
        means = [statistics.fmean(scores) for scores in zip(*each, strict=True)]
        spreads = [statistics.pstdev(scores) for scores in zip(*each, strict=True)]
        total = [mean - self.caution * spread for mean, spread in zip(means, spreads, strict=True)]
        told = [f"members: {', '.join(f'{score:.2f}' for score in scores)}" for scores in zip(*each, strict=True)]
        components = {self.name: total, f"{self.name}_spread": spreads}
        return Scores(total, [None] * len(total), components, remarks={self.name: told})

    def fingerprint(self) -> str:
        return " ".join([f"caution {self.caution:g}", *(member.fingerprint() for member in self.members)])

    def models(self) -> list[RewardModel]:
        return [member.model for member in self.members]


class Ensemble(RewardSpec):
    """Several reward models: their mean less ``caution`` standard deviations.

    So an answer gains nothing by what one of them alone has misread (Coste et al. 2023, "Reward model ensembles help
    mitigate overoptimization").
    """

    KIND: ClassVar[str] = "ensemble"
    RANGE: ClassVar[str] = "as its models score"

    models: tuple[Any, ...] = Field(min_length=2)
    """Reward models trained apart, with other seeds or on other parts of the data: folders, hub ids, runs of ``kedge
    reward``; from Python also loaded ones."""
    caution: float = Field(1.0, ge=0)
    """Standard deviations of their scores that are taken off their mean; 0: the mean."""

    @field_validator("caution")
    @classmethod
    def _is_finite(cls, caution: float) -> float:
        if math.isinf(caution):
            raise ValueError("caution: a number")
        return caution

    def build(self, loading: Loading) -> Reward:
        members = []
        for source in self.models:
            model = (
                source if isinstance(source, RewardModel) else load_reward_model(source, **loading.of_reward_models())
            )
            if model is not source:
                model.module.requires_grad_(False)
            members.append(ModelReward(model))
        return EnsembleReward(members, self.caution)

    def reward_models(self) -> list[str]:
        return [str(source) for source in self.models]

    def fingerprint(self) -> str:
        return ""  # the reward's own is of all weights
