"""The update: epochs of the clipped surrogate over minibatches, each in micro-batches by token budget."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import Parameter
from transformers import PreTrainedModel

from kedge.core import kl, masked_mean, policy_loss, value_clip_fraction, value_loss
from kedge.errors import NotFiniteError, NumericsError
from kedge.models.batch import dealt
from kedge.models.critic import Critic
from kedge.models.device import rounds_to_tf32
from kedge.models.forward import forward_tokens
from kedge.models.language_model import LanguageModel
from kedge.models.recompute import recomputing
from kedge.models.scalar import ScalarHead
from kedge.parallel import Processes
from kedge.runs.folder import Metrics
from kedge.sampling.rollouts import Rollouts, in_micro_batches
from kedge.training.adalora import Ranks
from kedge.training.not_finite import in_words
from kedge.training.optimization import clip_gradients, compute_dtype, permutation
from kedge.training.ppo.batch import Batch
from kedge.training.ppo.config import PPOConfig
from kedge.training.ppo.trust_region import MEASURED, TrustRegion

# How far the first minibatch's log-ratios may stand from 0, at the worst token and on average: the sampler and the
# update compute the same number by two routes, so more than rounding means that one of them is wrong.
TOLERANCES = {torch.float32: (1e-4, 1e-5), torch.bfloat16: (0.5, 0.05), torch.float16: (0.1, 0.01)}


def rounding(config: PPOConfig, model: PreTrainedModel) -> tuple[float, float]:
    """The tolerances at the precision that the model computes in."""
    dtype = compute_dtype(config, model)
    if dtype == torch.float32 and rounds_to_tf32(model.device):
        dtype = torch.float16  # which has as many digits
    return TOLERANCES.get(dtype, TOLERANCES[torch.float32])


@dataclass(frozen=True)
class Summand:
    """A part of a micro-batch's loss, of one pass over a trunk."""

    loss: Tensor
    metrics: Mapping[str, Tensor]
    drift: Tensor | None = None
    """``[b]``: the largest change of a log-probability in each answer."""


@dataclass(frozen=True)
class Update:
    """What is trained, and how."""

    policy: LanguageModel
    critic: Critic | None
    optimizer: torch.optim.Optimizer
    config: PPOConfig
    processes: Processes
    region: TrustRegion
    recomputed: Sequence[nn.Module] = ()
    """Layers under gradient checkpointing."""
    ranks: Ranks = field(default_factory=Ranks)
    """Of adapters whose ranks come down."""

    def __call__(self, batch: Batch, step: int, kl_coef: float) -> Metrics:
        """Train on a step's answers; returns the means over its minibatches.

        Raises:
            NumericsError: the very first minibatch has a ratio that is not 1.
            NotFiniteError: log-probabilities, values, loss or gradient are not finite. No weight is touched by that.
        """
        seen: list[Metrics] = []
        applied = 0
        train_policy = step >= self.config.critic_warmup_steps
        measure = partial(self._moved, batch)
        rate = self.region.begin()
        self.ranks.begin(step * self.config.optimizer_steps)
        try:
            for rows in self._minibatches(batch, step):
                metrics = self._accumulate(batch, rows, kl_coef, train_policy)
                seen.append(metrics)
                if not applied:
                    metrics |= self._check_first(metrics, fatal=step == 0, recomputed=batch.weights is not None)
                elif train_policy and self.region.is_left(metrics["policy/approxkl_avg"], len(rows), measure):
                    self.optimizer.zero_grad(set_to_none=True)
                    break
                metrics["policy/grad_norm"] = self._apply(rows, train_policy)
                applied += 1
        except NotFiniteError:
            self.ranks.end((step + 1) * self.config.optimizer_steps)
            if applied and train_policy:  # it may be the step before that leads there, and it stays
                self.region.end(measure)
            raise
        self.ranks.end((step + 1) * self.config.optimizer_steps)
        averages = _averages(seen)
        if applied and train_policy:
            averages["policy/update_kl"] = self.region.end(measure)
        averages |= self.ranks.metrics()
        return averages | {
            "policy/stopped_early": float(applied < len(seen)),
            "policy/updates": applied,
            "policy/lr_scale": self.region.scale,
            "lr": rate,
        }

    def _minibatches(self, batch: Batch, step: int) -> Iterator[list[int]]:
        """The answers of each optimiser step: pass after pass, each in an order of its own."""
        size = self.config.mini_batch_size
        for epoch in range(self.config.num_ppo_epochs):
            order = permutation(len(batch.tokens), self.config.seed, step, epoch)
            for first in range(0, len(order), size):
                if batch.host_mask[order[first : first + size]].any():  # else all were cut off and are left out
                    yield order[first : first + size]

    def _moved(self, batch: Batch) -> float:
        """How far the update has moved the policy, over some of the answers that are trained on, evenly over all of
        them (neighbours may share a prompt): nats a token."""
        rows = [row for row, mask in enumerate(batch.host_mask.any(-1).tolist()) if mask]
        few = min(len(rows), MEASURED)
        return self._divergence(batch.rows([rows[i * len(rows) // few] for i in range(few)]))

    @torch.no_grad()
    def _divergence(self, part: Batch) -> float:
        """KL (k3, nats a token) of the policy now from the one that sampled, over a few answers."""
        rollouts = Rollouts(part.tokens, part.lengths, part.mask, part.old_logprobs, part.host_mask, part.states)
        now = in_micro_batches(rollouts, self.config.tokens_at_a_time, self._logprobs, self.processes)
        return float(masked_mean(kl(part.old_logprobs, now, estimator="k3"), part.mask))

    def _logprobs(self, tokens: Tensor, mask: Tensor, states: Tensor | None) -> Tensor:
        outputs = forward_tokens(self.policy, tokens, mask, temperature=self.config.temperature, states=states)
        return outputs.logprobs.float()

    def _accumulate(self, batch: Batch, rows: Sequence[int], kl_coef: float, train_policy: bool) -> Metrics:
        """Gradients and metrics of one minibatch, the same whatever the micro-batches and the processes."""
        tokens = max(int(batch.host_mask[list(rows)].sum()), 1)
        totals: dict[str, Tensor] = {}
        worst = torch.zeros((), device=batch.tokens.device)
        fine: list[tuple[list[int], Tensor]] = []
        lengths = batch.lengths[list(rows)].tolist()
        parts = dealt(lengths, self.config.tokens_at_a_time, self.processes)
        trained = self._trained(train_policy)  # before the passes: within them, sharded weights are others
        for number, part in enumerate(parts, start=1):
            samples = [rows[i] for i in part]
            micro_batch = batch.rows(samples) if samples else batch.rows(rows[:1]).without_training()
            with self.processes.summing_gradients(trained, now=number == len(parts)):
                for summand in self.losses(micro_batch, tokens, kl_coef, train_policy):
                    if summand.loss.requires_grad:
                        summand.loss.backward()
                    if summand.drift is not None:
                        fine.append((samples, summand.drift[: len(samples)].isfinite()))
                        worst = torch.maximum(worst, summand.drift.max())
                    for name, value in summand.metrics.items():
                        totals[name] = totals.get(name, torch.zeros_like(value)) + value.detach()
        self.processes.max_(worst)
        summed = torch.stack([value.float() for value in totals.values()])
        self.processes.sum_(summed)
        numbers = torch.cat([summed, worst[None]]).tolist()  # together: a device is waited for at every look
        found = dict(zip([*totals, "worst"], numbers, strict=True))
        if not all(map(math.isfinite, found.values())):
            self._refuse(found, fine)
        return found

    def _trained(self, train_policy: bool) -> list[Parameter]:
        """What gradients are for, in the order opposite to the one in which they come. While the critic warms up, the
        policy's are not used."""
        critic = [] if self.critic is None else self.critic.trained()
        return [*critic, *self.policy.trained()] if train_policy else critic

    @property
    def _parameters(self) -> list[Parameter]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def losses(self, part: Batch, denominator: int, kl_coef: float, train_policy: bool) -> Iterator[Summand]:
        """The loss of one micro-batch, in as many summands as trunks are trained. Each is to be gone back over before
        the next is asked for, so that the activations of one trunk are there at a time.

        Args:
            denominator: trained tokens of the whole minibatch.
        """
        head = None if self.critic is None else self.critic.value_head
        with recomputing(self.recomputed), torch.set_grad_enabled(train_policy or head is not None):
            summand = self._policy_loss(part, denominator, kl_coef, train_policy, head)
        yield summand
        if self.critic is not None and head is None:
            with recomputing(self.recomputed):
                values = self.critic.values(part.tokens, part.host_mask, part.states)
            yield Summand(*self._value_loss(part, values, denominator))

    def _policy_loss(
        self, part: Batch, denominator: int, kl_coef: float, train_policy: bool, head: ScalarHead | None
    ) -> Summand:
        """What the pass over the policy gives: its loss, and that of a critic whose head reads the same states."""
        config, mask = self.config, part.mask
        outputs = forward_tokens(
            self.policy,
            part.tokens,
            part.host_mask,
            value_head=head,
            states=part.states,
            temperature=config.temperature,
            with_entropy=True,
            entropy_gradient=config.entropy_coef > 0,
        )
        logprobs, entropy = outputs.logprobs, outputs.entropy
        assert entropy is not None
        surrogate, clipping = policy_loss(
            logprobs,
            part.old_logprobs,
            part.advantages,
            mask,
            clip=config.clip,
            dual_clip=config.dual_clip,
            weights=part.weights,
            denominator=denominator,
        )
        entropy_mean = masked_mean(entropy, mask, denominator=denominator)
        loss, value_metrics = self._value_loss(part, outputs.values, denominator)
        if train_policy:
            loss = loss + surrogate - config.entropy_coef * entropy_mean
            if config.kl_in == "loss":
                # Weighted by the ratio, the gradient stays that of KL(policy, reference) after the first update too.
                ratio = (logprobs - part.old_logprobs).detach().exp()
                if part.weights is not None:
                    ratio = ratio * part.weights
                divergence = ratio * kl(logprobs, part.ref_logprobs, estimator="k2")
                loss = loss + kl_coef * masked_mean(divergence, mask, denominator=denominator)
        drift = (logprobs - part.old_logprobs).detach().abs().masked_fill(~mask, 0.0)
        metrics = {
            "loss/policy_avg": surrogate,
            "policy/entropy_avg": entropy_mean,
            "policy/approxkl_avg": clipping["approxkl"],
            "policy/clipfrac_avg": clipping["clipfrac"],
            "val/ratio": clipping["ratio"],
            "drift": masked_mean(drift, mask, denominator=denominator),
        }
        return Summand(loss, metrics | value_metrics, drift=drift.max(-1).values)

    def _value_loss(self, part: Batch, values: Tensor | None, denominator: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The critic's part of the loss; nothing where there is no critic."""
        if values is None or part.old_values is None or part.returns is None:
            return torch.zeros((), device=part.tokens.device), {}
        clip = self.config.cliprange_value
        error = value_loss(values, part.old_values, part.returns, part.mask, clip=clip, denominator=denominator)
        metrics = {"loss/value_avg": error}
        if clip is not None:
            metrics["val/clipfrac_avg"] = value_clip_fraction(
                values, part.old_values, part.returns, part.mask, clip=clip, denominator=denominator
            )
        return self.config.vf_coef * error, metrics

    def _check_first(self, metrics: Metrics, *, fatal: bool, recomputed: bool) -> Metrics:
        """Before any update the ratio is 1, KL and clip fraction are 0, whatever the data."""
        worst, average = metrics["worst"], metrics["drift"]
        limits = rounding(self.config, self.policy.model)
        clipped = metrics["policy/clipfrac_avg"] > 0 and limits[0] < min(self.config.clip)  # in bfloat16 some will be
        if fatal and (not worst <= limits[0] or not average <= limits[1] or clipped):
            others = "the sampler's" if not recomputed else "those computed before it"
            raise NumericsError(
                f"the first minibatch's log-probabilities differ from {others} by {worst:.2g} at the worst token "
                f"and {average:.2g} on average (at most {limits[0]:g} and {limits[1]:g}); before any update the ratio "
                "must be 1. The model scores a token differently alone (with its cache) and in a batch: dropout left "
                "on, a low-precision dtype, or an attention implementation at fault"
            )
        return {
            "policy/first_drift_max": worst,
            "policy/first_drift_avg": average,
            "policy/first_approxkl": metrics["policy/approxkl_avg"],
            "policy/first_clipfrac": metrics["policy/clipfrac_avg"],
        }

    def _refuse(self, metrics: Metrics, fine: Sequence[tuple[list[int], Tensor]]) -> None:
        """Name what is not finite, and leave no gradient behind."""
        self.optimizer.zero_grad(set_to_none=True)
        bad = self.processes.gather(
            lambda: [i for samples, is_fine in fine for i in itertools.compress(samples, (~is_fine).tolist())]
        )
        names = ", ".join(name for name, value in metrics.items() if not math.isfinite(value) and name != "worst")
        where = f"log-probabilities of {in_words(bad)}" if bad else "the loss"
        raise NotFiniteError(f"{where}: NaN or infinite (so are {names}); lower learning_rate")

    def _apply(self, rows: Sequence[int], train_policy: bool) -> float:
        if not train_policy:  # a shared critic's value loss has reached the policy's trunk too
            for parameter in self.policy.trained():
                parameter.grad = None
        self.ranks.before_step()
        norm = float(clip_gradients(self._parameters, self.config.max_grad_norm))
        if not math.isfinite(norm):
            self.optimizer.zero_grad(set_to_none=True)
            raise NotFiniteError(f"gradient: its norm is {norm}, in {in_words(list(rows))}; lower learning_rate")
        self.region.remember()
        self.optimizer.step()
        self.ranks.after_step()
        torch.clear_autocast_cache()  # which holds low-precision copies of the weights as they were
        self.optimizer.zero_grad(set_to_none=True)
        return norm


def _averages(minibatches: Sequence[Metrics]) -> Metrics:
    """Means over minibatches, of the metrics each of them has."""
    names = dict.fromkeys(name for metrics in minibatches for name in metrics if name not in ("worst", "drift"))
    values = {name: [metrics[name] for metrics in minibatches if name in metrics] for name in names}
    return {name: sum(numbers) / len(numbers) for name, numbers in values.items()}
