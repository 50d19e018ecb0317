"""What trainers, checkpoints, the doctor and the plan ask of a model, whatever part it plays.

Policy, reference, critic and reward model are roles. A trunk that two of them share, an adapter or a frozen bottom is a
variant of a role, and nothing that those who use it need to know.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn import Parameter
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D


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
    def write(self, folder: Path, weights: Mapping[str, Tensor]) -> None:
        """Write these weights, and all that is needed to load them again, as a folder."""

    @abstractmethod
    def load_weights(self, folder: Path) -> None:
        """Replace the weights by those that :meth:`save` wrote, in place and strictly.

        Raises:
            ModelError: weights missing or misshapen.
        """

    def weights(self) -> Mapping[str, Tensor]:
        """All weights by name: the tensors themselves, and no copies. Of weights that are spread over the processes,
        this puts them together, and all processes ask for it together."""
        return self.module.state_dict()

    def save(self, folder: Path | None) -> None:
        """Write the weights, and all that is needed to load them again, as a folder.

        Args:
            folder: where; None in a process that takes part and does not write.
        """
        weights = self.weights()
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            self.write(folder, weights)

    def trained(self) -> list[Parameter]:
        """The weights that a training changes."""
        return [weight for weight in self.module.parameters() if weight.requires_grad]

    def group(self, learning_rate: float) -> dict[str, Any]:
        """For an optimizer: the weights, their rate, and which of them are matrices within the trunk: no embeddings, no
        heads."""
        trunk = self.own_trunk()
        layers = [] if trunk is None else trunk.base_model.modules()
        matrices = [layer.weight for layer in layers if isinstance(layer, nn.Linear | Conv1D)]
        return {"params": self.trained(), "lr": learning_rate, "matrices": [w for w in matrices if w.requires_grad]}
