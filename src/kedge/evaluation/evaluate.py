"""A policy's answers to held-out prompts, as numbers."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from kedge.core import kl
from kedge.data.encode import encode_prompt
from kedge.data.records import Prompt
from kedge.engine.engine import Completion, Engine
from kedge.engine.rollouts import collate, in_micro_batches
from kedge.engine.sampling import Sampling
from kedge.evaluation.metrics import WinRate, distinct_n, mean, win_rate
from kedge.models.language_model import LanguageModel
from kedge.models.scoring import score_tokens
from kedge.rewards.scores import Reward

MICRO_BATCH_TOKENS = 16_384


@dataclass(frozen=True)
class Evaluation:
    """The answers of one policy to the prompts, with everything measured on them."""

    prompts: Sequence[Prompt]
    completions: Sequence[Completion]
    scores: Mapping[str, Sequence[float]]
    """``{judge: [N]}``."""
    kl: Sequence[float] | None
    """``[N]`` nats: sum over a sequence's tokens of log policy - log reference."""

    def summary(self) -> dict[str, float]:
        """Means over the prompts: scores, sequence KL, answer length in tokens, share ended by EOS, distinct-1/2."""
        n = len(self.completions)
        texts = [completion.text for completion in self.completions]
        numbers = {name: mean(values) for name, values in self.scores.items()}
        if self.kl is not None:
            numbers["kl"] = mean(self.kl)
        return numbers | {
            "length": sum(len(c.ids) for c in self.completions) / n,
            "ended_by_eos": sum(c.finish_reason == "eos" for c in self.completions) / n,
            "distinct_1": distinct_n(texts, 1),
            "distinct_2": distinct_n(texts, 2),
        }


def evaluate_policy(
    lm: LanguageModel,
    prompts: Sequence[Prompt],
    judges: Mapping[str, Reward],
    sampling: Sampling,
    *,
    reference: LanguageModel | None = None,
    seed: int = 0,
) -> Evaluation:
    """Let ``lm`` answer every prompt once and measure the answers.

    Args:
        judges: ``{name: reward}``, the training reward and held-out metrics alike.
        reference: also measure the sequence KL from it.
        seed: the same seed gives every policy the same random numbers for the same prompt.

    Raises:
        DataError: a prompt that does not fit the model. RewardError: a judge that fails to judge.
    """
    ids = [encode_prompt(lm.tokenizer, prompt.text, origin=prompt.origin) for prompt in prompts]
    completions = Engine(lm).generate(ids, sampling, seed=seed)
    scores = {name: judge(prompts, completions).sums() for name, judge in judges.items()}
    divergence = None if reference is None else sequence_kl(lm, reference, completions, sampling.temperature or 1.0)
    return Evaluation(prompts, completions, scores, divergence)


def sequence_kl(
    lm: LanguageModel, reference: LanguageModel, completions: Sequence[Completion], temperature: float
) -> list[float]:
    """``[N]`` nats: log policy - log reference, summed over each completion's tokens."""
    rollouts = collate(completions, lm.pad_id, lm.device)

    def logprobs(side: LanguageModel) -> Tensor:
        return in_micro_batches(
            rollouts,
            MICRO_BATCH_TOKENS,
            lambda *part: score_tokens(side.model, *part, temperature=temperature).logprobs,
        )

    divergence: list[float] = kl(logprobs(lm), logprobs(reference)).sum(-1).tolist()
    return divergence


def compare(ours: Evaluation, theirs: Evaluation) -> dict[str, WinRate]:
    """Win rate of one policy over another by every judge, on the prompts both answered."""
    return {
        name: win_rate(*_both_judged(ours.scores[name], theirs.scores[name]))
        for name in ours.scores
        if name in theirs.scores
    }


def _both_judged(ours: Sequence[float], theirs: Sequence[float]) -> tuple[list[float], list[float]]:
    pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if not (math.isnan(a) or math.isnan(b))]
    return [a for a, _ in pairs], [b for _, b in pairs]
