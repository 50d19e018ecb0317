"""The mathematics of PPO as pure functions of tensors. Imports torch and nothing else.

Conventions, the same everywhere:

- The last axis is time. Arrays a token wide line up with the token they speak of.
- A mask is True where the token counts (``response_mask``: chosen by the policy and trained on, EOS included).
  What stands at a masked position, NaN too, changes neither a value nor a gradient.
- A mean over tokens divides by ``denominator``, the global count the caller passes in, so that one batch, eight
  micro-batches and two processes give one loss and one gradient. Without it: the count of this mask.
"""

from kedge.core.advantages import gae, group_advantages, token_gae
from kedge.core.importance import importance_ratio, importance_weights
from kedge.core.kl import AdaptiveKL, FixedKL, kl
from kedge.core.logprobs import entropy, logprobs_and_entropy, token_logprobs
from kedge.core.losses import policy_loss, preference_loss, rating_loss, step_loss, value_clip_fraction, value_loss
from kedge.core.masking import masked_mean, whiten
from kedge.core.moments import RunningMoments

__all__ = [
    "AdaptiveKL",
    "FixedKL",
    "RunningMoments",
    "entropy",
    "gae",
    "group_advantages",
    "importance_ratio",
    "importance_weights",
    "kl",
    "logprobs_and_entropy",
    "masked_mean",
    "policy_loss",
    "preference_loss",
    "rating_loss",
    "step_loss",
    "token_gae",
    "token_logprobs",
    "value_clip_fraction",
    "value_loss",
    "whiten",
]
