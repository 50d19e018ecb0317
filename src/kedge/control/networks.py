"""Policy and value network, each with a body of its own, initialised as PPO's reference implementations have it.

Bodies read sequences: ``[T, N, ...]`` observations, and ``starts [T, N]``, True where an episode begins. What does not
remember takes no notice of that.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn

from kedge.control.config import ControlConfig
from kedge.control.dense import Dense
from kedge.control.distributions import Distribution, Gaussian
from kedge.control.observations import has_images, is_image, parts, pixels_first, width
from kedge.models.device import pick_device
from kedge.models.lstm import LSTM, State

ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU}
Memory = State | None
"""Of an LSTM: hidden and cell state, ``[1, N, H]`` each."""
Memories = tuple[Memory, Memory]
"""Of policy and value network."""


class ActorCritic(nn.Module):
    """The policy's outputs and the values of observations."""

    def __init__(self, space: spaces.Space[Any], distribution: Distribution, config: ControlConfig) -> None:
        super().__init__()
        self.actor, self.critic = body(space, config), body(space, config)
        self.action_head = linear(config.hidden_sizes[-1], distribution.size, gain=0.01)
        self.value_head = linear(config.hidden_sizes[-1], 1, gain=1.0)
        deviations = distribution.size if isinstance(distribution, Gaussian) else 0
        self.log_std = nn.Parameter(torch.full((deviations,), config.log_std_init))
        self.dense: Dense | None = None
        if pick_device(config.device).type == "cpu" and config.policy == "feedforward" and not has_images(space):
            stacks = [*linears(self.actor), self.action_head], [*linears(self.critic), self.value_head]
            self.dense = Dense(stacks, config.activation)

    def leaves(self) -> list[Tensor]:
        """What gradients are of: together all weights."""
        weights = list(self.parameters()) if self.dense is None else [self.dense.flat, self.log_std]
        return [weight for weight in weights if weight.numel()]

    def by_name(self, leaves: Sequence[Tensor]) -> dict[str, Tensor]:
        """Tensors that are shaped like the leaves, as views shaped like the weights, by their names."""
        names = {id(weight): name for name, weight in self.named_parameters()}
        if self.dense is None:
            return {names[id(weight)]: x for weight, x in zip(self.leaves(), leaves, strict=True)}
        flat, *others = leaves
        weights = [weight for stack in self.dense.layers for layer in stack for weight in (layer.weight, layer.bias)]
        parts = zip(weights, flat.split([weight.numel() for weight in weights]), strict=True)
        found = {names[id(weight)]: part.view(weight.shape) for weight, part in parts}
        return found | dict(zip(["log_std"], others, strict=False))

    def both(self, observations: Tensor, starts: Tensor | None, memories: Memories) -> tuple[Tensor, Tensor]:
        """The policy's outputs ``[T, N, size]`` and the values ``[T, N]``, with what was remembered before."""
        if self.dense is not None:
            outputs, values = self.dense(observations)
            return outputs, values.squeeze(-1)
        outputs, _ = self.outputs(observations, starts, memories[0])
        return outputs, self.values(observations, starts, memories[1])[0]

    def outputs(self, observations: Tensor, starts: Tensor | None, memory: Memory = None) -> tuple[Tensor, Memory]:
        """What chooses the distribution over actions, ``[T, N, size]``, and what is remembered."""
        if self.dense is not None:
            return self.dense.one(observations, 0), None
        features, memory = self.actor(observations, starts, memory)
        return self.action_head(features), memory

    def values(self, observations: Tensor, starts: Tensor | None, memory: Memory = None) -> tuple[Tensor, Memory]:
        """``[T, N]``, and what is remembered."""
        if self.dense is not None:
            return self.dense.one(observations, 1).squeeze(-1), None
        features, memory = self.critic(observations, starts, memory)
        return self.value_head(features).squeeze(-1), memory

    def memories(self, n: int) -> Memories:
        """What policy and value network remember of N environments before the first step."""
        if not isinstance(self.actor, Recurrent) or not isinstance(self.critic, Recurrent):
            return None, None
        return self.actor.lstm.nothing(n), self.critic.lstm.nothing(n)


class FeedForward(nn.Sequential):
    """Layers that look at one observation."""

    def forward(self, observations: Tensor, starts: Tensor | None, memory: Memory = None) -> tuple[Tensor, Memory]:  # type: ignore[override]
        features: Tensor = observations
        for layer in self:
            features = layer(features)
        return features, None


class Pixels(nn.Module):
    """A small convolutional network over ``[..., C, H, W]`` bytes; of Mnih et al. 2015, where the image is large."""

    def __init__(self, space: spaces.Box, features: int) -> None:
        super().__init__()
        self.shape = channels, height, wide = pixels_first(space)
        large = min(height, wide) >= 36
        plan = [(32, 8, 4), (64, 4, 2), (64, 3, 1)] if large else [(16, 3, 2), (32, 3, 2)]
        layers: list[nn.Module] = []
        for filters, kernel, stride in plan:
            layers += [orthogonal(nn.Conv2d(channels, filters, kernel, stride), math.sqrt(2)), nn.ReLU()]
            channels = filters
        self.layers = nn.Sequential(*layers, nn.Flatten())
        with torch.no_grad():
            size = self.layers(torch.zeros(1, *self.shape)).shape[1]
        self.out = nn.Sequential(linear(size, features, gain=math.sqrt(2)), nn.ReLU())

    def forward(self, pixels: Tensor) -> Tensor:
        flat = pixels.flatten(0, -4).float() / 255.0
        features: Tensor = self.out(self.layers(flat))
        return features.unflatten(0, pixels.shape[:-3])


class Mixed(nn.Module):
    """Of a Dict's columns those of images by a convolutional network each, the others as they are."""

    def __init__(self, space: spaces.Space[Any], features: int) -> None:
        super().__init__()
        self.spaces = parts(space)
        self.widths = [width(part) for part in self.spaces]
        self.images = nn.ModuleList(Pixels(part, features) for part in self.spaces if is_image(part))  # type: ignore[arg-type]
        self.size = sum(features if is_image(part) else width(part) for part in self.spaces)

    def forward(self, columns: Tensor) -> Tensor:
        images, seen = iter(self.images), []
        for part, numbers in zip(self.spaces, columns.split(self.widths, -1), strict=True):
            if is_image(part):
                image: Any = next(images)
                numbers = image(numbers.unflatten(-1, image.shape))
            seen.append(numbers)
        return torch.cat(seen, -1)


class Recurrent(nn.Module):
    """Layers, then an LSTM that forgets where an episode begins."""

    def __init__(self, layers: nn.Module, lstm: LSTM) -> None:
        super().__init__()
        self.layers, self.lstm = layers, lstm

    def forward(self, observations: Tensor, starts: Tensor | None, memory: Memory = None) -> tuple[Tensor, Memory]:
        features, memory = self.lstm(self.layers(observations), memory, starts)
        return features, memory


def body(space: spaces.Space[Any], config: ControlConfig) -> nn.Module:
    """The layers in front of a head; their last width is ``hidden_sizes[-1]``."""
    *sizes, last = config.hidden_sizes
    activation = ACTIVATIONS[config.activation]
    if config.policy == "lstm":
        first, size = _layers(space, sizes, activation)
        return Recurrent(nn.Sequential(*first), LSTM(size, last))
    return FeedForward(*_layers(space, [*sizes, last], activation)[0])


def _layers(space: spaces.Space[Any], sizes: Sequence[int], activation: type[nn.Module]) -> tuple[list[nn.Module], int]:
    layers: list[nn.Module] = []
    features = sizes[0] if sizes else 64
    if is_image(space):
        assert isinstance(space, spaces.Box)
        layers.append(Pixels(space, features))
        size, sizes = features, sizes[1:]
    elif has_images(space):
        mixed = Mixed(space, features)
        layers.append(mixed)
        size = mixed.size
    else:
        size = width(space)
    for out in sizes:
        layers += [linear(size, out, gain=math.sqrt(2)), activation()]
        size = out
    return layers, size


def linears(module: nn.Module) -> list[nn.Linear]:
    """Its linear layers, in their order."""
    return [layer for layer in module.modules() if isinstance(layer, nn.Linear)]


def linear(inputs: int, outputs: int, *, gain: float) -> nn.Linear:
    """A layer with orthogonal weights and no bias yet."""
    layer = nn.Linear(inputs, outputs)
    return orthogonal(layer, gain)  # type: ignore[return-value]


def orthogonal(layer: nn.Module, gain: float) -> nn.Module:
    """Orthogonal weights (Saxe et al. 2014), biases 0."""
    nn.init.orthogonal_(layer.weight, gain)  # type: ignore[arg-type]
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer
