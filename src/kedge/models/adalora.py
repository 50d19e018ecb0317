"""AdaLoRA (Zhang et al. 2023): what PEFT's settings of it may say here, and its layers at their full rank.

What drives its ranks is a part of the training.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import pad

from kedge.errors import ConfigError

PLAN = {"tinit": 0, "tfinal": 0, "deltaT": 1}
"""When ranks fall, in steps of one training; PEFT's defaults."""

SCHEDULE = (*PLAN, "target_r", "beta1", "beta2", "orth_reg_weight")
"""How ranks fall. A training that goes on with an adapter has a schedule of its own."""

SETTINGS = (
    "init_r", *SCHEDULE, "target_modules", "exclude_modules", "lora_alpha", "lora_dropout", "init_lora_weights",
    "layers_to_transform", "layers_pattern", "bias", "modules_to_save",
)  # fmt: skip
"""PEFT's class for it is LoRA's too, and takes much that its layers know nothing of."""

REFUSED = {
    "r": "adalora begins with init_r and comes down to target_r; set these",
    "total_step": "is counted from the training's own steps; take it out",
    "rank_pattern": "is what the training finds; take it out",
}

LEAST = {"init_r": 1, "target_r": 1, "tinit": 0, "tfinal": 0, "deltaT": 1}
DEFAULTS = {"init_r": 12, "target_r": 8, "beta1": 0.85, "beta2": 0.85, "orth_reg_weight": 0.5, **PLAN}
"""PEFT's."""


def is_adalora(config: Any) -> bool:
    """Whether PEFT's configuration of an adapter, or None, is one of AdaLoRA."""
    return getattr(config, "peft_type", None) == "ADALORA"


def checked(given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as PEFT's class takes them, which wants to know the steps when nobody does yet: just enough of them.

    Raises:
        ConfigError: a number that is none of AdaLoRA's, or one that is found out here.
    """
    for name, why in REFUSED.items():
        if name in given:
            raise ConfigError(f"adapter.{name}: {why}")
    all_of_them = DEFAULTS | dict(given)
    for name, least in LEAST.items():
        value = all_of_them[name]
        if type(value) is not int or value < least:
            raise ConfigError(f"adapter.{name}: must be a whole number and at least {least}, not {value!r}")
    for name in ("beta1", "beta2"):
        if not (isinstance(all_of_them[name], float) and 0 < all_of_them[name] < 1):
            raise ConfigError(f"adapter.{name}: must be a number between 0 and 1, not {all_of_them[name]!r}")
    weight = all_of_them["orth_reg_weight"]
    if type(weight) not in (int, float) or weight < 0:
        raise ConfigError(f"adapter.orth_reg_weight: must be a number and at least 0, not {weight!r}")
    refuse_ranks(all_of_them["init_r"], all_of_them["target_r"])
    return dict(given) | {"total_step": all_of_them["tinit"] + all_of_them["tfinal"] + 1}


def refuse_ranks(init_r: int, target_r: int) -> None:
    """Raise where there is nowhere to come down to.

    Raises:
        ConfigError: naming the setting.
    """
    if target_r >= init_r:
        raise ConfigError(
            f"adapter.target_r: {target_r} is not below init_r={init_r}, from where the ranks come down; lower it, or "
            "raise init_r (ranks that stay as they are: lora)"
        )


def refuse_steps(tinit: int, tfinal: int, steps: int) -> None:
    """Raise where so many optimizer steps leave none for the ranks to come down in.

    Raises:
        ConfigError: naming the settings.
    """
    if tinit + tfinal >= steps:
        name = "tinit" if tinit > tfinal else "tfinal"
        raise ConfigError(
            f"adapter.{name}: tinit={tinit} and tfinal={tfinal} leave none of the {steps} optimizer steps for the "
            f"ranks to come down in; together at most {steps - 1}"
        )


def reschedule(config: Any, settings: Mapping[str, Any]) -> None:
    """Let an adapter that is there already have these settings' schedule; what is not said of it is as it was, but for
    what is counted in steps, of which this training has its own."""
    if is_adalora(config) and settings:
        for name, value in (PLAN | dict(settings)).items():
            if name in SCHEDULE:
                setattr(config, name, value)


def to_full_rank(model: nn.Module, config: Any) -> None:
    """Of a model that PEFT has loaded: layers as wide as they were before it took out what was masked."""
    if is_adalora(config) and config.rank_pattern is not None:
        for name, weight in model.named_parameters():
            if ".lora_" in name:
                weight.data = at_full_rank(name, weight.data, config)
        config.rank_pattern = None


def at_full_rank(name: str, weight: Tensor, config: Any) -> Tensor:
    """A layer's weight with zeros in place of what PEFT took out: they count for nothing, and have no gradient."""
    if not is_adalora(config) or ".lora_" not in name:
        return weight
    is_left = ".lora_B" in name
    missing = config.init_r - weight.shape[-1 if is_left else 0]
    return pad(weight, (0, missing) if is_left else (0, 0, 0, missing))
