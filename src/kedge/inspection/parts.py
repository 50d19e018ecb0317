"""A role's weights as sharding cuts them (:mod:`kedge.models.sharding`), in bytes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

from torch import nn
from torch.nn import Parameter

from kedge.models.bottom import layers_of
from kedge.models.role import Role


@dataclass(frozen=True)
class Parts:
    """Of one role, or of several that are put together at the same time."""

    spread: int = 0
    """Weights that are spread over the processes."""
    layer: int = 0
    """Of these, the largest layer, which is put together by itself."""
    around: int = 0
    """Of these, what stands around the layers, which is there for a whole pass."""
    plain: int = 0
    """Weights that stay whole in every process: an adapter's, and other few."""
    trained: int = 0
    """Trained weights that are spread."""
    trained_plain: int = 0
    """Trained weights that stay whole."""

    def __add__(self, other: "Parts") -> "Parts":
        sums = {each.name: getattr(self, each.name) + getattr(other, each.name) for each in fields(self)}
        return Parts(**sums | {"layer": max(self.layer, other.layer)})

    @property
    def passing(self) -> int:
        """What is put together at once while a pass goes through: FSDP2 has the next layer on its way meanwhile."""
        return min(self.spread, self.around + 2 * self.layer)


def parts_of(role: Role) -> Parts:
    """A role's own."""
    trunk = role.own_trunk()
    weights = list(role.module.parameters())
    if trunk is None:  # a head on another role's trunk
        return Parts(plain=_bytes(weights), trained_plain=_bytes(_trained(weights)))
    whole = {id(weight) for weight in role.whole_everywhere()}
    spread = [weight for weight in weights if id(weight) not in whole]
    layers = [_bytes(each for each in layer.parameters() if id(each) not in whole) for layer in _layers(role)]
    return Parts(
        spread=_bytes(spread),
        layer=max(layers, default=0),
        around=_bytes(spread) - sum(layers),
        plain=_bytes(weights) - _bytes(spread),
        trained=_bytes(_trained(spread)),
        trained_plain=_bytes(_trained(weights)) - _bytes(_trained(spread)),
    )


def _layers(role: Role) -> Sequence[nn.Module]:
    trunk = role.own_trunk()
    return [] if trunk is None else layers_of(trunk)


def _trained(weights: Iterable[Parameter]) -> list[Parameter]:
    return [weight for weight in weights if weight.requires_grad]


def _bytes(weights: Iterable[Parameter]) -> int:
    return sum(weight.numel() * weight.element_size() for weight in weights)
