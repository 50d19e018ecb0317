"""What a policy's outputs mean: a distribution over actions for each kind of action space.

Actions and outputs have the batch first; log-probabilities and entropies are sums over an action's parts, ``[N]``.
"""

from typing import Any, Protocol

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from kedge.errors import ConfigError

HALF_LOG_2_PI = 0.9189385332046727


class Distribution(Protocol):
    """A family of distributions; ``outputs [N, size]`` choose one of it."""

    size: int

    def sample(self, outputs: Tensor, log_std: Tensor, generator: torch.Generator) -> Tensor:
        """Actions ``[N, ...]``."""
        ...

    def mode(self, outputs: Tensor) -> Tensor:
        """The likeliest actions ``[N, ...]``."""
        ...

    def evaluate(self, outputs: Tensor, log_std: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """``(log-probabilities, entropies)`` of actions, ``[N]`` each."""
        ...

    def for_environment(self, actions: np.ndarray) -> np.ndarray:
        """The actions as the environment takes them."""
        ...


class Categorical:
    """Discrete and MultiDiscrete: a choice for each part."""

    def __init__(self, choices: list[int], starts: np.ndarray, *, single: bool) -> None:
        self.choices, self.starts, self.single = choices, starts, single
        self.size = sum(choices)

    def sample(self, outputs: Tensor, log_std: Tensor, generator: torch.Generator) -> Tensor:
        return self._joined([_drawn(part, generator) for part in outputs.split(self.choices, -1)])

    def mode(self, outputs: Tensor) -> Tensor:
        return self._joined([part.argmax(-1) for part in outputs.split(self.choices, -1)])

    def evaluate(self, outputs: Tensor, log_std: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        parts = outputs.split(self.choices, -1)
        taken = [actions] if self.single else list(actions.unbind(-1))
        logs = [part.log_softmax(-1) for part in parts]
        chosen = [log.gather(-1, a[..., None]).squeeze(-1) for log, a in zip(logs, taken, strict=True)]
        entropies = [-(log.exp() * log).sum(-1) for log in logs]
        if self.single:
            return chosen[0], entropies[0]
        return torch.stack(chosen).sum(0), torch.stack(entropies).sum(0)

    def for_environment(self, actions: np.ndarray) -> np.ndarray:
        return actions + self.starts

    def _joined(self, parts: list[Tensor]) -> Tensor:
        return parts[0] if self.single else torch.stack(parts, -1)


class Bernoulli:
    """MultiBinary: each part on or off."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape, self.size = shape, int(np.prod(shape))

    def sample(self, outputs: Tensor, log_std: Tensor, generator: torch.Generator) -> Tensor:
        drawn = torch.rand(outputs.shape, generator=generator, device=outputs.device)
        return (drawn < outputs.sigmoid()).to(outputs.dtype).unflatten(-1, self.shape)

    def mode(self, outputs: Tensor) -> Tensor:
        return (outputs > 0).to(outputs.dtype).unflatten(-1, self.shape)

    def evaluate(self, outputs: Tensor, log_std: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        on = actions.flatten(-len(self.shape)).to(outputs.dtype)
        logprobs = -binary_cross_entropy_with_logits(outputs, on, reduction="none").sum(-1)
        probability = outputs.sigmoid()
        entropies = -(probability * logsigmoid(outputs) + (1 - probability) * logsigmoid(-outputs)).sum(-1)
        return logprobs, entropies

    def for_environment(self, actions: np.ndarray) -> np.ndarray:
        return actions.astype(np.int8)


class Gaussian:
    """Box: each part its own normal distribution, whose deviation does not depend on the state.

    What is drawn is kept, and what is trained on; the environment gets it clipped to its bounds.
    """

    def __init__(self, space: spaces.Box) -> None:
        self.space, self.size = space, int(np.prod(space.shape))

    def sample(self, outputs: Tensor, log_std: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.randn(outputs.shape, generator=generator, device=outputs.device)
        return self.mode(outputs + noise * log_std.exp())

    def mode(self, outputs: Tensor) -> Tensor:
        return outputs.unflatten(-1, self.space.shape)

    def evaluate(self, outputs: Tensor, log_std: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        standard = (actions.flatten(-len(self.space.shape)) - outputs) * (-log_std).exp()
        logprobs = -(standard.square() / 2 + log_std + HALF_LOG_2_PI).sum(-1)
        return logprobs, (log_std + 0.5 + HALF_LOG_2_PI).sum().expand_as(logprobs)

    def for_environment(self, actions: np.ndarray) -> np.ndarray:
        return np.clip(actions, self.space.low, self.space.high)


def distribution_for(space: spaces.Space[Any]) -> Distribution:
    """The family for an action space.

    Raises:
        ConfigError: a space that has none here.
    """
    if isinstance(space, spaces.Discrete):
        return Categorical([int(space.n)], np.asarray(space.start), single=True)
    if isinstance(space, spaces.MultiDiscrete) and len(space.shape) == 1:
        return Categorical([int(n) for n in space.nvec], np.asarray(space.start), single=False)
    if isinstance(space, spaces.MultiBinary):
        return Bernoulli(space.shape)
    if isinstance(space, spaces.Box) and len(space.shape) > 0:
        return Gaussian(space)
    raise ConfigError(f"actions of {space} are not supported; Discrete, MultiDiscrete, MultiBinary and Box are")


def _drawn(logits: Tensor, generator: torch.Generator) -> Tensor:
    """One random number a row: where it falls in the cumulative distribution."""
    cumulative = logits.softmax(-1).cumsum(-1)
    drawn = torch.rand((*logits.shape[:-1], 1), generator=generator, device=logits.device) * cumulative[..., -1:]
    return (cumulative <= drawn).sum(-1).clamp(max=logits.shape[-1] - 1)
