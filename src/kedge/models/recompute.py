"""Gradient checkpointing that is really on: activations made again in the backward pass instead of kept.

After Chen et al. 2016. ``transformers`` does it in training mode only, silently; PPO computes in evaluation mode,
because its ratio must not see dropout. So the layers that are recomputed, and they alone, are told that they are
training: what is inside them stays as it is.
"""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from kedge.errors import ConfigError
from kedge.models.sharding import class_of


def enable_recomputing(*models: PreTrainedModel) -> list[nn.Module]:
    """Switch it on for these models, whose layers then wait for training mode; returns those layers.

    Raises:
        ConfigError: a model has none.
    """
    layers: list[nn.Module] = []
    for model in models:
        found = [layer for layer in model.modules() if isinstance(layer, GradientCheckpointingLayer)]
        if not found or not getattr(model, "supports_gradient_checkpointing", False):
            raise ConfigError(f"gradient_checkpointing: {type(model).__name__} cannot do it; take it out")
        if any("self.training" in inspect.getsource(class_of(layer)) for layer in found):
            # Told that it trains, such a layer would turn its dropout on.
            raise ConfigError(
                f"gradient_checkpointing: {type(model).__name__} cannot do it with dropout off; take it out"
            )
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        layers += found
    return layers


@contextmanager
def recomputing(layers: Sequence[nn.Module]) -> Iterator[None]:
    """Forward passes inside keep no activations of these layers."""
    before = [layer.training for layer in layers]
    for layer in layers:
        layer.training = True  # not layer.train(), which would reach the dropout inside
    try:
        yield
    finally:
        for layer, training in zip(layers, before, strict=True):
            layer.training = training
