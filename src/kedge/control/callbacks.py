"""What may look on while an agent learns."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kedge.control.agent import PPO


class Callback:
    """Override what you need. Returning False from a hook ends the training."""

    def on_training_start(self, agent: "PPO") -> None:
        """Before the first step."""

    def on_rollout_end(self, agent: "PPO") -> bool | None:
        """After each rollout, before the update."""

    def on_update_end(self, agent: "PPO", metrics: dict[str, float]) -> bool | None:
        """After each update, with its metrics."""

    def on_training_end(self, agent: "PPO") -> None:
        """After the last step."""
