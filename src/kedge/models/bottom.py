"""Frozen bottoms: where only the upper layers are trained, what is below them is run once a token and never again.

Every pass over the same tokens (the reference's, the critic's, those of all epochs) finds the same hidden states below
the first layer that is trained. They are computed once, kept, and given to the passes in place of the layers that made
them. ``num_layers_unfrozen`` is trlX's name (Havrilla et al. 2023).

A model's own forward pass is what runs, with some of its layers answered for; so positions, masks and whatever else an
architecture does with its embeddings stay its own. Whether its layers can be answered for is tried out.
"""

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from kedge.errors import ConfigError
from kedge.models.head import agree, in_eval_mode, last_hidden, trunk_of, vocabulary_rows
from kedge.models.quantized import can_be_trained

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class Bottom:
    """The layers of a trunk that are frozen. Holds for every copy of it."""

    depth: int
    """How many, from below."""
    in_tuples: bool
    """Whether a layer gives its hidden states as the first of a tuple."""

    def states(self, trunk: PreTrainedModel, tokens: Tensor) -> Tensor:
        """``[B, L, H]``: what the first layer above the bottom reads of right-padded ``tokens [B, L]``."""
        seen: list[Tensor] = []

        def note(hidden: Tensor) -> Tensor:
            seen.append(hidden)
            return hidden

        with self._answering(layers_of(trunk)[self.depth :], note):
            trunk(input_ids=tokens, use_cache=False)
        return seen[0]

    def hidden(self, trunk: PreTrainedModel, tokens: Tensor, states: Tensor) -> Tensor:
        """``[B, L, H]``: the trunk's last hidden states, of tokens whose :meth:`states` are given."""
        with self._answering(layers_of(trunk)[: self.depth], lambda _: states):
            return last_hidden(trunk, tokens)

    def above(self, trunk: PreTrainedModel, weights: Sequence[nn.Parameter]) -> list[nn.Parameter]:
        """Those of the weights that have a part in what comes after the bottom, and none in it."""
        tokens = torch.zeros(1, 2, dtype=torch.long, device=trunk.device)
        with torch.enable_grad(), _trained(weights):
            of_states = torch.autograd.grad(self.states(trunk, tokens).sum(), weights, allow_unused=True)
            hidden = self.hidden(trunk, tokens, self.states(trunk, tokens).detach())
            of_hidden = torch.autograd.grad(hidden.sum(), weights, allow_unused=True)
        found = zip(weights, of_states, of_hidden, strict=True)
        return [weight for weight, below, above in found if above is not None and below is None]

    @contextmanager
    def _answering(self, layers: Sequence[nn.Module], answer: Callable[[Tensor], Tensor]) -> Iterator[None]:
        """Inside, these layers give what ``answer`` makes of the hidden states that come to them."""

        def forward(*args: Any, **kwargs: Any) -> Any:
            hidden = answer(args[0] if args else kwargs["hidden_states"])
            return (hidden,) if self.in_tuples else hidden

        own = [vars(layer).get("forward") for layer in layers]  # one may have been wrapped already
        for layer in layers:
            vars(layer)["forward"] = forward  # found before the class's
        try:
            yield
        finally:
            for layer, before in zip(layers, own, strict=True):
                del vars(layer)["forward"]
                if before is not None:
                    vars(layer)["forward"] = before


@contextmanager
def _trained(weights: Sequence[nn.Parameter]) -> Iterator[None]:
    """Frozen weights, thawed for a while."""
    for weight in weights:
        weight.requires_grad_(True)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(False)


def hidden_of(trunk: PreTrainedModel, tokens: Tensor, bottom: Bottom | None, states: Tensor | None) -> Tensor:
    """``[B, L, H]``: the trunk's last hidden states; off its bottom's states where those are given."""
    if bottom is None or states is None:
        return last_hidden(trunk, tokens)
    return bottom.hidden(trunk, tokens, states)


def layers_of(trunk: PreTrainedModel) -> list[nn.Module]:
    """A trunk's layers from below; none where they are not in a list of their own."""
    count = getattr(trunk.config.get_text_config(), "num_hidden_layers", None)
    lists = (module for module in trunk.modules() if isinstance(module, nn.ModuleList) and len(module) == count)
    return list(next(lists, []))


def freeze_bottom(model: PreTrainedModel, unfrozen: int) -> Bottom | None:
    """Leave only the top layers to be trained, the norm behind them, and the head where it is not the embedding too.

    Args:
        model: a causal language model.
        unfrozen: layers from above.

    Returns:
        The frozen bottom; None where its layers cannot be answered for, as a trial on the model shows.

    Raises:
        ConfigError: it has no more layers than that, or none in a list of their own.
    """
    trunk = trunk_of(model)
    layers, name = layers_of(trunk), type(model).__name__
    if not layers:
        raise ConfigError(f"num_layers_unfrozen: {name} has no list of layers to freeze some of; take it out")
    if unfrozen >= len(layers):
        raise ConfigError(
            f"num_layers_unfrozen: {unfrozen} leaves none of the {len(layers)} layers of {name} frozen; at most "
            f"{len(layers) - 1}, or take it out"
        )
    for weight in (weight for layer in layers[-unfrozen:] for weight in layer.parameters() if can_be_trained(weight)):
        weight.requires_grad_(True)  # a training before this one may have frozen some
    first = next(iter(layers[-unfrozen].parameters()))
    before = list(filter(can_be_trained, itertools.takewhile(lambda weight: weight is not first, trunk.parameters())))
    for weight in before:  # embeddings and layers, as they are registered; and a norm behind the layers, now and then
        weight.requires_grad_(False)
    bottom = bottom_of(model, unfrozen)
    if bottom is not None:
        for weight in bottom.above(trunk, before):
            weight.requires_grad_(True)
    return bottom


def bottom_of(model: PreTrainedModel, unfrozen: int) -> Bottom | None:
    """The frozen bottom of a model, or None where its layers cannot be answered for, as a trial on it shows."""
    trunk = trunk_of(model)
    layers = layers_of(trunk)
    made: list[object] = []
    tokens = torch.arange(10, device=model.device).view(2, 5) % vocabulary_rows(model)
    with in_eval_mode(model):
        hook = layers[0].register_forward_hook(lambda *call: made.append(call[-1]))
        with torch.no_grad():
            whole = last_hidden(trunk, tokens)
        hook.remove()
        bottom = Bottom(len(layers) - unfrozen, in_tuples=isinstance(made[0], tuple))
        try:
            states = bottom.states(trunk, tokens)
            bottom.states(trunk, tokens.flip(0, 1))  # what layers leave behind for each other is another pass's now
            hidden = bottom.hidden(trunk, tokens, states.detach())
        # What an architecture does where a layer is not its own is its own code, which may refuse in any of these ways.
        except (RuntimeError, ValueError, TypeError, LookupError, AttributeError):
            return None
    return bottom if not states.requires_grad and agree(hidden.detach(), whole) else None


def copy_of_trained(module: Module, *, sharded: bool = False) -> Module:
    """A copy that shares with the original what is frozen, and has the rest for itself.

    Args:
        module: to be copied.
        sharded: both will be, and have parts of their own then; until then the numbers of the rest stand once.
    """
    shared = {id(weight): weight for weight in module.parameters() if not weight.requires_grad}
    rest = {id(weight): nn.Parameter(weight.detach()) for weight in module.parameters() if weight.requires_grad}
    return copy.deepcopy(module, shared | rest if sharded else shared)
