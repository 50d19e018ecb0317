"""What trainers, checkpoints, the doctor and the plan ask of a model, whatever part it plays.

Policy, reference, critic and reward model are roles. A trunk that two of them share, an adapter or a frozen bottom is a
variant of a role, and nothing that those who use it need to know.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from kedge.models.adapters import adapter_weights
from kedge.models.bottom import layers_of
from kedge.models.sharding import Sharding, is_sharded
from kedge.parallel import ALONE, joined, written_together


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
    def write(self, folder: Path | None, weights: Mapping[str, Tensor]) -> None:
        """Write these weights, and all that is needed to load them again, as a folder; None: take part alone."""

    @abstractmethod
    def load_weights(self, folder: Path) -> None:
        """Replace the weights by those that :meth:`save` wrote, in place and strictly.

        Raises:
            ModelError: weights missing or misshapen.
        """

    def weights(self) -> Mapping[str, Tensor]:
        """All weights by name: the tensors themselves, and no copies."""
        return self.module.state_dict()

    def save(self, folder: Path | None) -> None:
        """Write the weights, and all that is needed to load them again, as a folder.

        Args:
            folder: where; None in a process that takes part and does not write.
        """
        if folder is None and not is_sharded(self.module):
            return
        with written_together(folder, joined() if is_sharded(self.module) else ALONE):
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
            self.write(folder, self.weights())

    def shard(self, sharding: Sharding, dtype: torch.dtype | None) -> None:
        """Spread it over the processes, in place; what it is made of is settled by then.

        Args:
            sharding: the job's.
            dtype: of the weights, from then on; None: as they are.
        """
        trunk = self.own_trunk()
        if trunk is None:
            self.module.to(sharding.device)
        else:
            sharding.shard(self.module, layers_of(trunk), dtype, self.whole_everywhere())

    def whole_everywhere(self) -> list[Parameter]:
        """The weights that no sharding spreads over the processes: an adapter's, and other few."""
        trunk = self.own_trunk()
        return [] if trunk is None else adapter_weights(trunk)

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
