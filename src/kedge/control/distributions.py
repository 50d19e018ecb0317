"""What a policy's outputs mean: a distribution over actions for each kind of action space.

Actions and outputs have the batch first; log-probabilities and entropies are sums over an action's parts, ``[N]``.
"""

from typing import Any, Protocol

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from kedge.core import entropy, token_logprobs
from kedge.errors import ConfigError

HALF_LOG_2_PI = 0.9189385332046727


class Distribution(Protocol):
    """A family of distributions; ``outputs [N, size]`` choose one of it."""

    size: int

    def noise(self, shape: tuple[int, ...], log_std: Tensor, generator: torch.Generator) -> Tensor:
        """``[*shape, size]``: the mode of outputs + noise is a sample."""
        ...

    def mode(self, outputs: Tensor) -> Tensor:
        """The likeliest actions ``[N, ...]``."""
        ...

    def logprobs(self, outputs: Tensor, log_std: Tensor, actions: Tensor) -> Tensor:
        """Log-probabilities (log-densities, where continuous) of actions, ``[N]``."""
        ...

    def entropies(self, outputs: Tensor, log_std: Tensor) -> Tensor:
        """``[N]``, in nats."""
        ...

    def for_environment(self, actions: np.ndarray) -> np.ndarray:
        """The actions as the environment takes them."""
        ...


class Categorical:
    """Discrete and MultiDiscrete: a choice for each part."""

    def __init__(self, choices: list[int], starts: np.ndarray, *, single: bool) -> None:
        self.choices, self.starts, self.single = choices, starts, single
        self.size = sum(choices)

    def noise(self, shape: tuple[int, ...], log_std: Tensor, generator: torch.Generator) -> Tensor:
        """Gumbel's, of which the largest sum is a draw from the softmax (Gumbel 1954; Maddison et al. 2014)."""
        return -torch.empty((*shape, self.size)).exponential_(generator=generator).log().to(log_std.device)

    def mode(self, outputs: Tensor) -> Tensor:
        if self.single:
            return outputs.argmax(-1)
        return torch.stack([part.argmax(-1) for part in outputs.split(self.choices, -1)], -1)

    def logprobs(self, outputs: Tensor, log_std: Tensor, actions: Tensor) -> Tensor:
        if self.single:
            return token_logprobs(outputs, actions)
        parts = zip(outputs.split(self.choices, -1), actions.unbind(-1), strict=True)
        return torch.stack([token_logprobs(part, taken) for part, taken in parts]).sum(0)

    def entropies(self, outputs: Tensor, log_std: Tensor) -> Tensor:
        if self.single:
            return entropy(outputs)
        return torch.stack([entropy(part) for part in outputs.split(self.choices, -1)]).sum(0)

    def for_environment(self, actions: np.ndarray) -> np.ndarray:
        return (actions + self.starts).astype(self.starts.dtype)


class Bernoulli:
    """MultiBinary: each part on or off."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape, self.size = shape, int(np.prod(shape))

    def noise(self, shape: tuple[int, ...], log_std: Tensor, generator: torch.Generator) -> Tensor:
        """Logistic: outputs + noise > 0 has the sigmoid of the output as its probability."""
        return torch.rand((*shape, self.size), generator=generator).logit(eps=1e-7).to(log_std.device)

    def mode(self, outputs: Tensor) -> Tensor:
        return (outputs > 0).to(outputs.dtype).unflatten(-1, self.shape)

    def logprobs(self, outputs: Tensor, log_std: Tensor, actions: Tensor) -> Tensor:
        on = actions.flatten(-len(self.shape)).to(outputs.dtype)
        return -binary_cross_entropy_with_logits(outputs, on, reduction="none").sum(-1)

    def entropies(self, outputs: Tensor, log_std: Tensor) -> Tensor:
        on = outputs.sigmoid()
        return -(on * logsigmoid(outputs) + (1 - on) * logsigmoid(-outputs)).sum(-1)

    def for_environment(self, actions: np.ndarray) -> np.ndarray:
        return actions.astype(np.int8)


class Gaussian:
    """Box: each part its own normal distribution, whose deviation does not depend on the state.

    What is drawn is kept, and what is trained on; the environment gets it clipped to its bounds.
    """

    def __init__(self, space: spaces.Box) -> None:
        self.space, self.size = space, int(np.prod(space.shape))

    def noise(self, shape: tuple[int, ...], log_std: Tensor, generator: torch.Generator) -> Tensor:
        return torch.randn((*shape, self.size), generator=generator).to(log_std.device) * log_std.exp()

    def mode(self, outputs: Tensor) -> Tensor:
        return outputs.unflatten(-1, self.space.shape)

    def logprobs(self, outputs: Tensor, log_std: Tensor, actions: Tensor) -> Tensor:
        standard = (actions.flatten(-len(self.space.shape)) - outputs) * (-log_std).exp()
        return -(standard.square() / 2 + log_std + HALF_LOG_2_PI).sum(-1)

    def entropies(self, outputs: Tensor, log_std: Tensor) -> Tensor:
        return (log_std + 0.5 + HALF_LOG_2_PI).sum().expand(outputs.shape[:-1])

    def for_environment(self, actions: np.ndarray) -> np.ndarray:
        return np.clip(actions, self.space.low, self.space.high).astype(self.space.dtype)


def distribution_for(space: spaces.Space[Any]) -> Distribution:
    """The family for an action space.

    Raises:
        ConfigError: a space that has none here.
    """
    if isinstance(space, spaces.Discrete):
        return Categorical([int(space.n)], np.asarray(space.start, space.dtype), single=True)
    if isinstance(space, spaces.MultiDiscrete) and len(space.shape) == 1:
        return Categorical([int(n) for n in space.nvec], np.asarray(space.start, space.dtype), single=False)
    if isinstance(space, spaces.MultiBinary):
        return Bernoulli(space.shape)
    if isinstance(space, spaces.Box) and space.shape and np.issubdtype(space.dtype, np.floating):
        return Gaussian(space)
    supported = "Discrete, MultiDiscrete, MultiBinary and Box of real numbers with at least one axis"
    raise ConfigError(f"actions of {space} are not supported; {supported} are")
