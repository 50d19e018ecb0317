"""Supervised fine-tuning on demonstrations: cross-entropy of the completions' tokens, prompts left out."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import Field
from torch import Tensor

from kedge.core import masked_mean
from kedge.data.encode import encode_demonstration
from kedge.data.files import Source
from kedge.data.records import Demonstration, demonstrations
from kedge.errors import DataError
from kedge.models.batch import by_token_budget, padded
from kedge.models.language_model import LanguageModel, load_language_model
from kedge.models.scoring import score_tokens
from kedge.tracking import Metrics, RunFolder
from kedge.training.supervised import Supervised, SupervisedConfig, read_split, refuse_loading_settings

Example = tuple[list[int], list[bool]]
"""Ids, and which of them are trained on."""


class SFTConfig(SupervisedConfig):
    """Settings of supervised fine-tuning."""

    learning_rate: float = Field(1e-4, gt=0)
    """Peak learning rate of AdamW."""
    stop_tokens: tuple[str, ...] = ()
    """Tokens that end an answer, besides the model's EOS."""


class SFT(Supervised):
    """Fine-tunes a language model on demonstrations.

    Args:
        model: hub id, folder or run to start from; or a loaded :class:`LanguageModel`, trained in place.
        data: a data file, folder, hub id, or list of rows: ``prompt`` + ``completion``, ``messages``, or ``text``.
        config: settings; see :class:`SFTConfig`.
        tokenizer: where the tokenizer is, when not beside the model.
        eval_data: like ``data``, to measure the loss on; or ``eval_size`` rows of ``data`` are set aside.
        columns: ``{"prompt": "the data's name for it"}``.
        run: folder for metrics, checkpoints and the result; None leaves nothing behind.
        resume: go on from the run's last checkpoint. overwrite: delete the run that is there.

    Raises:
        KedgeError: anything in these that does not fit (such as a demonstration longer than the model's positions,
            or ``max_length``), before any training.
    """

    stage = "sft"
    config_class = SFTConfig
    label = "SFT"
    watched = "loss"
    best_by = "-loss"
    result = "policy"

    def __init__(
        self,
        model: str | Path | LanguageModel,
        data: Source,
        config: SFTConfig | None = None,
        *,
        tokenizer: str | Path | None = None,
        eval_data: Source | None = None,
        eval_size: int = 0,
        columns: Mapping[str, str] | None = None,
        run: str | Path | RunFolder | None = None,
        resume: bool = False,
        overwrite: bool = False,
        progress: bool = True,
    ) -> None:
        config = config or SFTConfig()
        sources = {
            "model": model, "tokenizer": tokenizer, "data": data, "eval_data": eval_data, "eval_size": eval_size,
            "columns": columns,
        }  # fmt: skip
        train, held = read_split(
            demonstrations, data, eval_data, eval_size=eval_size, columns=columns, seed=config.seed
        )
        if isinstance(model, LanguageModel):
            refuse_loading_settings(config, {"tokenizer": tokenizer}, ("device", "dtype", "stop_tokens"))
        else:
            model = load_language_model(
                model, tokenizer=tokenizer, stop_tokens=config.stop_tokens, device=config.device, dtype=config.dtype
            )
        self.lm = model
        limits = [limit for limit in (config.max_length, model.positions) if limit is not None]
        self.examples = [_encoded(model, row, limits) for row in train]
        self.origins = [row.origin for row in train]
        self.held_out = [_encoded(model, row, limits) for row in held]
        sizes = [len(ids) for ids, _ in self.examples]
        super().__init__(
            config, model.model, sizes, run, sources, resume=resume, overwrite=overwrite, progress=progress
        )

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

    def write(self, folder: Path) -> None:
        self.lm.save(folder)

    def load(self, folder: Path) -> None:
        self.lm.load_weights(folder)

    def _cross_entropy(self, examples: Sequence[Example], denominator: float) -> Tensor:
        tokens, _ = padded([ids for ids, _ in examples], self.lm.pad_id, self.lm.device)
        mask = padded([trained for _, trained in examples], False, self.lm.device)[0].bool()
        logprobs = score_tokens(self.lm, tokens, mask, temperature=1.0).logprobs
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
