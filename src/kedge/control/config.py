"""The settings of PPO on control tasks, under the names that Stable-Baselines3 gave them."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from kedge.config.settings import Config
from kedge.models.device import Device

Schedule = Literal["constant", "linear"]


class ControlConfig(Config):
    """Defaults are those of Stable-Baselines3 (Raffin et al. 2021)."""

    STAGE: ClassVar[str] = "control"

    total_timesteps: int = Field(100_000, ge=1)
    """Steps of all environments together."""
    n_envs: int = Field(1, ge=1)
    """Environments side by side."""
    n_steps: int = Field(2048, ge=1)
    """Steps of each environment between updates."""
    batch_size: int = Field(64, ge=1)
    """Steps of a minibatch; with an LSTM, of whole sequences."""
    n_epochs: int = Field(10, ge=1)
    """Passes over the steps of a rollout."""
    learning_rate: float = Field(3e-4, gt=0)
    """Adam's, eps 1e-5."""
    learning_rate_schedule: Schedule = "constant"
    """``linear``: to 0 at the last step."""
    gamma: float = Field(0.99, ge=0, le=1)
    """Discount a step."""
    gae_lambda: float = Field(0.95, ge=0, le=1)
    """λ of generalised advantage estimation."""
    clip_range: float = Field(0.2, gt=0)
    """The probability ratio counts up to this far from 1."""
    clip_range_schedule: Schedule = "constant"
    """``linear``: to 0 at the last step."""
    clip_range_vf: float | None = Field(None, gt=0)
    """How far a value may move from its old one; ``none``: no value clipping."""
    normalize_advantage: bool = True
    """Scale each minibatch's advantages to mean 0 and variance 1."""
    ent_coef: float = Field(0.0, ge=0)
    """Weight of the entropy bonus."""
    vf_coef: float = Field(0.5, ge=0)
    """Weight of the value loss."""
    max_grad_norm: float | None = Field(0.5, gt=0)
    """Gradients of all weights together are clipped to this norm; ``none``: not."""
    target_kl: float | None = Field(None, gt=0)
    """Stop a rollout's passes before a minibatch whose mean KL from the old policy is beyond this."""
    normalize_observations: bool = False
    """Scale observations by their running mean and deviation (clipped at 10), frozen in evaluation."""
    normalize_rewards: bool = False
    """Divide rewards by the running deviation of the discounted return (clipped at 10)."""
    policy: Literal["feedforward", "lstm"] = "feedforward"
    """``lstm``: remembers, for tasks whose state does not show."""
    hidden_sizes: tuple[Annotated[int, Field(ge=1)], ...] = Field((64, 64), min_length=1)
    """Layers of policy and value network; with an LSTM the last one is its width."""
    activation: Literal["tanh", "relu"] = "tanh"
    """Between them."""
    log_std_init: float = 0.0
    """Log of the standard deviation that continuous actions begin with."""
    conventions: Literal["kedge", "sb3"] = "kedge"
    """``sb3``: its value loss (no half; clipped without the maximum), its advantages (divided by the sample deviation),
    its stop at 1.5 times target_kl. For comparing numbers."""
    seed: int = Field(0, ge=0)
    """All randomness comes from it."""
    device: Device = "cpu"
    """``cuda``, ``cuda:1``, ``mps``, ``cpu`` or ``auto``. Small networks are fastest on the CPU."""
    eval_episodes: int = Field(20, ge=0)
    """Episodes of the evaluation at the end."""
