"""Optimizers: PyTorch's, by name, or anybody's, by its path."""

import inspect
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from torch.nn import Parameter
from torch.optim import Optimizer

from kedge.config.settings import nearest
from kedge.errors import ConfigError
from kedge.rewards.foreign import import_object

OPTIMIZERS = {
    "adamw": "AdamW", "adam": "Adam", "nadam": "NAdam", "radam": "RAdam", "rmsprop": "RMSprop", "sgd": "SGD",
    "adafactor": "Adafactor",
}  # fmt: skip
"""PyTorch's."""

ELSEWHERE = {
    "muon": "kedge.training.muon.MuonWithAdamW",
    "adamw_8bit": "bitsandbytes.optim.AdamW8bit", "paged_adamw": "bitsandbytes.optim.PagedAdamW",
    "paged_adamw_8bit": "bitsandbytes.optim.PagedAdamW8bit",
}  # fmt: skip
"""Others that are known by a name."""

KNOWN = [*OPTIMIZERS, *ELSEWHERE]

ADAMS = (torch.optim.AdamW, torch.optim.Adam, torch.optim.NAdam, torch.optim.RAdam)
ELEMENTWISE = ("adamw", "adam", "nadam", "radam", "rmsprop", "sgd")
"""Those to which a part of a weight is a weight like any other."""

ALSO_ADAMS = ("adamw_8bit", "paged_adamw", "paged_adamw_8bit")
"""Of another library, which is not imported to know it."""
OURS = ("params", "lr", "weight_decay", "matrices")
"""Arguments of optimizers that are no settings of theirs here."""

EPS = 1e-5
"""Of Adam and its kin, as PPO's reference implementations have it."""


def optimizer_class(name: str) -> type[Optimizer]:
    """The class that a setting names: ``rmsprop``, or the path of one, ``torch.optim.Adagrad``.

    Raises:
        ConfigError: there is no such class, or it is no optimizer.
    """
    if name in OPTIMIZERS:
        kind: type[Optimizer] = getattr(torch.optim, OPTIMIZERS[name])
        return kind
    module, _, attribute = ELSEWHERE.get(name, name).replace(":", ".").rpartition(".")
    if not module:
        raise ConfigError(f"optimizer: {name!r} is none, and no path of one; {nearest(name, KNOWN)}")
    try:
        found = import_object(f"{module}:{attribute}")
    except (ConfigError, ImportError, TypeError, ValueError) as error:
        wanted = "; pip install 'kedge[quantization]'" if name in ELSEWHERE else ""
        raise ConfigError(f"optimizer: {name!r} cannot be imported: {error}{wanted}") from None
    if not (inspect.isclass(found) and issubclass(found, Optimizer)):
        raise ConfigError(f"optimizer: {name!r} is no torch.optim.Optimizer")
    return found


def built(
    name: str,
    groups: Sequence[dict[str, Any]],
    *,
    weight_decay: float,
    given: Mapping[str, Any],
    matrices: Collection[Parameter] = (),
) -> Optimizer:
    """An optimizer of these groups.

    Args:
        name: as :func:`optimizer_class` takes it.
        groups: each has ``params`` and ``lr``.
        weight_decay: of all of them; 0: none.
        given: what else its class takes, by its names.
        matrices: the weights that Muon is for.

    Raises:
        ConfigError: it does not take these, or these weights.
    """
    kind = optimizer_class(name)
    takes = inspect.signature(kind).parameters
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
    unknown = [key for key in given if key not in takes or key in OURS]
    if given.get("maximize"):
        raise ConfigError("optimizer_args.maximize: it would train towards what is to be avoided; take it out")
    if unknown:
        own = [key for key in takes if key not in OURS]
        raise ConfigError(
            f"optimizer_args.{unknown[0]}: {kind.__name__} has no such setting; {nearest(unknown[0], own)}"
        )
    if weight_decay and "weight_decay" not in takes:
        raise ConfigError(f"weight_decay: {kind.__name__} has none; take it out")
    how = ({"eps": EPS} if kind in ADAMS or name in ALSO_ADAMS else {}) | given
    # Said in any case: some have a decay of their own, and 0 is 0.
    how |= {"weight_decay": weight_decay} if "weight_decay" in takes else {}
    how["lr"] = groups[0]["lr"]  # some must be told one, whatever their groups say
    if "matrices" in takes:
        how["matrices"] = matrices
    on_gpus = all(w.device.type == "cuda" for group in groups for w in group["params"])
    if kind is torch.optim.AdamW and on_gpus and not any(_of_two_kinds(group) for group in groups):
        how = {"fused": True} | how
    for key in ("fused", "foreach"):
        if how.get(key) and any(map(_of_two_kinds, groups)):
            raise ConfigError(f"optimizer_args.{key}: not with sharded weights beside whole ones; take it out")
    try:
        return kind(groups, **how)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"optimizer: {kind.__name__}: {error}") from None


def _of_two_kinds(group: Mapping[str, Any]) -> bool:
    """Whether some of its weights are spread over the processes and others whole (a critic's trunk, and its head):
    PyTorch takes no step with both at once."""
    return len({isinstance(weight, DTensor) for weight in group["params"]}) > 1


def refuse_what_does_not_step(name: str, *, lr: float, weight_decay: float, given: Mapping[str, Any]) -> None:
    """Take a step on a matrix and a bias of no meaning, so that what is wrong with the settings is said before anything
    is loaded.

    Raises:
        ConfigError: it cannot be made, or cannot take a step.
    """
    weights = [Parameter(torch.ones(64, 64)), Parameter(torch.ones(64))]
    optimizer = built(
        name, [{"params": weights, "lr": lr}], weight_decay=weight_decay, given=given, matrices=weights[:1]
    )
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    try:
        if not name.startswith("paged_"):  # which wants a GPU
            optimizer.step()
    except (RuntimeError, AssertionError, TypeError, ValueError, LookupError, AttributeError) as error:
        raise ConfigError(
            f"optimizer_args: {type(optimizer).__name__} cannot take a step with these: {error}"
        ) from None
