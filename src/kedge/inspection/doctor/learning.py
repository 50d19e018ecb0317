"""Checks of learning: the reward, the first update, and a checkpoint."""

import math
import statistics
import time

import torch

from kedge.core import policy_loss
from kedge.inspection.doctor.finding import Examined, Finding
from kedge.rewards.scores import judge
from kedge.training.keeping import trained_tensors
from kedge.training.ppo.update import rounding

NOTHING = "every answer was cut off and is left out: there is nothing to train on"


def reward(examined: Examined) -> Finding:
    """It gives every answer a number, soon enough, and not to all the same."""
    ppo, experience = examined.ppo, examined.experience
    start = time.perf_counter()
    judge(ppo.reward, [prompt.record for prompt in experience.prompts], experience.completions, ppo.processes)
    seconds = time.perf_counter() - start
    sums = experience.scores.sums()
    spread = statistics.pstdev(sums)
    for metric in [by for name, by in ppo.judges.items() if name != "score"]:  # one that fails would end the run
        judge(metric, [prompt.record for prompt in experience.prompts], experience.completions, ppo.processes)
    found = (
        f"{ppo.reward.name}: {statistics.fmean(sums):.3g} ± {spread:.2g} from {min(sums):.3g} to {max(sums):.3g}; "
        f"{seconds / len(sums) * 1000:.2g} ms an answer"
    )
    if spread == 0.0:
        return Finding("reward", "fail", found, "all scores are equal: there is nothing to learn; mend the reward, or "
                       "raise response_length or temperature so that answers differ")  # fmt: skip
    if seconds > 2 * (ppo.timer.seconds["generate"] + ppo.timer.seconds["estimate"]):
        return Finding("reward", "warn", found, "most of a step is spent in it: make it faster, or use workers")
    return Finding("reward", "pass", found)


def first_minibatch(examined: Examined) -> Finding:
    """Before any update the ratio is 1, KL and clip fraction are 0."""
    if not examined.experience.batch.mask.any():
        return Finding("first minibatch", "skip", NOTHING)
    metrics, limit = examined.updated, rounding(examined.ppo.config, examined.ppo.policy.model)[0]
    worst, kl, clipped = (metrics[f"policy/first_{name}"] for name in ("drift_max", "approxkl", "clipfrac"))
    found = f"ratio off by {worst:.2g} at most, KL {kl:.2g}, clip fraction {clipped:.2g}"
    if worst <= limit and not clipped:
        return Finding("first minibatch", "pass", found)
    return Finding("first minibatch", "fail", found, "sampler and update compute different log-probabilities; see the "
                   "check of the sampler")  # fmt: skip


def surrogate(examined: Examined) -> Finding:
    """One update makes the likely better: the surrogate rises on the answers that it was made from."""
    ppo, batch = examined.ppo, examined.experience.batch
    if not batch.mask.any():
        return Finding("an update raises the surrogate", "skip", NOTHING)
    _ = examined.updated
    after = ppo.estimate.logprobs(ppo.policy, examined.experience.rollouts)
    clip = ppo.config.clip
    before = policy_loss(batch.old_logprobs, batch.old_logprobs, batch.advantages, batch.mask, clip=clip)[0]
    gain = float(before - policy_loss(after, batch.old_logprobs, batch.advantages, batch.mask, clip=clip)[0])
    found = f"rises by {gain:.2g} at learning_rate = {ppo.config.learning_rate:g}"
    if gain > 0:
        return Finding("an update raises the surrogate", "pass", found)
    remedy = "learning_rate is too high (or 0 weights are trained): try a tenth of it"
    return Finding("an update raises the surrogate", "fail", found.replace("rises by -", "falls by "), remedy)


def reach(examined: Examined) -> Finding:
    """One update leaves the policy near the one that sampled, without being held back."""
    check, config = "how far an update goes", examined.ppo.config
    if not examined.experience.batch.mask.any():
        return Finding(check, "skip", NOTHING)
    wrecked = config.guards.update_kl_limit
    limit = min(config.target_kl or wrecked, wrecked)
    rate = config.learning_rate
    divergence = examined.moved_by(rate)
    bounds = f"at most {limit:g}" + (f", and {wrecked:g} in any case" if limit < wrecked else "")
    found = f"it moves the policy by {divergence:.2g} nats a token at learning_rate = {rate:g} ({bounds})"
    if divergence <= limit:
        return Finding(check, "pass", found)
    remedy = f"learning_rate = {_rate_within(examined, divergence, limit):.1g} stays within"
    if config.target_kl is not None:
        remedy += "; target_kl holds it back, at the price of the schedule that you meant"
    return Finding(check, "fail" if divergence > wrecked else "warn", found, remedy)


def _rate_within(examined: Examined, divergence: float, limit: float) -> float:
    """A learning rate, of one digit, at which an update goes no further than ``limit`` nats a token."""
    rate = examined.ppo.config.learning_rate
    while divergence > limit:
        rate *= min(max(0.9 * math.sqrt(limit / divergence), 0.1), 0.7)
        digit = 10.0 ** math.floor(math.log10(rate))
        rate = math.floor(rate / digit) * digit
        divergence = examined.moved_by(rate)
    return rate


@torch.no_grad()
def checkpoint(examined: Examined) -> Finding:
    """What is kept comes back bit for bit."""
    ppo = examined.ppo
    assert ppo.run is not None
    ppo.keeper.keep(ppo.step_done)
    kept = ppo.run.checkpoints / f"step-{ppo.step_done:06d}"
    before = [tensor.clone() for tensor in trained_tensors(ppo.optimizer)]
    for tensor in trained_tensors(ppo.optimizer):
        tensor.add_(1.0)
    start = time.perf_counter()
    ppo.go_on_from(kept)
    after = list(trained_tensors(ppo.optimizer))
    differ = sum(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    size = sum(path.stat().st_size for path in kept.rglob("*") if path.is_file())
    found = f"{len(before)} tensors, {size / 2**20:,.1f} MiB, read in {time.perf_counter() - start:.1f} s"
    if differ:
        return Finding("checkpoint round trip", "fail", f"{differ} of {found} come back changed", "keep the model's "
                       "weights in the dtype that it is saved in")  # fmt: skip
    return Finding("checkpoint round trip", "pass", found)
