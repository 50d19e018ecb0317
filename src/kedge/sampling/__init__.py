"""Prompts in, completions with exact log-probabilities out: what every sampler gives, and who gives it."""

from kedge.sampling.completion import Completion
from kedge.sampling.sampler import Sampler, SamplerOf
from kedge.sampling.settings import Sampling

__all__ = ["Completion", "Sampler", "SamplerOf", "Sampling"]
