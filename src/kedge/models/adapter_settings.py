"""What an adapter's settings may say: PEFT's own, but for what would change the base that other roles share."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from kedge.config.settings import nearest
from kedge.errors import ConfigError
from kedge.models import adalora, prefix

METHODS = ("lora", "ia3", "loha", "lokr", "adalora", prefix.PREFIX_TUNING)

WHOLE = (
    "modules_to_save", "trainable_token_indices", "lora_bias", "layer_replication", "alora_invocation_tokens",
    "arrow_config",
)  # fmt: skip
"""Settings of PEFT's by which more than an adapter is trained or built, or one that cannot be merged; here the base is
shared, and stays as it is."""

INITS = (True, False, "gaussian", "orthogonal")
"""First weights of LoRA that leave the base alone."""

OWN = (
    "peft_type", "task_type", "base_model_name_or_path", "revision", "inference_mode", "auto_mapping", "peft_version",
    "runtime_config",
)  # fmt: skip
"""What PEFT's classes have and a user does not set."""

Settings = Mapping[str, Any]


def peft_config(settings: Settings) -> Any:
    """PEFT's configuration of an adapter.

    Args:
        settings: ``method``, and what PEFT's class for it takes, by PEFT's names.

    Raises:
        ConfigError: PEFT is not installed, there is no such method, or the method has no such setting.
    """
    peft = peft_library()
    given = dict(settings)
    method = given.pop("method", "lora")
    if method not in METHODS:
        raise ConfigError(f"adapter.method: must be one of {', '.join(METHODS)}, not {method!r}")
    kind = peft.PEFT_TYPE_TO_CONFIG_MAPPING[method.upper()]
    if method == prefix.PREFIX_TUNING:
        return kind(**prefix.checked(given))
    known: Sequence[str] = [name for name in inspect.signature(kind).parameters if name not in OWN]
    if method == "adalora":
        given, known = adalora.checked(given), adalora.SETTINGS
    for name in settings:
        if name not in (*known, "method"):
            raise ConfigError(f"adapter.{name}: {method} has no such setting; {nearest(name, known)}")
    for name, value in given.items():
        _refuse_wrong_type(name, value, _default(kind, name))
    try:
        config = kind(**given)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"adapter: {error}") from None
    if given.get("init_lora_weights", True) not in INITS:
        raise ConfigError(
            f"adapter.init_lora_weights: {given['init_lora_weights']!r} is none of those that leave the base as it is, "
            'which other roles share; take it out, or say "gaussian" or "orthogonal"'
        )
    if setting := trains_base(config):
        raise ConfigError(f"adapter.{setting}: not used here, where other roles share the base; take it out")
    return config


def peft_library() -> Any:
    """PEFT, which not everybody has.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import peft
    except ImportError:
        raise ConfigError("adapter: needs PEFT; pip install 'kedge[adapters]'") from None
    return peft


def _default(kind: Any, name: str) -> Any:
    return inspect.signature(kind).parameters[name].default


def _refuse_wrong_type(name: str, value: Any, default: Any) -> None:
    """PEFT takes nearly anything, and fails on it later, or takes ``"no"`` for yes."""
    if isinstance(default, bool) and not isinstance(value, bool) and name != "init_lora_weights":
        raise ConfigError(f"adapter.{name}: true or false, not {value!r}")
    if isinstance(default, int | float) and not isinstance(default, bool):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f"adapter.{name}: a number, not {value!r}")
        if name == "r" and (value != int(value) or value < 1):
            raise ConfigError(f"adapter.r: a whole number of at least 1, not {value!r}")


def trains_base(config: Any) -> str | None:
    """The setting by which more than the adapter is trained, where there is one."""
    if getattr(config, "bias", "none") != "none":
        return "bias"
    return next((name for name in WHOLE if getattr(config, name, None)), None)


def method_of(config: Any) -> str:
    """What the settings call the kind of adapter that PEFT's configuration is of."""
    return str(config.peft_type.value).lower()
