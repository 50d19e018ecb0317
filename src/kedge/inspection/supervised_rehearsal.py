"""Supervised fine-tuning and reward modelling rehearsed: one optimizer step."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor, nn

from kedge.core import masked_mean, preference_loss, rating_loss
from kedge.data.encode import encode_demonstration, encode_whole
from kedge.data.files import Source, rows_of
from kedge.data.ratings import Labelled, labelled
from kedge.data.records import Demonstration, demonstrations, plain
from kedge.inspection.ledger import Ledger
from kedge.inspection.machine import Machine
from kedge.inspection.parts import parts_of
from kedge.inspection.plainly import plainly_fits
from kedge.inspection.rehearsal import Phase, Rehearsal, on_paper, without_trials
from kedge.models.batch import dealt, padded
from kedge.models.forward import forward_tokens
from kedge.models.head import vocabulary_rows
from kedge.models.language_model import positions_of
from kedge.models.loading import find, load_tokenizer
from kedge.models.outline import outlined_language_model, outlined_reward_model
from kedge.models.reading import Reading
from kedge.models.recompute import enable_recomputing
from kedge.models.reward_model import adapted_part
from kedge.parallel import ALONE
from kedge.training.adalora import Ranks
from kedge.training.config import adapt
from kedge.training.micro_batches import choose_micro_batch
from kedge.training.optimization import make_optimizer
from kedge.training.reward_modeling import RewardConfig, labels_of
from kedge.training.sft import SFTConfig
from kedge.training.supervised import SupervisedConfig
from kedge.training.too_long import TooLong

Record = TypeVar("Record")

# Examples from which the average length is taken.
SAMPLE = 64

# Steps for any schedule, of which only one is rehearsed.
ENOUGH = 10**9


@dataclass(frozen=True)
class Sizes:
    """What a supervised job learns from at a time, in tokens."""

    lengths: tuple[int, ...]
    """Of a demonstration, or of the two sides of a pair."""
    trained: int = 0
    """Of a demonstration's tokens, those at its end."""

    @property
    def size(self) -> int:
        """As micro-batches are cut."""
        return len(self.lengths) * max(self.lengths)


@dataclass(frozen=True)
class SupervisedWork:
    """What a supervised job is given, besides its settings."""

    model: str
    tokenizer: str | None
    examples: Sequence[Sizes]
    """The longest ones, as many as a step takes."""
    tokens: float
    """Of an average example."""
    reading: Reading | None = None
    """Of the reward model that is trained; None: a policy is, on demonstrations."""

    def plainly_fits(self, config: SupervisedConfig, machine: Machine) -> bool:
        """Whether it needs no rehearsal to be known to fit."""
        tokens = config.batch_size * max(example.size for example in self.examples)
        return plainly_fits([self.model], tokens, machine, trust_remote_code=config.trust_remote_code)

    def rehearse(self, config: SupervisedConfig, machine: Machine) -> list[Phase]:
        """The one phase of a step.

        Raises:
            KedgeError: settings and model that do not fit together.
        """
        with on_paper(machine) as ledger:
            return SupervisedRehearsal(self, config, ledger, machine).phases()


def demonstration_work(
    model: str, data: Source, config: SFTConfig, *, tokenizer: str | None, columns: Mapping[str, str] | None
) -> SupervisedWork:
    """An SFT job's work, from its data.

    Raises:
        ModelError: no tokenizer. DataError: data that cannot be read.
    """
    source = find(model, "policy")
    words = load_tokenizer(tokenizer or source, key="tokenizer", trust_remote_code=config.trust_remote_code)
    limit = _limit(source, config)

    def encoded(record: Demonstration) -> Sizes:
        ids, trained = encode_demonstration(words, record, ends=[words.eos_token_id])
        return Sizes((len(ids),), sum(trained))

    def characters(record: Demonstration) -> int:
        return len(plain(record.prompt)) + len(plain(record.completion))

    records = demonstrations(rows_of(data, rename=columns))
    longest, tokens = _longest(records, characters, encoded, config.batch_size, _fitting(config.too_long, limit))
    return SupervisedWork(model, tokenizer, longest, tokens)


def reward_work(
    model: str, data: Source, config: RewardConfig, *, tokenizer: str | None, columns: Mapping[str, str] | None
) -> SupervisedWork:
    """A reward model's work, from its data.

    Raises:
        ModelError: no tokenizer. DataError: data that cannot be read.
    """
    source = find(model, "policy")
    words = load_tokenizer(tokenizer or source, key="tokenizer", trust_remote_code=config.trust_remote_code)
    limit = _limit(source, config)

    rows = rows_of(data, rename=columns)
    records = labelled(rows, [*config.objectives], separator=config.step_separator, seed=config.seed)
    labels = labels_of(config, records)

    def encoded(record: Labelled) -> Sizes:
        texts = labels.texts(record)
        ids = [encode_whole(words, text, ends=[words.eos_token_id], origin=record.origin) for text in texts]
        return Sizes(tuple(map(len, ids)))

    def characters(record: Labelled) -> int:
        return max(len(plain(text)) for text in labels.texts(record))

    longest, tokens = _longest(records, characters, encoded, config.batch_size, _fitting(config.too_long, limit))
    return SupervisedWork(model, tokenizer, longest, tokens, reading=labels.reading)


def _limit(source: str, config: SupervisedConfig) -> int | None:
    positions = positions_of(source, config.adapter, trust_remote_code=config.trust_remote_code)
    limits = [limit for limit in (config.max_length, positions) if limit is not None]
    return min(limits, default=None)


def _fitting(way: TooLong, limit: int | None) -> Callable[[Sizes], Sizes | None]:
    """An example as the job takes it, if it does; where that would be an error, the job says so itself."""

    def fitted(example: Sizes) -> Sizes | None:
        if limit is None or way == "error" or max(example.lengths) <= limit:
            return example
        lengths = tuple(min(length, limit) for length in example.lengths)
        return Sizes(lengths, min(example.trained, limit - 1)) if way == "truncate" else None

    return fitted


def _longest(
    records: Sequence[Record],
    characters: Callable[[Record], int],
    encode: Callable[[Record], Sizes],
    count: int,
    fitted: Callable[[Sizes], Sizes | None],
) -> tuple[list[Sizes], float]:
    """The ``count`` longest in characters, so that not all have to be encoded; and the tokens of an average one."""

    def those(chosen: Iterable[Record]) -> Iterator[Sizes]:
        return (example for record in chosen if (example := fitted(encode(record))) is not None)

    longest = list(islice(those(sorted(records, key=characters, reverse=True)), count))
    sample = [example.size for example in those(records[:: -(-len(records) // SAMPLE)])]
    return longest or [encode(records[0])], sum(sample) / max(1, len(sample))


class SupervisedRehearsal(Rehearsal):
    """A step of SFT, or of reward modelling."""

    config: SupervisedConfig

    def __init__(self, work: SupervisedWork, config: SupervisedConfig, ledger: Ledger, machine: Machine) -> None:
        super().__init__(config, ledger, machine)
        self.work = work
        source, fake, tokenizer = work.model, ledger.fake, work.tokenizer
        how = {name: value for name, value in config.loading.items() if name != "device"}
        self.module: nn.Module
        if work.reading is not None:
            self.scorer = outlined_reward_model(
                source, fake, part="policy", tokenizer=tokenizer, reading=work.reading, merged=not config.adapter, **how
            )
            self.module, trunk = self.scorer.model, self.scorer.own_trunk()
            adapt(adapted_part(self.scorer), config)
            ledger.weights(self.module, "reward")
        else:
            self.lm = outlined_language_model(source, fake, tokenizer=tokenizer, merged=not config.adapter, **how)
            without_trials(self.lm, machine)
            self.module, trunk = self.lm.model, self.lm.own_trunk()
            adapt(self.lm.model, config)
            ledger.weights(self.module, "policy", vocabulary=vocabulary_rows(self.lm.model))
        longest = max(example.size for example in work.examples)
        chosen = choose_micro_batch(trunk.config, machine.device, machine.total, longest)
        self.config = config = config.with_micro_batch(chosen)
        if config.gradient_checkpointing:
            enable_recomputing(trunk)
        role = self.lm if work.reading is None else self.scorer
        self.parts = {"policy" if work.reading is None else "reward": parts_of(role)}
        self._optimizer = make_optimizer([role.group(1.0)], config)
        self._ranks = Ranks({"train": role}, ENOUGH)

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        return self._optimizer

    @property
    def ranks(self) -> Ranks:
        return self._ranks

    def phases(self) -> list[Phase]:
        self.settle()
        config = self.config
        examples = [self.work.examples[i % len(self.work.examples)] for i in range(config.batch_size)]
        sizes = [example.size for example in examples]
        loss = self._demonstrations if self.work.reading is None else self._labelled
        self.module.train()
        with self.running():
            cut = dealt(sizes, config.tokens_at_a_time, ALONE)
            a_token = self.accumulate(cut, sizes, lambda rows: [loss([examples[row] for row in rows])])
            step = self.apply()
        how = {"runs": [*self.parts], "passes": len(cut), "backward": True, "steps": 1}
        return [self.phase("train", config.batch_size * self.work.tokens * a_token + step, **how)]

    def _labelled(self, part: Sequence[Sizes]) -> Tensor:
        sides = zip(*(example.lengths for example in part), strict=True)
        outputs = self.scorer.run([[0] * length for side in sides for length in side])
        if len(part[0].lengths) == 1:
            return rating_loss(outputs, torch.zeros_like(outputs), denominator=len(part))[0]
        chosen, rejected = self.scorer.reading.score(outputs).chunk(2)
        return preference_loss(chosen, rejected, denominator=len(part))[0]

    def _demonstrations(self, part: Sequence[Sizes]) -> Tensor:
        tokens, ends = padded([[0] * example.lengths[0] for example in part], 0)
        column, trained = torch.arange(tokens.shape[1]), torch.tensor([example.trained for example in part])
        mask = (column >= (ends - trained)[:, None]) & (column < ends[:, None])
        logprobs = forward_tokens(self.lm, tokens, mask, temperature=1.0).logprobs
        return -masked_mean(logprobs, mask, denominator=float(mask.sum()))
