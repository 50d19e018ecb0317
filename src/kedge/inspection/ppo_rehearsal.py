"""PPO rehearsed: the trainer itself, around a policy without weights."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from kedge.data.encode import Tokenizer, encode_prompt
from kedge.data.files import Source
from kedge.data.records import Prompt, plain, read_prompts
from kedge.inspection.ledger import Ledger
from kedge.inspection.machine import Machine
from kedge.inspection.parts import Parts, parts_of
from kedge.inspection.plainly import plainly_fits
from kedge.inspection.rehearsal import Phase, Rehearsal, on_paper, padded_size, without_trials
from kedge.models.batch import by_token_budget, dealt, padded
from kedge.models.forward import forward_tokens
from kedge.models.head import hidden_size, vocabulary_rows
from kedge.models.language_model import LanguageModel, positions_of
from kedge.models.loading import find, load_tokenizer
from kedge.models.outline import outlined_language_model, outlined_reward_model
from kedge.models.reward_model import RewardModel
from kedge.parallel import ALONE
from kedge.sampling.local.columns import ColumnDecoder
from kedge.sampling.local.engine import MAX_ROWS, PREFILL_TOKENS
from kedge.sampling.local.slots import SlotDecoder, sliding_windows
from kedge.training.adalora import Ranks
from kedge.training.micro_batches import choose_micro_batch
from kedge.training.ppo import PPO, PPOConfig
from kedge.training.ppo.batch import Batch
from kedge.training.ppo.experience import keeps_states
from kedge.training.ppo.prompts import longest_prompt

# Tokens of a batch that a reward model scores at a time.
SCORING_TOKENS = 16_384

# Tokens that a chat template may add to a prompt.
A_TEMPLATE = 256

# Prompts from which the average length is taken.
SAMPLE = 64

# Settings about other things than a step, and those that say how to load what is outlined already.
LEFT_OUT = {
    "device",
    "dtype",
    "attn_implementation",
    "quantization",
    "eval_every",
    "checkpoint_every",
    "keep_last",
    "best_metric",
    "report_to",
    "max_staleness",
    "importance",
    "importance_cap",
}


@dataclass(frozen=True)
class PPOWork:
    """What a PPO job is given, besides its settings."""

    policy: str
    tokenizer: str | None
    prompts: Sequence[Prompt]
    """The longest ones, as many as a step takes."""
    tokens: float
    """Of an average prompt."""
    rewards: Sequence[str] = ()
    """Reward models among the rewards."""
    judges: Sequence[str] = ()
    """Reward models among the metrics."""
    evaluated: int = 0
    """Held-out prompts."""

    def plainly_fits(self, config: PPOConfig, machine: Machine) -> bool:
        """Whether it needs no rehearsal to be known to fit."""
        longest = max(len(plain(prompt.text).encode()) for prompt in self.prompts) + A_TEMPLATE
        tokens = max(config.answers, self.evaluated) * (longest + config.response_length)
        models = [self.policy, *self.rewards, *self.judges]
        tokens = max(tokens, SCORING_TOKENS) if len(models) > 1 else tokens
        return plainly_fits(models, tokens, machine, trust_remote_code=config.trust_remote_code)

    def rehearse(self, config: PPOConfig, machine: Machine) -> list[Phase]:
        """The phases of a step.

        Raises:
            KedgeError: settings, model or data that do not fit together, as the trainer says it.
        """
        with on_paper(machine) as ledger:
            return PPORehearsal(self, config, ledger, machine).phases()


def longest_prompts(
    source: Source, columns: Mapping[str, str] | None, tokenizer: Tokenizer, config: PPOConfig, positions: int | None
) -> tuple[list[Prompt], float]:
    """The longest prompts that PPO would take, as many as a step has, and the tokens of an average one.

    Longest in characters, so that not all have to be encoded.

    Raises:
        DataError: as :func:`read_prompts`. ConfigError: as :func:`longest_prompt`.
    """
    records = read_prompts(source, columns)
    longest_allowed = longest_prompt(config, positions)
    limit = math.inf if longest_allowed is None else longest_allowed.tokens

    def sizes(chosen: Iterable[Prompt]) -> Iterable[tuple[Prompt, int]]:
        encoded = ((prompt, len(encode_prompt(tokenizer, prompt.text, origin=prompt.origin))) for prompt in chosen)
        cut = config.too_long == "truncate"
        return ((prompt, int(min(size, limit))) for prompt, size in encoded if size <= limit or cut)

    by_characters = sorted(records, key=lambda prompt: len(plain(prompt.text)), reverse=True)
    longest = [prompt for prompt, _ in islice(sizes(by_characters), config.batch_size)]
    sample = [size for _, size in sizes(records[:: -(-len(records) // SAMPLE)])]
    return longest or records[:1], sum(sample) / max(1, len(sample))


class PPORehearsal(Rehearsal):
    """A step of PPO, as its trainer has built everything."""

    config: PPOConfig

    def __init__(self, work: PPOWork, config: PPOConfig, ledger: Ledger, machine: Machine) -> None:
        how: dict[str, Any] = {
            "trust_remote_code": config.trust_remote_code,
            "attn_implementation": config.attn_implementation,
        }
        policy = outlined_language_model(
            work.policy, ledger.fake, tokenizer=work.tokenizer, dtype=config.dtype, quantization=config.quantization,
            merged=not config.adapter, **how,
        )  # fmt: skip
        sizes = [len(encode_prompt(policy.tokenizer, p.text, origin=p.origin)) for p in work.prompts]
        longest = max(sizes) + config.response_length
        chosen = choose_micro_batch(policy.model.config, machine.device, machine.total, longest)
        config = config.with_micro_batch(chosen)
        super().__init__(config, ledger, machine)
        self.work = work
        self.rewards = [outlined_reward_model(source, ledger.fake, **how) for source in work.rewards]
        self.judges = [outlined_reward_model(source, ledger.fake, **how) for source in work.judges]
        self.trainer = trainer = _trainer(policy, work.prompts, self.rewards, config)
        self.lm = trainer.policy
        for lm in (trainer.policy, trainer.reference):
            without_trials(lm, machine)
        ledger.weights(self.lm.model, "policy", vocabulary=vocabulary_rows(self.lm.model))
        ledger.weights(trainer.reference.model, "reference", shared=self.lm.model)
        if trainer.critic is not None:
            ledger.weights(trainer.critic.module, "critic", shared=self.lm.model)
        for scorer in [*self.rewards, *self.judges]:
            ledger.weights(scorer.model, "reward", shared=self.lm.model)
        self.parts = {"policy": parts_of(self.lm), "reference": parts_of(trainer.reference)}
        if trainer.critic is not None:
            self.parts["critic"] = parts_of(trainer.critic)
        if scorers := [*self.rewards, *self.judges]:
            self.parts["reward"] = sum(map(parts_of, scorers), Parts())
        sizes = [len(prompt.ids) for prompt in trainer.prompts]
        step = [sizes[i % len(sizes)] for i in range(config.batch_size)]
        self.prompts = sorted((size for size in step for _ in range(config.num_generations)), reverse=True)
        self.lengths = [size + config.response_length for size in self.prompts]
        self.tokens = config.answers * (work.tokens + config.response_length)
        self.states = self._states()

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        return self.trainer.optimizer

    @property
    def ranks(self) -> Ranks:
        return self.trainer.ranks

    def phases(self) -> list[Phase]:
        self.settle()
        cache, generate = self._generate("generate", self.config.answers)
        found = [generate, *([self._reward()] if self.rewards else []), self._estimate(), self._update()]
        if self.work.evaluated:
            found.append(self._generate("evaluate", self.work.evaluated)[1])
        del cache  # until here: the engine keeps it
        return found

    @torch.inference_mode()
    def _generate(self, name: str, answers: int) -> tuple[SlotDecoder | ColumnDecoder, Phase]:
        """The decoder with its cache; and the phase: the last token of the longest answers, and prompts taken in."""
        rows, response = min(answers, MAX_ROWS), self.config.response_length
        prompts = [self.prompts[i % len(self.prompts)] for i in range(rows)]
        decoder = self._decoder()
        with self.running(), self.ledger.booking("KV cache"):
            decoder.admit([[0] * (size + response - 1) for size in prompts])
        if isinstance(decoder, SlotDecoder) and decoder.narrow is not None:
            self.ledger.assign(decoder.narrow.copies, "policy", "weights")
        with self.running():
            self._draw(decoder.step(torch.zeros(rows, dtype=torch.long)))
            a_token = self.ledger.seconds
            decoder.keep([])
            together = prompts[: max(1, PREFILL_TOKENS // prompts[0])]
            self._draw(decoder.admit([[0] * size for size in together]))
        a_prompt_token = (self.ledger.seconds - a_token) / sum(together)
        waves = math.ceil(answers / MAX_ROWS)
        seconds = waves * response * a_token + answers * self.work.tokens * a_prompt_token
        return decoder, self.phase(name, seconds, whole=["policy"])

    def _decoder(self) -> SlotDecoder | ColumnDecoder:
        head = self.lm.head
        windows = None if head is None else sliding_windows(self.lm.model)
        if head is None or windows is None:
            return ColumnDecoder(self.lm.model)
        return SlotDecoder(self.lm.model, head, windows)

    def _draw(self, logits: Tensor) -> None:
        self.config.sampling.draw(logits, torch.zeros(len(logits), dtype=torch.float64))

    @torch.no_grad()
    def _reward(self) -> Phase:
        """Texts are taken to be as long in a reward model's tokens as in the policy's."""
        self.ledger.begin()
        seconds = 0.0
        for scorer in self.rewards:
            before = self.ledger.seconds
            lengths = [min(length, scorer.max_length or length) for length in self.lengths]
            rows = by_token_budget(lengths, SCORING_TOKENS)[0]
            scorer([[0] * lengths[row] for row in rows])
            seconds += (self.ledger.seconds - before) * self.tokens / sum(lengths[row] for row in rows)
        return self.phase("reward", seconds, whole=["reward"])

    @torch.no_grad()
    def _estimate(self) -> Phase:
        lengths = self.lengths
        cut = self._cut(lengths)
        rows = max(cut, key=lambda rows: padded_size(rows, lengths))
        tokens, mask = self._micro_batch(rows)
        with self.running():
            states = None if self.states is None else self.trainer.reference.bottom_states(tokens)
            forward_tokens(self.trainer.reference, tokens, mask, temperature=self.config.temperature, states=states)
            if self.trainer.critic is not None:
                self.trainer.critic.values(tokens, mask, states)
        runs = ["reference", *(["critic"] if self.trainer.critic is not None else [])]
        return self.phase("estimate", self.ledger.seconds * self.tokens / tokens.numel(), runs=runs, passes=len(cut))

    def _states(self) -> Tensor | None:
        """Of a step's answers, all as long as the longest: the hidden states of the frozen bottom, where they are
        kept."""
        shape = (self.config.answers, max(self.lengths))
        if not keeps_states(self.trainer.reference, shape, self.machine.total):
            return None
        with self.ledger.fake:
            states = torch.zeros(*shape, hidden_size(self.lm.model))
        self.ledger.assign([states], "policy", "frozen states")
        return states

    def _update(self) -> Phase:
        config, lengths = self.config, self.lengths[: self.config.mini_batch_size]
        with self.running():
            cut = self._cut(lengths)
            a_token = self.accumulate(cut, lengths, self._losses)
            step = self.apply()
        steps = config.num_ppo_epochs * (config.answers // config.mini_batch_size)
        return self.phase(
            "update", config.num_ppo_epochs * self.tokens * a_token + steps * step, backward=True, steps=steps,
            passes=steps * len(cut), runs=["policy", *(["critic"] if self.trainer.critic is not None else [])],
        )  # fmt: skip

    def _step(self, *, foreach: bool) -> None:
        self.trainer.region.remember()
        super()._step(foreach=foreach)

    def _losses(self, rows: Sequence[int]) -> Iterator[Tensor]:
        tokens, mask = self._micro_batch(rows)
        numbers = torch.zeros(tokens.shape)
        values = None if self.trainer.critic is None else numbers
        ends = torch.full((len(tokens),), tokens.shape[1])
        states = None if self.states is None else self.states[: len(tokens), : tokens.shape[1]].clone()
        part = Batch(tokens, ends, mask, mask, numbers, numbers, values, numbers, values, states)
        summands = self.trainer.update.losses(part, int(mask.sum()), self.config.kl_coef, train_policy=True)
        return (summand.loss for summand in summands)

    def _cut(self, lengths: Sequence[int]) -> list[list[int]]:
        return dealt(lengths, self.config.tokens_at_a_time, ALONE)

    def _micro_batch(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Tokens and response mask."""
        tokens, ends = padded([[0] * self.lengths[row] for row in rows], 0)
        column, first = torch.arange(tokens.shape[1]), torch.tensor([self.prompts[row] for row in rows])
        return tokens, (column >= first[:, None]) & (column < ends[:, None])


def _trainer(
    policy: LanguageModel, prompts: Sequence[Prompt], rewards: Sequence[RewardModel], config: PPOConfig
) -> PPO:
    kept = (config.model_fields_set & set(PPOConfig.model_fields)) - LEFT_OUT
    settings = PPOConfig(**{key: getattr(config, key) for key in kept})
    rows = [{"prompt": prompt.text} for prompt in prompts]
    return PPO(policy.model, rows, rewards or _function, settings, tokenizer=policy.tokenizer, progress=False)


def _function(prompts: Sequence[Any], completions: Sequence[Any]) -> list[float]:
    """In place of reward functions, which have no weights."""
    return [0.0] * len(completions)


def ppo_work(
    policy: str,
    prompts: Source,
    config: PPOConfig,
    *,
    tokenizer: str | None,
    columns: Mapping[str, str] | None,
    rewards: Sequence[str],
    judges: Sequence[str],
    evaluated: int,
) -> PPOWork:
    """A PPO job's work, from its data.

    Raises:
        ModelError: no model or no tokenizer. DataError: prompts that cannot be read.
    """
    source, trusted = find(policy, "policy"), config.trust_remote_code
    words = load_tokenizer(tokenizer or source, key="tokenizer", trust_remote_code=trusted)
    positions = positions_of(source, config.adapter, trust_remote_code=trusted)
    longest, tokens = longest_prompts(prompts, columns, words, config, positions)
    return PPOWork(policy, tokenizer, longest, tokens, rewards, judges, evaluated)
