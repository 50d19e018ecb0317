"""The settings of PPO, under the names its users know."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from kedge.config.settings import Several
from kedge.core.importance import ImportanceKind
from kedge.models.adalora import PLAN, refuse_steps
from kedge.sampling.settings import Sampling
from kedge.training.config import TrainingConfig
from kedge.training.ppo.guards import GuardsConfig
from kedge.training.too_long import TooLong

_TRUNCATION = (
    "PPO samples from the whole distribution: under a truncated one the update's ratio would be of two different "
    "distributions. Take it out here; `kedge chat` and [evaluate] have it"
)
_ONLY_WITH_GAE = (
    "critic",
    "critic_learning_rate",
    "critic_warmup_steps",
    "cliprange_value",
    "vf_coef",
    "gamma",
    "lam",
    "whiten_advantages",
    "whiten_rewards",
)


class PPOConfig(TrainingConfig):
    """Proximal policy optimisation of a language model (Schulman et al. 2017; Ziegler et al. 2019)."""

    STAGE: ClassVar[str] = "ppo"

    steps: int = Field(100, ge=1)
    """Rollout-and-update steps."""
    batch_size: int = Field(64, ge=1)
    """Prompts a step."""
    num_generations: int = Field(1, ge=1)
    """Answers to each prompt."""
    mini_batch_size: int = Field(64, ge=1)
    """Answers an optimiser step; divides batch_size * num_generations."""
    num_ppo_epochs: int = Field(4, ge=1)
    """Passes over a step's answers."""

    response_length: int = Field(64, ge=1)
    """Longest answer, in tokens; what is longer is cut off."""
    temperature: float = Field(1.0, gt=0)
    """Of sampling, and of every log-probability."""
    stop_tokens: Several[str] = ()
    """Tokens that end an answer, besides the model's own EOS ids."""
    stop_strings: Several[str] = ()
    """Texts that end an answer."""
    max_prompt_length: int | None = Field(None, ge=1)
    """Longest prompt in tokens; ``none``: what the model's positions leave beside response_length."""
    too_long: TooLong = "skip"
    """What to do with prompts that are longer: an ``error``; ``truncate`` (they lose their beginning); or ``skip``."""

    learning_rate: float = Field(3e-6, gt=0)
    """Peak learning rate of the policy."""
    critic_learning_rate: float | None = Field(None, gt=0)
    """Peak learning rate of the critic (shared: of its head); ``none``: the policy's."""

    num_layers_unfrozen: int | None = Field(None, ge=1)
    """Only so many layers from above are trained, and what is behind them; ``none``: the whole model. The layers below
    are run once a token and never again, so a step takes the less time and memory the fewer are trained."""

    advantage_estimator: Literal["gae", "grpo", "dr_grpo", "rloo", "reinforce++"] = "gae"
    """``gae`` has a critic; the others compare an answer with the others to the same prompt (num_generations of
    them; ``reinforce++``: with the whole batch), and have none."""
    gamma: float = Field(1.0, gt=0, le=1)
    """Discount a token."""
    lam: float = Field(0.95, ge=0, le=1)
    """λ of generalised advantage estimation."""
    whiten_advantages: bool = True
    """Scale a step's advantages to mean 0 and variance 1."""
    cliprange: float = Field(0.2, gt=0, lt=1)
    """The probability ratio counts up to this far below (and above) 1."""
    cliprange_high: float | None = Field(None, gt=0)
    """How far above 1, if further than below (clip-higher, Yu et al. 2025)."""
    dual_clip: float | None = Field(None, gt=1)
    """Bound on the loss of a negative advantage, as a multiple of it (Ye et al. 2020)."""
    cliprange_value: float | None = Field(0.2, gt=0)
    """How far a value may move from its old one in a step; ``none``: no value clipping."""
    vf_coef: float = Field(0.1, ge=0)
    """Weight of the value loss."""
    entropy_coef: float = Field(0.0, ge=0)
    """Weight of the entropy bonus."""
    target_kl: float | None = Field(0.05, gt=0)
    """How far one update may move the policy, in nats a token (KL from the policy that sampled, a mean over tokens). An
    optimiser step that goes beyond is taken again with a lower learning rate, and the update ends there; the rate
    rises again, to ``learning_rate`` at most, while updates stay well within. ``none``: as far as it goes."""

    kl_coef: float = Field(0.05, ge=0)
    """Weight of the KL from the reference."""
    kl_in: Literal["reward", "loss"] = "reward"
    """Where it is paid: k1 off each token's reward, or a term of the loss with the right gradient."""
    kl_controller: Literal["fixed", "adaptive"] = "fixed"
    """``adaptive`` steers kl_coef so that the sequence KL goes to kl_target."""
    kl_target: float = Field(6.0, gt=0)
    """Sequence KL to hold, in nats."""
    kl_horizon: float = Field(10_000.0, gt=0)
    """Episodes over which kl_coef changes by about 20% at full error."""

    cutoff: Literal["keep", "penalty", "mask"] = "keep"
    """What to do with answers that were cut off: score them as they are, take missing_eos_penalty off their score,
    or leave them out of the update."""
    missing_eos_penalty: float = Field(1.0, gt=0)
    """Taken off the score of a cut-off answer."""
    scale_rewards: bool = False
    """Divide scores by their running standard deviation. (TRL's GRPO means its groups' by that name: ``grpo`` always
    divides by those, ``dr_grpo`` never.)"""
    clip_rewards: float | None = Field(None, gt=0)
    """Clip scores to at most this far from 0, after scaling."""
    whiten_rewards: bool = False
    """Scale each step's per-token rewards (KL included) to variance 1, mean unmoved."""

    max_staleness: int = Field(0, ge=0)
    """How many steps the answers run ahead: those of so many steps to come are written while an update works, by
    weights that are at most so many updates old. 0: the next answers wait for the update. Needs a ``sampler`` with
    weights of its own: servers."""
    importance: ImportanceKind = "truncate"
    """With answers of older weights a token counts by how much likelier it is now: at most ``importance_cap``
    (``truncate``), or not at all beyond it and below its inverse (``mask``)."""
    importance_cap: float = Field(2.0, gt=1)
    """The largest of these weights."""

    critic: Literal["shared", "separate"] = "shared"
    """A value head on the policy's trunk, or a trunk of its own: twice the memory and the time of a step, and better
    values."""
    critic_init: Literal["policy", "reward"] = "policy"
    """What a separate critic's trunk starts from; ``reward``: the (first) reward model."""
    critic_warmup_steps: int = Field(0, ge=0)
    """Steps at the beginning that train the critic alone."""

    samples_per_step: int = Field(4, ge=0)
    """Answers of each step to write to samples.jsonl."""

    guards: GuardsConfig = Field(default_factory=GuardsConfig)
    """What to watch for while it trains, and what to do then."""

    USED_WHEN: ClassVar[Mapping[str, tuple[str, tuple[object, ...]]]] = {
        **TrainingConfig.USED_WHEN,
        "kl_target": ("kl_controller", ("adaptive",)),
        "kl_horizon": ("kl_controller", ("adaptive",)),
        "missing_eos_penalty": ("cutoff", ("penalty",)),
        "critic_init": ("critic", ("separate",)),
        **dict.fromkeys(_ONLY_WITH_GAE, ("advantage_estimator", ("gae",))),
        "cliprange_value": ("vf_coef", ()),
        "importance": ("max_staleness", ()),
        "importance_cap": ("max_staleness", ()),
    }
    REFUSED: ClassVar[Mapping[str, str]] = {"top_p": _TRUNCATION, "top_k": _TRUNCATION, "min_p": _TRUNCATION}

    @model_validator(mode="after")
    def _batches_fit(self) -> Self:
        if self.answers % self.mini_batch_size:
            fits = max(n for n in range(1, self.answers + 1) if not self.answers % n and n <= self.mini_batch_size)
            answers = f"batch_size={self.batch_size}"
            if self.num_generations > 1:
                answers += f" * num_generations={self.num_generations}"
            raise ValueError(f"mini_batch_size: {self.mini_batch_size} does not divide {answers}; {fits} does")
        if self.num_generations == 1 and self.advantage_estimator in ("grpo", "dr_grpo", "rloo"):
            raise ValueError(
                f"num_generations: 1 answer has no others to be compared with (advantage_estimator="
                f"{self.advantage_estimator!r}); try 8"
            )
        if self.micro_batch_tokens != "auto" and self.micro_batch_tokens <= self.response_length:
            raise ValueError(
                f"micro_batch_tokens: {self.micro_batch_tokens} does not hold one answer of "
                f"response_length={self.response_length} and its prompt; try {2 * self.response_length}"
            )
        if self.scale_rewards and self.advantage_estimator == "grpo" and (self.kl_in == "loss" or self.kl_coef == 0):
            raise ValueError(
                "scale_rewards: changes nothing, for grpo divides by the deviation of each prompt's answers; take it "
                "out (TRL's scale_rewards=False is advantage_estimator='dr_grpo')"
            )
        if self.kl_in == "loss" and self.kl_coef == 0:
            raise ValueError("kl_in: 'loss' is not used with kl_coef=0; set kl_coef, or take kl_in out")
        if self.kl_controller == "adaptive" and self.kl_coef == 0:
            raise ValueError("kl_coef: 0 stays 0 however the adaptive controller multiplies it; try 0.05")
        if self.kl_controller == "adaptive" and self.kl_horizon < self.answers:
            raise ValueError(
                f"kl_horizon: {self.kl_horizon:g} episodes are fewer than the {self.answers} of a step, so kl_coef "
                f"would jump at every step; at least {self.answers}"
            )
        if self.num_layers_unfrozen and self.critic_init == "reward":
            raise ValueError(
                "num_layers_unfrozen: not used with critic_init='reward', for the reward model's trunk is not the "
                "policy's, whose frozen layers the critic shares; take one of them out"
            )
        if self.adapter and self.critic_init == "reward":
            raise ValueError(
                "adapter: not used with critic_init='reward', whose trunk would be trained as a whole; use 'policy'"
            )
        if self.warmup_steps >= self.steps:
            raise ValueError(
                f"warmup_steps: {self.warmup_steps} of steps={self.steps} never reach learning_rate; at most "
                f"{self.steps - 1}"
            )
        for name, needs in self._idle_guards().items():
            if {name, f"{name}_limit", f"{name}_steps"} & self.guards.model_fields_set:
                raise ValueError(f"guards.{name}: not used without {needs}; take it out")
        if self.critic_warmup_steps >= self.steps:
            raise ValueError(
                f"critic_warmup_steps: {self.critic_warmup_steps} of steps={self.steps} leaves the policy untrained; "
                f"at most {self.steps - 1}"
            )
        if self.adapter.get("method") == "adalora":
            tinit, tfinal = (self.adapter.get(name, PLAN[name]) for name in ("tinit", "tfinal"))
            refuse_steps(tinit, tfinal, (self.steps - self.critic_warmup_steps) * self.optimizer_steps)
        return self

    def resolved(self) -> dict[str, Any]:
        """As the base has it, without guards that have nothing to watch."""
        settings = super().resolved()
        idle = tuple(self._idle_guards())
        settings["guards"] = {k: v for k, v in settings["guards"].items() if not k.startswith(idle)}
        return settings

    def _idle_guards(self) -> dict[str, str]:
        """Guards that have nothing to watch, and what they would need."""
        needs = {
            "value_loss": ("a critic", self.advantage_estimator == "gae"),
            "explained_variance": ("a critic", self.advantage_estimator == "gae"),
            "lr_scale": ("target_kl", self.target_kl is not None),
            "equal_groups": ("num_generations", self.num_generations > 1),
            "masked": ('cutoff = "mask"', self.cutoff == "mask"),
        }
        return {name: what for name, (what, there) in needs.items() if not there}

    @property
    def answers(self) -> int:
        """How many a step."""
        return self.batch_size * self.num_generations

    @property
    def optimizer_steps(self) -> int:
        """How many a step, at most."""
        return self.num_ppo_epochs * self.answers // self.mini_batch_size

    @property
    def sampling(self) -> Sampling:
        """How the policy's answers are drawn."""
        return Sampling(self.response_length, self.temperature, stop_strings=self.stop_strings)

    @property
    def clip(self) -> tuple[float, float]:
        """How far the ratio counts below and above 1."""
        return self.cliprange, self.cliprange if self.cliprange_high is None else self.cliprange_high
