"""Supervised fine-tuning on demonstrations: cross-entropy of the completions' tokens, prompts left out."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from kedge.core import masked_mean
from kedge.data.encode import encode_demonstration
from kedge.data.records import Demonstration
from kedge.errors import DataError
from kedge.models.batch import by_token_budget, padded
from kedge.models.language_model import LanguageModel
from kedge.models.scoring import score_tokens
from kedge.tracking import Metrics, RunFolder
from kedge.training.supervised import Supervised, SupervisedConfig

Example = tuple[list[int], list[bool]]
"""Ids, and which of them are trained on."""


class SFTConfig(SupervisedConfig):
    """Settings of supervised fine-tuning."""

    learning_rate: float = 1e-4
    """Peak learning rate of AdamW."""
    stop_tokens: tuple[str, ...] = ()
    """Tokens that end an answer, besides the model's EOS."""


class SFT(Supervised):
    """Fine-tunes a language model on demonstrations.

    Args:
        model: the language model; trained in place.
        data: demonstrations to train on. held_out: others, to measure the loss on.
        run: folder for metrics and checkpoints; None leaves none.

    Raises:
        DataError: a demonstration longer than the model's positions, or ``max_length``.
    """

    label = "SFT"
    watched = "loss"

    def __init__(
        self,
        model: LanguageModel,
        data: Sequence[Demonstration],
        config: SFTConfig | None = None,
        *,
        held_out: Sequence[Demonstration] = (),
        run: RunFolder | None = None,
        progress: bool = True,
    ) -> None:
        config = config or SFTConfig()
        self.lm = model
        limits = [limit for limit in (config.max_length, model.positions) if limit is not None]
        self.examples = [_encoded(model, row, limits) for row in data]
        self.held_out = [_encoded(model, row, limits) for row in held_out]
        super().__init__(config, model.model, run, progress=progress)

    @property
    def sizes(self) -> Sequence[int]:
        return [len(ids) for ids, _ in self.examples]

    def weigh(self, rows: Sequence[int]) -> float:
        return _targets([self.examples[row] for row in rows])

    def loss(self, rows: Sequence[int], denominator: float) -> tuple[Tensor, dict[str, Tensor]]:
        return self._cross_entropy([self.examples[row] for row in rows], denominator), {}

    def evaluate(self) -> Metrics:
        if not self.held_out:
            return {}
        total = _targets(self.held_out)
        batches = by_token_budget([len(ids) for ids, _ in self.held_out], self.config.micro_batch_tokens)
        return {"loss": sum(float(self._cross_entropy([self.held_out[i] for i in b], total)) for b in batches)}

    def save(self, folder: str | Path) -> None:
        self.lm.save(Path(folder) / "policy")

    def load(self, folder: Path) -> None:
        self.lm.load_weights(folder / "policy")

    def _cross_entropy(self, examples: Sequence[Example], denominator: float) -> Tensor:
        tokens, lengths = padded([ids for ids, _ in examples], self.lm.pad_id, self.lm.device)
        mask = padded([trained for _, trained in examples], False, self.lm.device)[0].bool()
        logprobs = score_tokens(self.lm.model, tokens, lengths, mask, temperature=1.0).logprobs
        return -masked_mean(logprobs, mask, denominator=denominator)


def _targets(examples: Sequence[Example]) -> float:
    return float(sum(sum(trained) for _, trained in examples))


def _encoded(lm: LanguageModel, row: Demonstration, limits: Sequence[int]) -> Example:
    ids, trained = encode_demonstration(lm.tokenizer, row, ends=lm.eos_ids)
    limit = min(limits, default=len(ids))
    if len(ids) > limit:
        raise DataError(f"{row.origin}: {len(ids)} tokens, more than the {limit} that fit; shorten it or leave it out")
    if not any(trained):
        raise DataError(f"{row.origin}: the completion has no tokens to train on")
    return ids, trained
