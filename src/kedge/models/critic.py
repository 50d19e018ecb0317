"""The critic: a trunk of its own with a value head, or a value head on the policy's trunk."""

from pathlib import Path
from typing import Literal

from kedge.errors import ModelError
from kedge.models.head import hidden_size
from kedge.models.language_model import LanguageModel
from kedge.models.reward_model import RewardModel
from kedge.models.scalar import ScalarHead, ScalarModel

Critic = ScalarModel | ScalarHead
"""``ScalarModel``: separate trunk. ``ScalarHead``: reads the policy's hidden states."""

HEAD_FILE = "value_head.safetensors"


def new_critic(kind: Literal["separate", "shared"], policy: LanguageModel, start: RewardModel | None = None) -> Critic:
    """A critic to be trained: its trunk in the dtype of the model it comes from, its head in float32.

    Args:
        kind: ``separate`` copies a trunk, ``shared`` adds a head to the policy's.
        start: the reward model whose trunk and head a separate critic begins with; default the policy's trunk.

    Raises:
        ModelError: the reward model's tokenizer is not the policy's, so its trunk would read other words.
    """
    if kind == "shared":
        return ScalarHead(hidden_size(policy.model)).to(policy.device)
    if start is None:
        return ScalarModel.from_trunk_of(policy.model).eval()
    if start.tokenizer.get_vocab() != policy.tokenizer.get_vocab():
        raise ModelError("critic_init='reward': the reward model has another tokenizer than the policy; use 'policy'")
    model = start.model
    return (ScalarModel.from_trunk_of(model) if not isinstance(model, ScalarModel) else model.copy()).eval()


def save_critic(critic: Critic, folder: Path) -> None:
    """A separate trunk as a Hugging Face folder; the head in ``value_head.safetensors``."""
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(critic, ScalarModel):
        critic.save(folder, HEAD_FILE)
    else:
        critic.save(folder / HEAD_FILE)


def load_critic(critic: Critic, folder: Path) -> None:
    """Replace the critic's weights by those that :func:`save_critic` wrote, strictly.

    Raises:
        ModelError: trunk or head missing or misshapen.
    """
    if isinstance(critic, ScalarModel):
        critic.load_weights(folder, HEAD_FILE)
    else:
        critic.load(folder / HEAD_FILE)
