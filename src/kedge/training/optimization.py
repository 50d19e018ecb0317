"""Optimiser, learning-rate schedule and the order of the data, all functions of (seed, step): nothing to resume."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn import Parameter
from torch.optim import Optimizer
from transformers import PreTrainedModel

from kedge.errors import ConfigError
from kedge.parallel import gathered, local
from kedge.training.config import FLOAT16, TrainingConfig
from kedge.training.optimizers import built
from kedge.training.schedules import WITH_OPTIONS, transformers_factor


def make_optimizer(groups: Sequence[dict[str, Any]], config: TrainingConfig) -> Optimizer:
    """The optimizer that the settings name.

    Args:
        groups: each has ``params``, ``lr``, and perhaps ``matrices``: those of them that Muon is for.
        config: the settings.

    Raises:
        ConfigError: weights in float16, in which Adam's second moment is 0 for any gradient below 1e-3 or so; or as
            :func:`kedge.training.optimizers.built`.
    """
    for group in groups:
        if any(weight.dtype == torch.float16 for weight in group["params"]):
            raise ConfigError(f"dtype: {FLOAT16}")
        group["peak_lr"] = group["lr"]
    matrices = [weight for group in groups for weight in group.pop("matrices", ())]
    given = config.optimizer_args
    return built(config.optimizer, groups, weight_decay=config.weight_decay, given=given, matrices=matrices)


def schedule(config: TrainingConfig, step: int, total_steps: int) -> float:
    """Factor on the peak learning rate at ``step`` (from 0) of ``total_steps``."""
    warmup = config.warmup(total_steps)
    if step < warmup:
        return (step + 1) / warmup
    if config.lr_scheduler_type in WITH_OPTIONS:
        rate, options = config.learning_rate, config.lr_scheduler_kwargs
        return transformers_factor(
            config.lr_scheduler_type, step, warmup=warmup, total=total_steps, rate=rate, options=options
        )
    done = (step - warmup) / max(1, total_steps - warmup)
    if config.lr_scheduler_type == "linear":
        return 1.0 - done
    if config.lr_scheduler_type == "cosine":
        return (1.0 + math.cos(math.pi * done)) / 2
    return 1.0


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Every group's learning rate: its peak times ``factor``."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor


def can_be_read_off(optimizer: Optimizer) -> bool:
    """Whether its last step can, by :func:`retake_step`: AdamW's, as the paper has it."""
    plain = not any(group.get("amsgrad") or group.get("maximize") for group in optimizer.param_groups)
    return type(optimizer) is torch.optim.AdamW and plain


@torch.no_grad()
def retake_step(group: dict[str, Any], optimizer: Optimizer, factor: float) -> None:
    """Take a group's last step again with ``factor`` times its learning rate: 1 changes nothing, 0 takes it back.

    The step can be read off AdamW's moments (Loshchilov & Hutter 2019, algorithm 2), so that no copy of the weights
    need be kept. The moments stay as they are, and ``group["lr"]`` is the new rate. To be called before another step,
    for weights that all took part in the last one.
    """
    (beta1, beta2), eps, decay = group["betas"], group["eps"], group["weight_decay"]
    before, after = group["lr"], group["lr"] * factor
    moved = [weight for weight in group["params"] if optimizer.state[weight]]  # the others never had a gradient
    counts = torch.stack([optimizer.state[weight]["step"] for weight in moved]).tolist() if moved else []
    for weight, count in zip(moved, counts, strict=True):
        state = optimizer.state[weight]
        deviation = (state["exp_avg_sq"] / (1 - beta2**count)).sqrt_().add_(eps)
        direction = state["exp_avg"] / (1 - beta1**count) / deviation
        weight.add_(direction, alpha=before).div_(1 - before * decay)
        weight.mul_(1 - after * decay).sub_(direction, alpha=after)
    group["lr"] = after
    torch.clear_autocast_cache()  # which holds low-precision copies of the weights as they were


def precision(config: TrainingConfig, device: torch.device) -> torch.autocast:
    """A context in which models compute in the precision that ``autocast`` names."""
    return torch.autocast(device.type, torch.bfloat16, enabled=config.autocast is not None)


def compute_dtype(config: TrainingConfig, model: PreTrainedModel) -> torch.dtype:
    """What a model's products are computed in."""
    return model.dtype if config.autocast is None else torch.bfloat16


@torch.no_grad()
def clip_gradients(parameters: Iterable[Parameter], max_norm: float | None) -> Tensor:
    """The norm of all gradients together before clipping; clipped to ``max_norm`` in place. Of weights that are spread
    over the processes, the whole gradient counts."""
    limit = math.inf if max_norm is None else max_norm
    weights = list(parameters)
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    sharded = [gradient for gradient in gradients if isinstance(gradient, DTensor)]
    norm = torch.nn.utils.get_total_norm([each for each in gradients if not isinstance(each, DTensor)])
    if sharded:
        part = gathered(torch.nn.utils.get_total_norm(sharded))
        norm = torch.linalg.vector_norm(torch.stack([norm.to(part.device), part]))
    torch.nn.utils.clip_grads_with_norm_([w for w in weights if not isinstance(w, DTensor)], limit, norm)
    for gradient in sharded:
        local(gradient).mul_((limit / (norm + 1e-6)).clamp(max=1.0))
    return norm


def batch_indices(rows: int, batch_size: int, step: int, seed: int) -> list[int]:
    """Rows of the batch at ``step`` (from 0): pass after pass over the data, each pass in an order of its own."""
    positions = range(step * batch_size, (step + 1) * batch_size)
    orders = {epoch: _permutation(rows, seed, epoch) for epoch in {p // rows for p in positions}}
    return [int(orders[p // rows][p % rows]) for p in positions]


def permutation(n: int, *seeds: int) -> list[int]:
    """An order of ``range(n)`` that depends on the seeds alone."""
    order: list[int] = _permutation(n, *seeds).tolist()
    return order


def _permutation(n: int, *seeds: int) -> Tensor:
    mixed = 0
    for seed in seeds:
        mixed = (mixed * 0x5851F42D4C957F2D + seed + 0x14057B7EF767814F) % 2**63
    return torch.randperm(n, generator=torch.Generator().manual_seed(mixed))
