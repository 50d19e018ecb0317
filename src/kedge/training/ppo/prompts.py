"""The prompts of a run: read, encoded, checked against the model, and split from those held out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from kedge.config.settings import several
from kedge.data.encode import encode_prompt
from kedge.data.files import Source
from kedge.data.records import Prompt, held_out, plain, read_prompts
from kedge.errors import ConfigError, DataError
from kedge.models.language_model import LanguageModel
from kedge.rewards.build import RewardLike, refuse_missing_columns
from kedge.sampling.sampler import Sampler
from kedge.training.ppo.config import PPOConfig
from kedge.training.too_long import Fitter, Limit, ending


@dataclass(frozen=True)
class EncodedPrompt:
    """A prompt and its token ids."""

    record: Prompt
    ids: list[int]


def split_prompts(
    source: Source,
    eval_source: Source | None,
    *,
    eval_size: int,
    columns: Mapping[str, str] | None,
    seed: int,
) -> tuple[list[Prompt], list[Prompt]]:
    """``(training, evaluation)`` prompts, disjoint by text.

    Raises:
        ConfigError: both ways to hold out at once. DataError: rows without prompt, none left to train on, or held-out
            prompts among the training ones.
    """
    if eval_source is not None and eval_size:
        raise ConfigError("eval_size: not used with eval_prompts, which are all held out; take one of them out")
    train = read_prompts(source, columns)
    if eval_source is not None:
        evaluation = read_prompts(eval_source, columns)
        refuse_overlap(train, evaluation)
    else:
        # Split by text: a prompt that stands in the data twice is on one side only.
        unique = list({plain(prompt.text): prompt for prompt in train}.values())
        count = f"{len(unique)} different ones in {len(train)} rows"
        _, evaluation = held_out(unique, eval_size, seed=seed, what="prompts", count=count)
        aside = {plain(prompt.text) for prompt in evaluation}
        train = [prompt for prompt in train if plain(prompt.text) not in aside]
    return train, evaluation


def refuse_misfits(
    reward: RewardLike | Sequence[RewardLike],
    metrics: RewardLike | Sequence[RewardLike],
    train: Sequence[Prompt],
    evaluation: Sequence[Prompt],
) -> None:
    """Raise where a reward function must have a column that the prompts it judges do not have.

    Raises:
        RewardError: naming function and column.
    """
    for records in (train, evaluation):
        for judging in [reward, *(several(metrics) if records is evaluation else ())] if records else ():
            refuse_missing_columns(judging, records[0].columns)


def prepare_prompts(
    lm: LanguageModel, config: PPOConfig, train: Sequence[Prompt], evaluation: Sequence[Prompt]
) -> tuple[list[EncodedPrompt], list[EncodedPrompt], list[str]]:
    """Both, encoded; and what there is to say about those that are too long.

    Raises:
        ConfigError: no room for a prompt beside an answer, or a micro-batch too small for the longest one.
        DataError: prompts that are too long.
    """
    encoded, notes = _encoded(lm, config, train, "prompts")
    encoded_aside, more_notes = _encoded(lm, config, evaluation, "held-out prompts")
    return encoded, encoded_aside, notes + more_notes


def refuse_no_room(sampler: Sampler, longest: int, answer: int) -> None:
    """Raise where a sampler has fewer positions than the longest prompt and its answer may take.

    Args:
        sampler: who writes.
        longest: tokens of both together.
        answer: those of the answer.

    Raises:
        ConfigError: with both numbers.
    """
    if sampler.positions is not None and longest > sampler.positions:
        raise ConfigError(
            f"response_length: {answer} and the longest prompt, {longest - answer} tokens, are more than the "
            f"{sampler.positions} that the sampler's servers take (--max-model-len); lower it or max_prompt_length, or "
            "start them with more"
        )


def refuse_overlap(train: Sequence[Prompt], evaluation: Sequence[Prompt]) -> None:
    """Raise where a held-out prompt is trained on.

    Raises:
        DataError: naming the first.
    """
    seen = {plain(prompt.text) for prompt in train}
    both = [prompt for prompt in evaluation if plain(prompt.text) in seen]
    if both:
        raise DataError(
            f"{both[0].origin}: this held-out prompt is a training prompt too, and {len(both) - 1} more are; "
            "take them out of one side"
        )


def _encoded(
    lm: LanguageModel, config: PPOConfig, records: Sequence[Prompt], what: str
) -> tuple[list[EncodedPrompt], list[str]]:
    """The prompts that fit, in token ids, and what there is to say about the others."""
    limit = longest_prompt(config, lm.positions)
    fitter = Fitter(config.too_long, "too_long" in config.model_fields_set, limit, "their beginnings")
    encoded, notes = fitter.fit(
        [EncodedPrompt(r, encode_prompt(lm.tokenizer, r.text, origin=r.origin)) for r in records],
        what,
        size=lambda prompt: len(prompt.ids),
        origin=lambda prompt: prompt.record.origin,
        cut=lambda prompt, limit: replace(prompt, ids=ending(lm.tokenizer, prompt.ids, limit)),
    )
    for prompt in encoded:
        total = len(prompt.ids) + config.response_length
        if config.micro_batch_tokens != "auto" and total > config.micro_batch_tokens:
            raise ConfigError(
                f"micro_batch_tokens: {config.micro_batch_tokens} does not hold the longest sequence, {total} tokens "
                f"({prompt.record.origin}); set {total} or more"
            )
    return encoded, notes


def longest_prompt(config: PPOConfig, positions: int | None) -> Limit | None:
    """How long a prompt may be.

    Raises:
        ConfigError: there is no room for any beside an answer.
    """
    limit, answer = None, config.response_length
    if positions is not None:
        if positions <= answer:
            raise ConfigError(
                f"response_length: {answer} leaves no room for a prompt in the model's {positions} positions; at most "
                f"{positions - 1}"
            )
        why = f"the model's {positions} positions less response_length={answer}"
        limit = Limit(positions - answer, why, "lower response_length")
    if config.max_prompt_length is not None and (limit is None or config.max_prompt_length < limit.tokens):
        why = f"max_prompt_length={config.max_prompt_length}"
        limit = Limit(config.max_prompt_length, why, "raise max_prompt_length")
    return limit
