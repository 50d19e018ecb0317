"""The critic: a trunk of its own with a value head, or a value head on the policy's trunk."""

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from torch import Tensor, nn
from torch.nn import Parameter
from transformers import PreTrainedModel

from kedge.errors import ModelError
from kedge.models.bottom import Bottom, hidden_of
from kedge.models.forward import before, places_of, spread
from kedge.models.head import hidden_size
from kedge.models.language_model import LanguageModel
from kedge.models.reward_model import RewardModel
from kedge.models.role import Role
from kedge.models.scalar import ScalarHead, ScalarModel, write_head
from kedge.models.sharding import within

HEAD_FILE = "value_head.safetensors"


class Critic(Role):
    """V of the state in which each token is chosen."""

    @abstractmethod
    def values(self, tokens: Tensor, mask: Tensor, states: Tensor | None = None) -> Tensor:
        """Values ``[B, L]`` of the masked tokens, 0.0 elsewhere.

        Args:
            tokens: ``[B, L]`` right-padded ids.
            mask: ``[B, L]`` bool on the host, True on the tokens whose values are asked for; never on column 0.
            states: ``[B, L, H]`` of the policy's frozen bottom, where they are known.
        """

    @property
    @abstractmethod
    def value_head(self) -> ScalarHead | None:
        """What reads the policy's own hidden states; None where the critic has a trunk of its own."""


class SeparateCritic(ScalarModel, Critic):
    """A trunk of its own."""

    head_file = HEAD_FILE
    bottom: Bottom | None = None
    """The policy's, which its trunk shares."""

    @property
    def module(self) -> nn.Module:
        return self

    def own_trunk(self) -> PreTrainedModel:
        return self.trunk

    @property
    def value_head(self) -> None:
        return None

    def whole_everywhere(self) -> list[Parameter]:
        return [*super().whole_everywhere(), *self.head.parameters()]

    def values(self, tokens: Tensor, mask: Tensor, states: Tensor | None = None) -> Tensor:
        places = places_of(mask, tokens.device)

        def compute() -> Tensor:
            return self.head(before(hidden_of(self.trunk, tokens, self.bottom, states), places))

        return spread(within(self, compute), places, tokens)


class SharedCritic(ScalarHead, Critic):
    """A head that reads the policy's hidden states."""

    def __init__(self, policy: LanguageModel) -> None:
        super().__init__(hidden_size(policy.model))
        self.policy = policy
        self.to(policy.device)

    @property
    def module(self) -> nn.Module:
        return self

    def own_trunk(self) -> PreTrainedModel | None:
        return None

    @property
    def value_head(self) -> ScalarHead:
        return self

    def values(self, tokens: Tensor, mask: Tensor, states: Tensor | None = None) -> Tensor:
        places = places_of(mask, tokens.device)
        hidden = within(self.policy.model, lambda: self.policy.hidden(tokens, states))
        return spread(self(before(hidden, places)), places, tokens)

    def write(self, folder: Path | None, weights: Mapping[str, Tensor]) -> None:
        if folder is not None:
            write_head(weights, folder / HEAD_FILE)

    def load_weights(self, folder: Path) -> None:
        self.read(folder / HEAD_FILE)


def new_critic(
    kind: Literal["separate", "shared"],
    policy: LanguageModel,
    start: RewardModel | None = None,
    *,
    sharded: bool = False,
) -> Critic:
    """A critic to be trained: its trunk in the dtype of the model it comes from, its head in float32.

    Args:
        kind: ``separate`` copies a trunk, ``shared`` adds a head to the policy's.
        policy: whose answers it judges.
        start: the reward model whose trunk and head a separate critic begins with; default the policy's trunk.
        sharded: see :func:`kedge.models.bottom.copy_of_trained`.

    Raises:
        ModelError: the reward model's tokenizer is not the policy's, so its trunk would read other words.
    """
    if kind == "shared":
        return SharedCritic(policy)
    if start is None:
        critic = SeparateCritic.from_trunk_of(policy.model, sharded=sharded).eval()
        critic.bottom = policy.bottom
        return critic
    if start.tokenizer.get_vocab() != policy.tokenizer.get_vocab():
        raise ModelError("critic_init='reward': the reward model has another tokenizer than the policy; use 'policy'")
    return start.copied_as(SeparateCritic).eval()
