"""A step's experience, filled in as the step goes: prompts, answers, scores, and the batch to train on."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from kedge.core import RunningMoments, kl
from kedge.evaluation.samples import sample_rows
from kedge.models.critic import Critic
from kedge.models.device import total_memory
from kedge.models.forward import forward_tokens
from kedge.models.head import hidden_size
from kedge.models.language_model import LanguageModel
from kedge.parallel import Processes
from kedge.rewards.scores import Scores
from kedge.runs.folder import Metrics
from kedge.sampling.completion import Completion
from kedge.sampling.rollouts import Rollouts, in_micro_batches
from kedge.training.not_finite import refuse_not_finite
from kedge.training.ppo.batch import Batch, estimate_advantages, token_rewards
from kedge.training.ppo.config import PPOConfig
from kedge.training.ppo.prompts import EncodedPrompt

# Of a device's memory, for a step's hidden states below the first layer that is trained; what has no room there is made
# again in every pass.
STATES_SHARE = 1 / 8
BYTES = 4


@dataclass(frozen=True)
class Experience:
    """Answers to a step's prompts, scored and ready to train on."""

    prompts: Sequence[EncodedPrompt]
    completions: Sequence[Completion]
    rollouts: Rollouts
    scores: Scores
    batch: Batch
    sampled: Metrics = field(default_factory=dict)
    """What there is to say of who wrote them."""

    def samples(self, count: int) -> Iterator[dict[str, Any]]:
        """The first ``count`` answers as lines of samples.jsonl."""
        divergence = kl(self.rollouts.logprobs, self.batch.ref_logprobs).sum(-1).tolist()
        judged = {"score": self.scores.sums(), **self.scores.components}
        records = [prompt.record for prompt in self.prompts]
        return sample_rows(records, self.completions, judged, divergence, count=count, remarks=self.scores.remarks)


def keeps_states(lm: LanguageModel, shape: tuple[int, int], memory: int) -> bool:
    """Whether the hidden states of a frozen bottom are kept for a step's answers.

    Args:
        lm: whose bottom it is.
        shape: answers, and the tokens of the longest.
        memory: of the device, in bytes.
    """
    return lm.bottom is not None and math.prod(shape) * hidden_size(lm.model) * BYTES <= STATES_SHARE * memory


@dataclass(frozen=True)
class Estimator:
    """From answers and their scores to advantages: what reference and critic say of every token."""

    reference: LanguageModel
    critic: Critic | None
    config: PPOConfig
    processes: Processes

    @torch.no_grad()
    def __call__(
        self,
        completions: Sequence[Completion],
        rollouts: Rollouts,
        scores: Scores,
        moments: RunningMoments,
        kl_coef: float,
    ) -> Batch:
        """The batch to train on.

        Args:
            moments: of the rewards so far; updated.

        Raises:
            NotFiniteError: log-probabilities, values or advantages are not finite.
        """
        rollouts = self.with_states(rollouts)
        cut_off = torch.tensor([c.finish_reason == "length" for c in completions])
        reference = self.logprobs(self.reference, rollouts)
        refuse_not_finite("log-probabilities under the reference", reference)
        values = None if self.critic is None else self._computed(rollouts, self.critic.values)
        if values is not None:
            refuse_not_finite("values", values)
        rewards = token_rewards(rollouts, scores, cut_off, self.config, moments)
        refuse_not_finite("rewards", rewards)
        batch = estimate_advantages(rollouts, rewards, reference, values, cut_off, kl_coef, self.config)
        refuse_not_finite("advantages", batch.advantages)
        return batch

    def with_states(self, rollouts: Rollouts) -> Rollouts:
        """With the hidden states of the frozen bottom, where the policy has one and there is room for them."""
        lm, (answers, width) = self.reference, rollouts.tokens.shape
        if rollouts.states is not None or not keeps_states(lm, (answers, width), total_memory(lm.device)):
            return rollouts
        return replace(rollouts, states=self._computed(rollouts, lambda tokens, *_: lm.bottom_states(tokens)))

    @torch.no_grad()
    def logprobs(self, lm: LanguageModel, rollouts: Rollouts) -> Tensor:
        """``[B, L]`` of the answers' tokens under ``lm``, by a forward pass; 0.0 elsewhere."""

        def compute(tokens: Tensor, mask: Tensor, states: Tensor | None) -> Tensor:
            return forward_tokens(lm, tokens, mask, temperature=self.config.temperature, states=states).logprobs

        return self._computed(rollouts, compute)

    def _computed(self, rollouts: Rollouts, compute: Callable[[Tensor, Tensor, Tensor | None], Tensor]) -> Tensor:
        return in_micro_batches(rollouts, self.config.tokens_at_a_time, compute, self.processes)
