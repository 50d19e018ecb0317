"""From rollouts and scores to what the update trains on: rewards a token, advantages, returns."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from kedge.core import RunningMoments, group_advantages, kl, token_gae, whiten
from kedge.models.device import upload
from kedge.rewards.scores import Scores
from kedge.sampling.rollouts import Rollouts
from kedge.training.ppo.config import PPOConfig


@dataclass(frozen=True)
class Batch:
    """A step's answers, ready to train on. Everything ``[B, L]`` lines up with the token it speaks of."""

    tokens: Tensor
    """``[B, L]`` ids."""
    lengths: Tensor
    """``[B]`` prompt + response; on the host."""
    mask: Tensor
    """``[B, L]`` bool, True on tokens trained on."""
    host_mask: Tensor
    """``[B, L]`` the same on the host."""
    old_logprobs: Tensor
    """``[B, L]`` under the policy that sampled, from the sampler; with importance weights under the policy as the step
    began."""
    ref_logprobs: Tensor
    """``[B, L]`` under the reference."""
    old_values: Tensor | None
    """``[B, L]`` V before each token, when the rollout was made; None without a critic."""
    advantages: Tensor
    """``[B, L]``."""
    returns: Tensor | None
    """``[B, L]`` the critic's target; None without a critic."""
    states: Tensor | None = None
    """``[B, L, H]`` of the policy's frozen bottom, where it has one that is kept."""
    weights: Tensor | None = None
    """``[B, L]`` importance weights, where the policy that sampled was an older one."""

    def rows(self, rows: Sequence[int]) -> "Batch":
        """Some of the answers, trimmed to the longest of them."""
        index, width = torch.tensor(list(rows)), int(self.lengths[list(rows)].max())
        there = upload(index, self.tokens.device)
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        on_host = {"lengths", "host_mask"}
        kept = {
            name: x.index_select(0, index if name in on_host else there) for name, x in parts.items() if x is not None
        }
        return replace(self, **{name: x[:, :width] if x.dim() > 1 else x for name, x in kept.items()})

    def without_training(self) -> "Batch":
        """The same answers, with nothing of them trained on."""
        return replace(self, mask=torch.zeros_like(self.mask), host_mask=torch.zeros_like(self.host_mask))


def token_rewards(
    rollouts: Rollouts, scores: Scores, cut_off: Tensor, config: PPOConfig, moments: RunningMoments
) -> Tensor:
    """What the answers earn, ``[B, L]``, before KL: the score on the last token, per-token rewards on theirs.

    Args:
        cut_off: ``[B]`` bool on the host, True where the answer did not end by itself.
        moments: of the sequences' sums so far; updated here, before they divide (``scale_rewards``).
    """
    mask, device = rollouts.response_mask, rollouts.tokens.device
    rewards = torch.zeros(mask.shape, device=device)
    counts = rollouts.host_mask.sum(-1).tolist()
    per_token = [x for tokens, n in zip(scores.per_token, counts, strict=True) for x in tokens or [0.0] * n]
    rewards = rewards.masked_scatter(mask, torch.tensor(per_token, dtype=torch.float32, device=device))
    total = torch.tensor(scores.total, dtype=torch.float32, device=device)
    if config.cutoff == "penalty":
        total = total - config.missing_eos_penalty * cut_off.to(device)
    last = rollouts.lengths.to(device)[:, None] - 1
    rewards = rewards.scatter_add(1, last, total[:, None])
    if config.scale_rewards:
        moments.update(rewards.sum(-1))
        rewards = rewards / moments.std
    if config.clip_rewards is not None:
        rewards = rewards.clamp(-config.clip_rewards, config.clip_rewards)
    return rewards


def estimate_advantages(
    rollouts: Rollouts,
    rewards: Tensor,
    ref_logprobs: Tensor,
    values: Tensor | None,
    cut_off: Tensor,
    kl_coef: float,
    config: PPOConfig,
) -> Batch:
    """Take the KL penalty off the rewards and estimate advantages: the batch to train on.

    Args:
        rewards: ``[B, L]`` from :func:`token_rewards`.
        ref_logprobs: ``[B, L]``.
        values: ``[B, L]``; None without a critic, where an answer is compared with the others to its prompt.
        cut_off: ``[B]`` bool on the host.
        kl_coef: the controller's coefficient now.
    """
    mask, host_mask, scores = rollouts.response_mask, rollouts.host_mask, rewards
    if config.kl_in == "reward":
        rewards = rewards - kl_coef * kl(rollouts.logprobs, ref_logprobs)
    if config.cutoff == "mask":
        host_mask = host_mask & ~cut_off[:, None]
    if rollouts.too_old is not None:
        host_mask = host_mask & ~rollouts.too_old[:, None]
    if host_mask is not rollouts.host_mask:
        mask = host_mask.to(mask.device)
    if config.whiten_rewards:
        rewards = whiten(rewards, mask, shift_mean=False)
    returns = None
    if values is None:
        scored, earned = (each.masked_fill(~rollouts.response_mask, 0.0).sum(-1) for each in (scores, rewards))
        kind = config.advantage_estimator
        answers = group_advantages(earned, config.num_generations, kind=kind)
        if kind in ("grpo", "reinforce++"):  # else the KL alone, or its rounding, would be divided up to full strength
            groups = scored.reshape(-1, config.num_generations if kind == "grpo" else len(scored))
            differ = groups.amax(-1) > groups.amin(-1)
            answers = answers * differ.repeat_interleave(groups.shape[-1])
        advantages = torch.where(mask, answers[:, None], 0.0)
    else:
        # On the host: it goes from token to token, and a device would be sent a few kernels for each.
        earned, foreseen = rewards.cpu(), values.cpu()
        estimated = token_gae(earned, foreseen, host_mask, gamma=config.gamma, lam=config.lam)
        advantages, returns = (each.to(rewards.device) for each in estimated)
        if config.whiten_advantages:
            advantages = whiten(advantages, mask)
    kept = (rollouts.tokens, rollouts.lengths, mask, host_mask, rollouts.logprobs)
    return Batch(*kept, ref_logprobs, values, advantages, returns, rollouts.states, rollouts.weights)
