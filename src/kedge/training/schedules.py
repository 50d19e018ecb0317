"""Learning-rate schedules after the warm-up: those of transformers, by its names and its own functions."""

from collections.abc import Mapping
from typing import Literal

import torch

from kedge.errors import ConfigError

Kind = Literal[
    "constant",
    "constant_with_warmup",
    "linear",
    "cosine",
    "cosine_with_min_lr",
    "cosine_with_restarts",
    "polynomial",
    "inverse_sqrt",
    "warmup_stable_decay",
]

WITH_OPTIONS = ("cosine_with_min_lr", "cosine_with_restarts", "polynomial", "inverse_sqrt", "warmup_stable_decay")
"""Those that ``lr_scheduler_kwargs`` say more about."""


def transformers_factor(
    kind: str, step: int, *, warmup: int, total: int, rate: float, options: Mapping[str, int | float | str]
) -> float:
    """Factor on the peak learning rate ``rate`` at ``step`` of ``total``, as transformers has it.

    Raises:
        ConfigError: options that the schedule does not have, or lacks, or that raise the rate above its peak.
    """
    from transformers import get_scheduler  # whose module imports PEFT, and that bitsandbytes: seconds

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=rate)
    try:
        factor = get_scheduler(kind, optimizer, warmup, total, dict(options)).lr_lambdas[0](step)
        factor = float(factor)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise _refused(kind, options, str(error).rpartition("() ")[2]) from None
    if not 0 <= factor <= 1 + 1e-9:
        raise _refused(kind, options, f"the learning rate would be {factor:g} times learning_rate")
    return factor


def _refused(kind: str, options: Mapping[str, int | float | str], why: str) -> ConfigError:
    return ConfigError(f"lr_scheduler_kwargs: {dict(options)} with lr_scheduler_type={kind!r}: {why}")
