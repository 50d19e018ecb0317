"""The prompts of a run: read, encoded, checked against the model, and split from those held out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kedge.data.encode import encode_prompt
from kedge.data.files import Source
from kedge.data.records import Prompt, held_out, plain, read_prompts
from kedge.errors import ConfigError, DataError
from kedge.models.language_model import LanguageModel
from kedge.rewards.build import RewardLike, refuse_missing_columns
from kedge.training.ppo.config import PPOConfig


@dataclass(frozen=True)
class EncodedPrompt:
    """A prompt and its token ids."""

    record: Prompt
    ids: list[int]


def split_prompts(
    config: PPOConfig,
    source: Source,
    eval_source: Source | None,
    *,
    eval_size: int,
    columns: Mapping[str, str] | None,
) -> tuple[list[Prompt], list[Prompt]]:
    """``(training, evaluation)`` prompts, disjoint by text.

    Raises:
        ConfigError: both ways to hold out at once.
        DataError: rows without prompt, or held-out prompts among the training ones.
    """
    if eval_source is not None and eval_size:
        raise ConfigError("eval_size: not used with eval_prompts, which are all held out; take one of them out")
    train = read_prompts(source, columns)
    if eval_source is not None:
        evaluation = read_prompts(eval_source, columns)
        _refuse_overlap(train, evaluation)
    else:
        # Split by text: a prompt that stands in the data twice is on one side only.
        unique = list({plain(prompt.text): prompt for prompt in train}.values())
        _, evaluation = held_out(unique, eval_size, seed=config.seed, what="prompts")
        aside = {plain(prompt.text) for prompt in evaluation}
        train = [prompt for prompt in train if plain(prompt.text) not in aside]
    return train, evaluation


def refuse_misfits(
    reward: RewardLike | Sequence[RewardLike],
    metrics: Sequence[RewardLike],
    train: Sequence[Prompt],
    evaluation: Sequence[Prompt],
) -> None:
    """Raise where a reward function must have a column that the prompts it judges do not have.

    Raises:
        RewardError: naming function and column.
    """
    for records in (train, evaluation):
        for judging in [reward, *(metrics if records is evaluation else ())] if records else ():
            refuse_missing_columns(judging, records[0].columns)


def prepare_prompts(
    lm: LanguageModel, config: PPOConfig, train: Sequence[Prompt], evaluation: Sequence[Prompt]
) -> tuple[list[EncodedPrompt], list[EncodedPrompt]]:
    """Both, encoded.

    Raises:
        ConfigError: a micro-batch too small for the longest prompt. DataError: prompts that do not fit.
    """
    return _encoded(lm, config, train, "prompts"), _encoded(lm, config, evaluation, "eval_prompts")


def _refuse_overlap(train: Sequence[Prompt], evaluation: Sequence[Prompt]) -> None:
    seen = {plain(prompt.text) for prompt in train}
    both = [prompt for prompt in evaluation if plain(prompt.text) in seen]
    if both:
        raise DataError(
            f"{both[0].origin}: this held-out prompt is a training prompt too, and {len(both) - 1} more are; "
            "take them out of one side"
        )


def _encoded(lm: LanguageModel, config: PPOConfig, records: Sequence[Prompt], key: str) -> list[EncodedPrompt]:
    encoded = [EncodedPrompt(r, encode_prompt(lm.tokenizer, r.text, origin=r.origin)) for r in records]
    if config.max_prompt_length is not None:
        encoded = [prompt for prompt in encoded if len(prompt.ids) <= config.max_prompt_length]
        if records and not encoded:
            raise DataError(f"{key}: every prompt has more than max_prompt_length={config.max_prompt_length} tokens")
    limit = lm.positions
    for prompt in encoded:
        total = len(prompt.ids) + config.response_length
        if limit is not None and total > limit:
            room = limit - config.response_length
            leave_out = f"Set max_prompt_length={room} to leave such prompts out, or " if room > 0 else "Set "
            raise DataError(
                f"{prompt.record.origin}: the prompt has {len(prompt.ids)} tokens; with response_length="
                f"{config.response_length} that is more than the model's {limit} positions. {leave_out}"
                "response_length lower"
            )
        if total > config.micro_batch_tokens:
            raise ConfigError(
                f"micro_batch_tokens: {config.micro_batch_tokens} does not hold the longest sequence, {total} tokens "
                f"({prompt.record.origin}); set {total} or more"
            )
    return encoded
