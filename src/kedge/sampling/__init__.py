"""Prompts in, completions with exact log-probabilities out: what every sampler gives, and who gives it."""

from typing import TYPE_CHECKING

from kedge.lazy import lazily

if TYPE_CHECKING:
    from kedge.sampling.completion import Completion
    from kedge.sampling.rollouts import Rollouts
    from kedge.sampling.sampler import Sampler
    from kedge.sampling.settings import Sampling

__all__ = ["Completion", "Rollouts", "Sampler", "Sampling"]

_HOMES = {
    "Completion": "kedge.sampling.completion",
    "Rollouts": "kedge.sampling.rollouts",
    "Sampler": "kedge.sampling.sampler",
    "Sampling": "kedge.sampling.settings",
}

__getattr__, __dir__ = lazily(__name__, _HOMES)
