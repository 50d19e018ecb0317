"""What trainers, checkpoints, the doctor and the plan ask of a model, whatever part it plays.

Policy, reference, critic and reward model are roles. A trunk that two of them share, an adapter or a frozen bottom is a
variant of a role, and nothing that those who use it need to know.
"""

from abc import ABC, abstractmethod
from pathlib import Path

from torch import nn
from torch.nn import Parameter
from transformers import PreTrainedModel


class Role(ABC):
    """A model in a part that it plays."""

    @property
    @abstractmethod
    def module(self) -> nn.Module:
        """All weights that are the role's own."""

    @abstractmethod
    def own_trunk(self) -> PreTrainedModel | None:
        """What it runs over the tokens; None where it reads what another role's trunk has computed."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the weights, and all that is needed to load them again, as a folder."""

    @abstractmethod
    def load_weights(self, folder: Path) -> None:
        """Replace the weights by those that :meth:`save` wrote, in place and strictly.

        Raises:
            ModelError: weights missing or misshapen.
        """

    def trained(self) -> list[Parameter]:
        """The weights that a training changes."""
        return [weight for weight in self.module.parameters() if weight.requires_grad]
