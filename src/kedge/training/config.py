"""Settings that every training job shares."""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import BeforeValidator, Field, model_validator
from torch import nn
from transformers import PreTrainedModel

from kedge.config.settings import Config, Several
from kedge.errors import ConfigError
from kedge.models.adalora import reschedule
from kedge.models.adapters import (
    adapter_of,
    add_adapter,
    peft_config,
    refuse_other_adapter,
    refuse_unshareable,
    train_adapter,
)
from kedge.models.device import Device, pick_device
from kedge.models.quantized import Quantization, held_as, is_quantized, refuse_unheld, refuse_unsteady
from kedge.models.sharding import BEFORE, Sharding
from kedge.parallel import joined
from kedge.runs.trackers import TrackerName
from kedge.training.optimizers import ELEMENTWISE, refuse_what_does_not_step
from kedge.training.schedules import WITH_OPTIONS, Kind, transformers_factor

LOADING = ("device", "dtype", "trust_remote_code", "attn_implementation", "quantization")
"""Settings that say how a model is loaded."""

FLOAT16 = (
    "a model in float16 cannot be trained, for the squares of its gradients vanish in it; use float32, and set "
    'autocast = "bfloat16" to compute in less'
)


def _refuse_float16(dtype: object) -> object:
    if dtype == "float16":
        raise ValueError(FLOAT16)
    return dtype


def adapt(model: PreTrainedModel, config: "TrainingConfig", frozen: Sequence[nn.Module] = ()) -> None:
    """Give a model the adapter that the settings ask for, in place; the one that it has already is trained further.

    Args:
        model: to be trained.
        config: of the training.
        frozen: layers that get none.

    Raises:
        ConfigError: it matches nothing, its settings are wrong, or the model has another one.
    """
    refuse_unsteady(model)
    if adapter_of(model) is not None:
        refuse_unshareable(model)
        refuse_other_adapter(model, config.adapter)
        reschedule(adapter_of(model), config.adapter)
        train_adapter(model)
    elif config.adapter:
        if is_quantized(model):
            refuse_unheld(held_as(model), config.adapter.get("method", "lora"))
        add_adapter(model, config.adapter, seed=config.seed, frozen=frozen)
    elif is_quantized(model):
        raise ConfigError('adapter: missing; quantised weights are not trained; set adapter = { method = "lora" }')


class TrainingConfig(Config):
    """Where, how fast, and how often to look."""

    seed: int = 0
    """All randomness comes from it: same seed, same machine, same run."""
    device: Device = "auto"
    """``cuda``, ``cuda:1``, ``mps``, ``cpu``; ``auto``: the first of them that there is."""
    dtype: Annotated[Literal["auto", "float32", "bfloat16"], BeforeValidator(_refuse_float16)] = "auto"
    """Of the weights. ``auto`` is float32: small steps vanish in bfloat16."""
    trust_remote_code: bool = False
    """Whether a model may bring code of its own, which is then run. Read it before."""
    attn_implementation: str | None = None
    """Of the models: ``sdpa``, ``eager``, ``flash_attention_2``, ...; ``none``: the model's own. Answers are written
    fastest with the first two."""
    autocast: Literal["bfloat16"] | None = None
    """``bfloat16``: compute in it while the weights stay as they are; pays on GPUs that have it in hardware."""
    optimizer: str = "adamw"
    """``adamw``, ``adam``, ``nadam``, ``radam``, ``rmsprop``, ``sgd``, ``adafactor``; ``muon`` (and AdamW for all but
    matrices); ``adamw_8bit``, and on GPUs ``paged_adamw`` and ``paged_adamw_8bit``, of bitsandbytes; or the path of a
    class of optimizers, ``"torch.optim.Adagrad"``."""
    optimizer_args: Mapping[str, Any] = Field(default_factory=dict)
    """What else its class takes, by its names: ``{ betas = [0.9, 0.95] }``. PyTorch's Adam and its kin, and those in
    eight bits or paged, have eps 1e-5, as PPO's reference implementations have it."""
    learning_rate: float = Field(1e-5, gt=0)
    """Peak learning rate."""
    lr_scheduler_type: Kind = "linear"
    """How it falls after the warm-up; transformers' schedules, under its names. ``linear`` and ``cosine``: to 0 at the
    last step."""
    lr_scheduler_kwargs: Mapping[str, int | float | str] = Field(default_factory=dict)
    """What else transformers' schedule takes: ``min_lr_rate`` of ``cosine_with_min_lr``, ``num_decay_steps`` of
    ``warmup_stable_decay``, ``power`` of ``polynomial``, ..."""
    warmup_steps: int = Field(0, ge=0)
    """Steps over which it rises linearly from 0."""
    warmup_ratio: float = Field(0.0, ge=0, lt=1)
    """The same as a share of all steps."""
    weight_decay: float = Field(0.0, ge=0)
    """The optimizer's."""
    max_grad_norm: float | None = Field(1.0, gt=0)
    """Gradients of all trained weights together are clipped to this norm; ``none``: not."""
    micro_batch_tokens: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    """Tokens, padding included, of one forward and backward pass: lower it when memory runs out. Does not change
    the result. ``auto``: by machine and model, said at the start and written into the run's recipe."""
    adapter: Mapping[str, Any] = Field(default_factory=dict)
    """A table: an adapter is trained, and the model's own weights stay as they are. ``method`` ``"lora"``, ``"ia3"``,
    ``"loha"``, ``"lokr"`` or ``"adalora"``; what else PEFT's class for it takes, by PEFT's names (``r``,
    ``lora_alpha``, ``use_dora``, ``use_rslora``, ``target_modules``, ...; of AdaLoRA ``init_r``, ``target_r``, and in
    optimizer steps, which are counted here, ``tinit``, ``tfinal`` and ``deltaT``). Empty: the whole model is trained.
    ``pip install 'kedge[adapters]'``."""
    quantization: Quantization | None = None
    """Under an adapter: hold the linear layers of the base in four or eight bits a weight, ``nf4`` or ``int8``. A run
    that goes on from one says nothing. ``pip install 'kedge[quantization]'``."""
    shard: bool = False
    """Where several processes train: spread the weights of all models over them, with gradients and moments (FSDP2), so
    that each holds a part; ``false``: each holds whole models. Does not change the result."""
    gradient_checkpointing: bool = False
    """Make activations again in the backward pass instead of keeping them: less memory, a third more computing. Does
    not change the result."""
    eval_every: int = Field(0, ge=0)
    """Evaluate on held-out rows every so many steps, besides the beginning and the end; 0: only those."""
    checkpoint_every: int = Field(0, ge=0)
    """Write a checkpoint every so many steps; 0: none."""
    keep_last: int = Field(2, ge=1)
    """How many checkpoints to keep, besides the best."""
    best_metric: str | None = None
    """Held-out metric by which a checkpoint is the best, measured at every evaluation; a minus in front: the smaller
    the better. ``none``: for PPO the first of ``metrics``, which the reward does not optimise, else the score; the
    accuracy of a reward model; the loss of SFT."""
    max_left_out: int = Field(3, ge=1)
    """A step with NaN or infinity in it is left out; after so many in a row the run stops."""

    report_to: Several[TrackerName] = ()
    """Where metrics go besides metrics.jsonl: ``tensorboard``, ``wandb``, or both."""

    USED_WHEN: ClassVar[Mapping[str, tuple[str, tuple[object, ...]]]] = {
        "keep_last": ("checkpoint_every", ()),
        "best_metric": ("checkpoint_every", ()),
        "quantization": ("adapter", ()),
        "lr_scheduler_kwargs": ("lr_scheduler_type", WITH_OPTIONS),
    }

    @model_validator(mode="after")
    def _schedule_is_whole(self) -> Self:
        refuse_what_does_not_step(
            self.optimizer, lr=self.learning_rate, weight_decay=self.weight_decay, given=self.optimizer_args
        )
        if self.adapter:
            peft_config(self.adapter)
        if self.quantization:
            refuse_unheld(self.quantization, self.adapter.get("method", "lora"))
        if self.shard and self.quantization:
            raise ValueError("shard: not with quantization, whose weights are not spread; take one of them out")
        if self.shard and self.optimizer not in ELEMENTWISE:
            raise ValueError(
                f"shard: {self.optimizer} asks for whole weights; set optimizer to one of {', '.join(ELEMENTWISE)}"
            )
        if self.warmup_ratio and self.warmup_steps:
            raise ValueError("warmup_ratio: not used with warmup_steps; take one of them out")
        if self.lr_scheduler_type in WITH_OPTIONS:
            for step in (0, 1, 10**5, 10**9 - 1):  # some options are not looked at before the end
                transformers_factor(
                    self.lr_scheduler_type,
                    step,
                    warmup=1,
                    total=10**9,
                    rate=self.learning_rate,
                    options=self.lr_scheduler_kwargs,
                )
        return self

    def warmup(self, total_steps: int) -> int:
        """Steps of warm-up in a training of so many."""
        return self.warmup_steps or min(math.ceil(self.warmup_ratio * total_steps), total_steps - 1)

    @property
    def loading(self) -> dict[str, Any]:
        """How models are loaded."""
        return {name: getattr(self, name) for name in LOADING}

    @property
    def loading_to_train(self) -> dict[str, Any]:
        """How those are that are trained: to be sharded, where all processes of a host share a file's pages."""
        return self.loading | BEFORE if self.is_sharded else self.loading

    @property
    def is_sharded(self) -> bool:
        """Whether models are spread over the processes, of which there are several."""
        return self.shard and joined().size > 1

    @property
    def weights_dtype(self) -> torch.dtype:
        """What the weights of models are held in that are trained."""
        return torch.bfloat16 if self.dtype == "bfloat16" else torch.float32

    def sharding(self) -> Sharding:
        """How they are."""
        low = None if self.autocast is None else torch.bfloat16
        return Sharding(torch.device(pick_device(self.device)), joined().size, low)

    @property
    def tokens_at_a_time(self) -> int:
        """``micro_batch_tokens``, once it is known."""
        assert self.micro_batch_tokens != "auto"
        return self.micro_batch_tokens

    def with_micro_batch(self, tokens: int) -> Self:
        """The same with ``micro_batch_tokens`` known: as it is, or these where it is ``auto``."""
        return self if self.micro_batch_tokens != "auto" else self.model_copy(update={"micro_batch_tokens": tokens})
