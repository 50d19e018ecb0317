"""A policy's answers to held-out prompts, as numbers, alone and against another policy's."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kedge.config.settings import several
from kedge.core import kl
from kedge.data.encode import encode_prompt
from kedge.data.files import Source
from kedge.data.records import Prompt, read_prompts
from kedge.errors import ConfigError, DataError
from kedge.evaluation.metrics import WinRate, mean, win_rate
from kedge.evaluation.samples import sample_rows
from kedge.models.device import Device
from kedge.models.forward import forward_tokens
from kedge.models.head import vocabulary_rows
from kedge.models.language_model import LanguageModel, load_language_model
from kedge.models.loading import DType
from kedge.parallel import ALONE, Processes
from kedge.rewards.build import RewardLike, build_reward, refuse_missing_columns
from kedge.rewards.foreign import TrainerState
from kedge.rewards.library.words import distinct_n
from kedge.rewards.scores import AT_REST, Reward, judge
from kedge.sampling.completion import Completion
from kedge.sampling.local.engine import Engine
from kedge.sampling.rollouts import collate, generate, in_micro_batches
from kedge.sampling.sampler import Sampler, SamplerOf, made
from kedge.sampling.settings import Sampling

MICRO_BATCH_TOKENS = 16_384
RESERVED = ("score", "kl", "length", "ended_by_eos", "distinct_1", "distinct_2")


@dataclass(frozen=True)
class Evaluation:
    """The answers of one policy to the prompts, with everything measured on them."""

    prompts: Sequence[Prompt]
    completions: Sequence[Completion]
    scores: Mapping[str, Sequence[float]]
    """``{judge: [N]}``."""
    kl: Sequence[float] | None
    """``[N]`` nats: sum over a sequence's tokens of log policy - log reference."""
    components: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """``{"politeness": [N]}`` of a reward of several parts, each part's own scores, unweighted."""
    failures: Mapping[str, int] = field(default_factory=dict)
    """``{"judge_timeouts": 0, ...}`` samples with a default score and why, of judges that have one."""
    remarks: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """``{"facts": [N]}`` why an answer has its score, of judges that say so."""

    def summary(self) -> dict[str, float]:
        """Means over the prompts: scores, ``rewards/NAME`` of the parts of a reward, sequence KL, answer length in
        tokens, share ended by EOS, distinct-1/2; and how many samples have a default score. A judge's mean is over
        those it judged, and left out where it judged none."""
        n = len(self.completions)
        texts = [completion.text for completion in self.completions]
        means = {name: mean(values) for name, values in self.scores.items()}
        means |= {f"rewards/{name}": mean(values) for name, values in self.components.items()}
        numbers = {name: value for name, value in means.items() if not math.isnan(value)}
        if self.kl is not None:
            numbers["kl"] = mean(self.kl)
        tokens = sum(len(completion.ids) for completion in self.completions)
        return numbers | {
            **({"length": tokens / n} if tokens else {}),  # what no policy wrote may have none
            "ended_by_eos": sum(c.finish_reason == "eos" for c in self.completions) / n,
            "distinct_1": distinct_n(texts, 1),
            "distinct_2": distinct_n(texts, 2),
            **self.failures,
        }

    def samples(self, count: int | None = None) -> Iterator[dict[str, Any]]:
        """The first ``count`` answers (default all) as lines of samples.jsonl."""
        scores = {**self.components, **self.scores}
        return sample_rows(self.prompts, self.completions, scores, self.kl, count=count, remarks=self.remarks)


def measure_policy(
    policy: LanguageModel,
    sampler: Sampler,
    prompts: Sequence[Prompt],
    judges: Mapping[str, Reward],
    sampling: Sampling,
    *,
    ids: Sequence[list[int]] | None = None,
    reference: LanguageModel | None = None,
    seed: int = 0,
    micro_batch_tokens: int = MICRO_BATCH_TOKENS,
    processes: Processes = ALONE,
    state: TrainerState = AT_REST,
) -> Evaluation:
    """Let a policy answer every prompt once, and measure the answers.

    Args:
        policy: whose answers they are.
        sampler: writes them, with the policy's weights.
        prompts: what is asked.
        judges: ``{name: reward}``, the training reward and held-out metrics alike.
        sampling: how it answers.
        ids: the prompts' tokens, where they are no longer what the tokenizer makes of them (cut).
        reference: also measure the sequence KL from it.
        seed: the same seed gives every policy the same random numbers for the same prompt.
        micro_batch_tokens: of the passes that measure the KL.
        processes: each writes and judges a share.
        state: of the training, for judges that ask how far it is.

    Raises:
        DataError: a prompt that does not fit the model. RewardError: a judge that fails to judge.
    """
    if not prompts:
        return Evaluation([], [], {}, None)
    if ids is None:
        ids = [encode_prompt(policy.tokenizer, prompt.text, origin=prompt.origin) for prompt in prompts]
    completions = generate(sampler, ids, sampling, processes, vocabulary=vocabulary_rows(policy.model), seed=seed)
    with torch.autocast(policy.device.type, enabled=False):  # whatever the policy computes in, judges are judges
        judged = judge_answers(prompts, completions, judges, processes, state)
    if reference is None:
        return judged
    temperature = sampling.temperature or 1.0
    return replace(judged, kl=sequence_kl(policy, reference, completions, temperature, micro_batch_tokens, processes))


def judge_answers(
    prompts: Sequence[Prompt],
    completions: Sequence[Completion],
    judges: Mapping[str, Reward],
    processes: Processes = ALONE,
    state: TrainerState = AT_REST,
) -> Evaluation:
    """What judges say of answers, whoever gave them.

    Args:
        prompts: what was asked.
        completions: an answer to each.
        judges: ``{name: reward}``.
        processes: each judges a share.
        state: of the training, for judges that ask how far it is.

    Raises:
        RewardError: a judge that fails to judge.
    """
    scores = {name: judge(by, prompts, completions, processes, state) for name, by in judges.items()}
    sums = {name: judged.sums() for name, judged in scores.items()}
    failures: Counter[str] = Counter()
    for name, judged in scores.items():
        for counts in judged.failure_counts().values():
            failures.update({f"{name}_{reason}": count for reason, count in counts.items()})
    parts = {k: v for judged in scores.values() if len(judged.components) > 1 for k, v in judged.components.items()}
    remarks = {name: said for judged in scores.values() for name, said in judged.remarks.items()}
    return Evaluation(prompts, completions, sums, None, parts, failures, remarks)


def sequence_kl(
    lm: LanguageModel,
    reference: LanguageModel,
    completions: Sequence[Completion],
    temperature: float,
    micro_batch_tokens: int,
    processes: Processes,
) -> list[float]:
    """``[N]`` nats: log policy - log reference, summed over each completion's tokens."""
    rollouts = collate(completions, lm.pad_id, lm.device)

    def logprobs(side: LanguageModel) -> Tensor:
        return in_micro_batches(
            rollouts,
            micro_batch_tokens,
            lambda tokens, mask, _: forward_tokens(side, tokens, mask, temperature=temperature).logprobs,
            processes,
        )

    divergence: list[float] = kl(logprobs(lm), logprobs(reference)).sum(-1).tolist()
    return divergence


@dataclass(frozen=True)
class Comparison:
    """Two policies' answers to the same prompts."""

    before: Evaluation
    after: Evaluation

    def __post_init__(self) -> None:
        before, after = ([prompt.text for prompt in each.prompts] for each in (self.before, self.after))
        if before != after:
            which = next((i for i, (a, b) in enumerate(zip(before, after, strict=False), 1) if a != b), None)
            what = f"prompt {which} of the two differs" if which else f"{len(before)} and {len(after)} prompts"
            raise DataError(f"comparison: answers to other prompts, or in another order ({what}) cannot be compared")

    def win_rates(self) -> dict[str, WinRate]:
        """How often ``after`` beats ``before``, by every judge that judged both of some prompt's answers."""
        pairs = {
            name: _both_judged(scores, self.before.scores[name])
            for name, scores in self.after.scores.items()
            if name in self.before.scores
        }
        return {name: win_rate(ours, theirs) for name, (ours, theirs) in pairs.items() if ours}

    def summary(self) -> dict[str, Any]:
        """Number of prompts, both summaries, and the win rates with their 95% intervals."""
        return {
            "eval_prompts": len(self.after.prompts),
            "before": self.before.summary(),
            "after": self.after.summary(),
            "win_rate": {name: rate.as_dict() for name, rate in self.win_rates().items()},
        }


def evaluate(
    policy: str | Path | LanguageModel,
    baseline: str | Path | LanguageModel,
    prompts: Source,
    *,
    reward: RewardLike | Sequence[RewardLike] | None = None,
    metrics: RewardLike | Sequence[RewardLike] = (),
    sampling: Sampling | None = None,
    sampler: SamplerOf = Engine,
    tokenizer: str | Path | None = None,
    stop_tokens: str | Sequence[str] = (),
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
    seed: int = 0,
    device: Device = "auto",
    dtype: DType = "auto",
    trust_remote_code: bool = False,
    attn_implementation: str | None = None,
) -> Comparison:
    """Compare two policies on the same prompts, drawing the same random numbers for both.

    Args:
        policy: hub id, folder, run, or loaded.
        baseline: the same; the KL is the policy's from it, measured where both have the same vocabulary and answer from
            their whole distributions (no truncation, temperature above 0).
        prompts: a data source with a column ``prompt`` (or a table, or a list), that neither was trained on.
        reward: judges as ``score``.
        metrics: further judges, each under its own name.
        sampling: how both answer; default 64 tokens at temperature 1.
        sampler: makes who writes a model's answers; by default the engine here.
        tokenizer: where the tokenizers are, when not beside the models.
        stop_tokens: end an answer, besides EOS.
        columns: ``{"prompt": "the data's name for it"}``.
        limit: at most so many prompts.

    Raises:
        KedgeError: anything in these that does not fit.
    """
    records = read_prompts(prompts, columns)[:limit]
    for judging in [*([] if reward is None else [reward]), *several(metrics)]:
        refuse_missing_columns(judging, records[0].columns)
    loading: dict[str, Any] = {
        "device": device, "trust_remote_code": trust_remote_code, "attn_implementation": attn_implementation
    }  # fmt: skip
    judges: dict[str, Reward] = {} if reward is None else {"score": build_reward(reward, **loading)}
    judges |= named_judges(metrics, **loading)

    def loaded(source: str | Path | LanguageModel) -> LanguageModel:
        if isinstance(source, LanguageModel):
            return source
        return load_language_model(source, tokenizer=tokenizer, stop_tokens=stop_tokens, dtype=dtype, **loading)

    ours, theirs, sampling = loaded(policy), loaded(baseline), sampling or Sampling()
    # A KL is of two distributions over the same tokens, on samples of the first.
    same = ours.tokenizer.get_vocab() == theirs.tokenizer.get_vocab() and sampling.is_whole
    reference = theirs if same else None

    def measured(lm: LanguageModel) -> Evaluation:
        with made(sampler, lm) as writes:
            return measure_policy(lm, writes, records, judges, sampling, reference=reference, seed=seed)

    after = measured(ours)
    return Comparison(measured(theirs), after)


def named_judges(metrics: RewardLike | Sequence[RewardLike], **loading: Any) -> dict[str, Reward]:
    """The judges by name, of several metrics or of one; ``loading`` as :func:`build_reward` takes it.

    Raises:
        ConfigError: two of one name, or one named like a number that every evaluation has.
    """
    judges: dict[str, Reward] = {}
    for found in (build_reward(metric, partial=True, **loading) for metric in several(metrics)):
        if found.name in judges or found.name in RESERVED:
            raise ConfigError(f"metrics: the name {found.name!r} is taken; give another: {{model = ..., name = ...}}")
        judges[found.name] = found
    return judges


def _both_judged(ours: Sequence[float], theirs: Sequence[float]) -> tuple[list[float], list[float]]:
    pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if not (math.isnan(a) or math.isnan(b))]
    return [a for a, _ in pairs], [b for _, b in pairs]
