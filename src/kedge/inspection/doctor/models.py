"""Checks of the models: what is loaded, what is switched off, and that every road to a number gives the same number."""

import torch
from torch import nn

from kedge.inspection.doctor.finding import Examined, Finding
from kedge.models.role import Role
from kedge.training.ppo.update import rounding

TEXTS = 8
SAME_SCORE = 1e-3
"""How far two scores of a text may differ, in standard deviations of the scores."""


def _parts(examined: Examined) -> dict[str, nn.Module]:
    ppo = examined.ppo
    roles: dict[str, Role] = {"policy": ppo.policy, "reference": ppo.reference, **ppo.trained_roles}
    roles |= {f"reward model {i}": reward for i, reward in enumerate(examined.reward_models, 1)}
    return {name: role.module for name, role in roles.items()}


def loaded(examined: Examined) -> Finding:
    """Every weight is a number, and reward models have a head that says something."""
    check, parts = "weights and heads", _parts(examined)
    for name, module in parts.items():
        broken = [key for key, weight in module.named_parameters() if not weight.isfinite().all()]
        if broken:
            return Finding(check, "fail", f"{name}: {broken[0]} has NaN or infinity in it", "load another checkpoint")
    for i, reward in enumerate(examined.reward_models, 1):
        if reward.head is not None and not reward.head.weight.any():
            found = f"reward model {i}: its head is all zeros, so every score is the same"
            return Finding(check, "fail", found, "train it first (kedge reward), and name its run")
    count = sum(weight.numel() for weight in examined.ppo.policy.model.parameters())
    return Finding(check, "pass", f"{', '.join(parts)}; the policy has {count / 1e6:,.1f} million weights")


def dropout(examined: Examined) -> Finding:
    """Nothing random is left on: a module in training mode would make every ratio noise."""
    check = "dropout is off"
    on = [
        f"{name}: {key or type(module).__name__}"
        for name, part in _parts(examined).items()
        for key, module in part.named_modules()
        if module.training and getattr(module, "p", 0) and isinstance(module, nn.modules.dropout._DropoutNd)
    ]
    if on:
        return Finding(check, "fail", f"{len(on)} modules drop at random, first {on[0]}", "model.eval()")
    return (
        Finding(check, "pass", "two passes give the same numbers")
        if _repeats(examined)
        else Finding(check, "fail", "two passes over the same answers differ", "switch off what is random in the model")
    )


@torch.no_grad()
def _repeats(examined: Examined) -> bool:
    tokens = examined.experience.rollouts.tokens[:2]
    once, again = (examined.ppo.policy.model(tokens).logits for _ in range(2))
    return torch.equal(once, again)


def sampler(examined: Examined) -> Finding:
    """The log-probabilities that the sampler noted are those of a fresh forward pass."""
    rollouts = examined.experience.rollouts
    apart = (rollouts.logprobs - examined.sampled).abs()
    worst, limit = float(apart.max()), rounding(examined.ppo.config, examined.ppo.policy.model)[0]
    found = f"largest difference {worst:.2g} nats over {int(rollouts.response_mask.sum())} tokens (at most {limit:g})"
    if worst <= limit:
        return Finding("sampler and forward pass agree", "pass", found)
    remedy = 'try dtype = "float32", autocast = "none", or attn_implementation = "eager"'
    return Finding("sampler and forward pass agree", "fail", found, remedy)


def padding(examined: Examined) -> Finding:
    """A reward model gives a text the same score alone and beside a longer one."""
    check = "reward model: padding"
    if not examined.reward_models:
        return Finding(check, "skip", "no reward model in the reward")
    texts = [prompt.record.text for prompt in examined.ppo.prompts if isinstance(prompt.record.text, str)][:TEXTS]
    texts += [completion.text for completion in examined.experience.completions if completion.text.strip()][:TEXTS]
    worst = 0.0
    for reward in examined.reward_models:
        together = reward.score(texts)
        alone = [reward.score([text])[0] for text in texts]
        spread = float(torch.tensor(alone).std()) or 1.0
        worst = max(worst, *(abs(a - b) / spread for a, b in zip(together, alone, strict=True)))
    found = f"scores alone and in a batch differ by up to {worst:.2g} standard deviations, {len(texts)} texts"
    if worst <= SAME_SCORE:
        return Finding(check, "pass", found)
    return Finding(check, "fail", found, "the reward model reads its padding: mend its pad token or its position ids")


def pairs(examined: Examined) -> Finding:
    """A reward model that knows good from bad is wrong as often as it was right when the pairs are swapped."""
    check = "reward model: swapped pairs"
    preferences = examined.pairs.preferences
    if not examined.reward_models or not preferences:
        return Finding(check, "skip", "no reward model in the reward, or no reward table in the recipe")
    chosen, rejected = ([getattr(pair, side) for pair in preferences] for side in ("chosen", "rejected"))
    found, worst, apart = [], 1.0, 0.0
    for reward in examined.reward_models:
        right, swapped = (
            _accuracy(reward.score(a), reward.score(b)) for a, b in ((chosen, rejected), (rejected, chosen))
        )
        found.append(f"{right:.0%} of {len(chosen)} {examined.pairs.kind} right, {swapped:.0%} when swapped")
        worst, apart = min(worst, right), max(apart, abs(right + swapped - 1.0))
    if apart > 1e-9:
        return Finding(check, "fail", "; ".join(found), "a score depends on what stands beside it: mend the model")
    if worst <= 0.5:
        return Finding(check, "fail", "; ".join(found), "chosen and rejected may be mixed up; or train it longer")
    return Finding(
        check, "warn" if worst < 0.55 else "pass", "; ".join(found), "train it longer" if worst < 0.55 else ""
    )


def _accuracy(ours: list[float], theirs: list[float]) -> float:
    return sum((a > b) + (a == b) / 2 for a, b in zip(ours, theirs, strict=True)) / len(ours)
