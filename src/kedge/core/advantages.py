"""Advantages: generalised advantage estimation (Schulman et al. 2016), and baselines by group instead of a critic."""

import torch
from torch import Tensor

from kedge.core.masking import VARIANCE_FLOOR, center, keep


def gae(
    rewards: Tensor, values: Tensor, next_values: Tensor, carry: Tensor, *, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation over steps of control tasks (Schulman et al. 2016, eq. 16).

    Args:
        rewards: ``[..., T]`` reward for step t.
        values: ``[..., T]`` V of the state before step t.
        next_values: ``[..., T]`` V of the state that followed step t: 0 where it was terminal, V(final
            observation) where the episode was only cut off.
        carry: ``[..., T]`` 0 where the episode ended after step t, for either reason, else 1.
        gamma: discount a step.
        lam: the λ of GAE, 1 = Monte Carlo, 0 = one-step.

    Returns:
        ``(advantages, returns)``, ``[..., T]`` each; returns = advantages + values, the critic's target.
    """
    deltas = rewards + gamma * next_values - values
    decays = gamma * lam * carry
    running = torch.zeros_like(deltas[..., 0])
    backwards = []
    for delta, decay in zip(reversed(deltas.unbind(-1)), reversed(decays.unbind(-1)), strict=True):
        running = delta + decay * running
        backwards.append(running)
    advantages = torch.stack(backwards[::-1], -1)
    return advantages, advantages + values


def token_gae(
    rewards: Tensor,
    values: Tensor,
    mask: Tensor,
    *,
    gamma: float = 1.0,
    lam: float = 0.95,
    bootstrap: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation over the response tokens of each sequence.

    Tokens that are masked *inside* a sequence (a tool's output, a user's turn) do not exist: the next value and the
    trace pass over them undecayed.

    Args:
        rewards: ``[..., L]`` reward paid on each token; a score of the whole answer stands on its last token.
        values: ``[..., L]`` V before each token was chosen.
        mask: ``[..., L]`` bool, True on tokens the policy chose.
        gamma: discount a token.
        lam: the λ of GAE.
        bootstrap: ``[...]`` value after the last response token (for an answer that was only cut off); default 0.

    Returns:
        ``(advantages, returns)``, ``[..., L]`` each, 0.0 where ``mask`` is False.
    """
    dtype = torch.promote_types(values.dtype, torch.float32)
    rewards, values = keep(rewards, mask).to(dtype), keep(values, mask).to(dtype)
    next_value = torch.zeros_like(values[..., 0]) if bootstrap is None else bootstrap.to(values.dtype)
    running = torch.zeros_like(next_value)
    advantages = torch.zeros_like(values)
    for t in range(values.shape[-1] - 1, -1, -1):
        here = mask[..., t]
        delta = rewards[..., t] + gamma * next_value - values[..., t]
        running = torch.where(here, delta + gamma * lam * running, running)
        next_value = torch.where(here, values[..., t], next_value)
        advantages[..., t] = torch.where(here, running, 0.0)
    return advantages, advantages + values


def group_advantages(scores: Tensor, group_size: int, *, kind: str = "grpo") -> Tensor:
    """Advantages of whole answers against the other answers to the same prompt, without a critic.

    Args:
        scores: ``[N]`` one score an answer; answers to one prompt stand next to each other.
        group_size: answers a prompt; divides N.
        kind: ``"grpo"``: (s - group mean) / group deviation (Shao et al. 2024; population deviation);
            ``"dr_grpo"``: s - group mean, undivided (Liu et al. 2025);
            ``"rloo"``: s - mean of the *other* answers (Ahmadian et al. 2024; Kool et al. 2019);
            ``"reinforce++"``: (s - batch mean) / batch deviation (Hu 2025).

    Returns:
        ``[N]``. A group (for ``reinforce++``: a batch) of equal scores gives exactly 0.

    Raises:
        ValueError: unknown kind, a group size that does not divide N, or RLOO with groups of one.
    """
    if group_size < 1 or scores.numel() % group_size or scores.numel() == 0:
        raise ValueError(f"group_size={group_size} does not divide {scores.numel()} scores into whole groups")
    if kind == "rloo" and group_size < 2:
        raise ValueError("rloo compares an answer with the others of its group: group_size must be at least 2")
    scores = scores if scores.is_floating_point() else scores.float()
    groups = scores.reshape(1, -1) if kind == "reinforce++" else scores.reshape(-1, group_size)  # [G, S]
    constant = groups.amin(-1, keepdim=True) == groups.amax(-1, keepdim=True)
    centered = center(groups, groups.mean(-1, keepdim=True), constant)
    if kind in ("grpo", "reinforce++"):
        variance = centered.square().mean(-1, keepdim=True)
        centered = centered * torch.rsqrt(variance + VARIANCE_FLOOR)
    elif kind == "rloo":
        centered = centered * (group_size / (group_size - 1))
    elif kind != "dr_grpo":
        raise ValueError(f"kind must be 'grpo', 'dr_grpo', 'rloo' or 'reinforce++', not {kind!r}")
    return centered.reshape(scores.shape)
