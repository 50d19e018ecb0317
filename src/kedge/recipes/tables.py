"""The tables of a recipe: what a file may say of each built-in stage.

Each holds the settings of the class beside the code they configure, and what only a file has to say: which model, which
data, which run folder.
"""

from collections.abc import Mapping
from typing import ClassVar, Self

from pydantic import Field, model_validator

from kedge.config.settings import Config, Several
from kedge.models.device import Device
from kedge.models.loading import DType
from kedge.rewards.said import Judge, Judges
from kedge.sampling.fleet.spec import FleetSpec
from kedge.sampling.settings import Sampling
from kedge.training.ppo import PPOConfig
from kedge.training.reward_modeling import RewardConfig
from kedge.training.sft import SFTConfig


class _Data(Config):
    """Where rows come from. A table that trains names more."""

    columns: Mapping[str, str] = Field(default_factory=dict)
    """``{kedge's column = "the data's column"}`` where they differ."""
    run: str | None = None
    """Run folder; default ``runs/<recipe>-<stage>``."""


class SFTRecipe(_Data, SFTConfig):
    """``[sft]``."""

    model: str
    """Hub id, folder or run to start from."""
    tokenizer: str | None = None
    """Where the tokenizer is, when not beside the model."""
    data: str
    """Demonstrations: ``prompt`` + ``completion``, ``messages``, or ``text``."""
    eval_data: str | None = None
    """Held-out demonstrations."""
    eval_size: int = Field(0, ge=0)
    """How many rows of ``data`` to set aside instead."""


class RewardRecipe(_Data, RewardConfig):
    """``[reward]``."""

    model: str
    """Hub id, folder or run whose trunk to start from."""
    tokenizer: str | None = None
    """Where the tokenizer is, when not beside the model."""
    data: str
    """Preferences: ``chosen`` + ``rejected``, with or without ``prompt``; or ``label``, ``score`` or the columns of
    ``objectives`` beside a ``text``, ``messages``, or ``prompt`` + ``completion``; or ``prompt``, ``completions`` (the
    steps of an answer) and their ``labels``."""
    eval_data: str | None = None
    """The same, held out."""
    eval_size: int = Field(0, ge=0)
    """How many rows of ``data`` to set aside instead."""


class PPORecipe(_Data, PPOConfig):
    """``[ppo]``."""

    policy: str
    """Hub id, folder or run to start from; also the reference."""
    tokenizer: str | None = None
    """Where the tokenizer is, when not beside the policy."""
    prompts: str
    """Rows with a column ``prompt``; the other columns reach the reward."""
    reward: Judges
    """``package.module:name``, a reward model, ``{function | model | kind, weight, name}``, or a list of these."""
    eval_prompts: str | None = None
    """Prompts never trained on."""
    eval_size: int = Field(0, ge=0)
    """How many of ``prompts`` to set aside instead."""
    metrics: Several[Judge] = ()
    """Judges that the training never sees: ``package.module:name``, reward models, or
    ``{function | model | kind, name}``."""
    sampler: FleetSpec | None = None
    """Who writes the answers: ``{ kind = "vllm", urls = [...], weights = "..." }``; default: the engine here."""


class EvaluateRecipe(_Data):
    """``[evaluate]``: one policy against another on the same prompts."""

    STAGE: ClassVar[str] = "evaluate"

    policy: str
    """Hub id, folder or run."""
    baseline: str
    """The policy it is compared with, and from which its KL is measured."""
    tokenizer: str | None = None
    """Where both tokenizers are, when not beside the models."""
    prompts: str
    """Rows with a column ``prompt``; prompts that neither was trained on."""
    limit: int | None = Field(None, ge=1)
    """At most so many of them."""
    reward: Judges | None = None
    """Scores the answers as ``score``."""
    metrics: Several[Judge] = ()
    """Further judges: ``package.module:name``, reward models, or ``{function | model | kind, name}``."""
    response_length: int = Field(64, ge=1)
    """Longest answer, in tokens."""
    temperature: float = Field(1.0, ge=0)
    """Of sampling; 0 is greedy."""
    top_k: int = Field(0, ge=0)
    """Keep the k likeliest tokens; 0 keeps all."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Keep the likeliest tokens up to this probability."""
    min_p: float = Field(0.0, ge=0, lt=1)
    """Keep tokens at least this likely relative to the likeliest."""
    stop_tokens: Several[str] = ()
    """Tokens that end an answer, besides the model's own EOS ids."""
    stop_strings: Several[str] = ()
    """Texts that end an answer."""
    seed: int = 0
    """Both policies draw the same random numbers for a prompt."""
    device: Device = "auto"
    """``cuda``, ``cuda:1``, ``mps``, ``cpu``; ``auto``: the first of them that there is."""
    dtype: DType = "auto"
    """Of the weights."""
    trust_remote_code: bool = False
    """Whether a model may bring code of its own, which is then run. Read it before."""
    attn_implementation: str | None = None
    """Of the models: ``sdpa``, ``eager``, ``flash_attention_2``, ...; ``none``: the model's own."""

    @model_validator(mode="after")
    def _sampling_fits(self) -> Self:
        _ = self.sampling  # says what does not fit together
        return self

    @property
    def sampling(self) -> Sampling:
        """How both policies' answers are drawn."""
        return Sampling(self.response_length, self.temperature, self.top_k, self.top_p, self.min_p, self.stop_strings)
