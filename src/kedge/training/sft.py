"""Supervised fine-tuning on demonstrations: cross-entropy of the completions' tokens, prompts left out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor

from kedge.config.settings import Several
from kedge.core import masked_mean
from kedge.data.encode import encode_demonstration
from kedge.data.files import Source
from kedge.data.records import Demonstration, demonstrations
from kedge.errors import DataError
from kedge.models.batch import by_token_budget, padded
from kedge.models.forward import forward_tokens
from kedge.models.language_model import LanguageModel, load_language_model
from kedge.runs.callbacks import CallbackLike
from kedge.runs.folder import Metrics, RunFolder
from kedge.training.config import LOADING, adapt
from kedge.training.supervised import Supervised, SupervisedConfig, read_split, refuse_loading_settings
from kedge.training.too_long import TooLong, ending

Example = tuple[list[int], list[bool]]
"""Ids, and which of them are trained on."""

CUTTING = "the beginnings of their prompts, and of answers too long for that the ends"

Encoded = tuple[str, list[int], list[bool]]
"""The same, behind where it comes from."""


class SFTConfig(SupervisedConfig):
    """Settings of supervised fine-tuning."""

    STAGE: ClassVar[str] = "sft"

    learning_rate: float = Field(1e-4, gt=0)
    """Peak learning rate."""
    stop_tokens: Several[str] = ()
    """Tokens that end an answer, besides the model's EOS."""
    too_long: TooLong = "error"
    """What to do with demonstrations that are too long: an ``error``; ``truncate`` (the prompt loses its beginning,
    down to a quarter of the room, and then the answer its end, its EOS too); or ``skip`` them."""


class SFT(Supervised):
    """Fine-tunes a language model on demonstrations.

    Args:
        model: hub id, folder or run to start from; or a loaded :class:`LanguageModel`, trained in place.
        data: a data file, folder, hub id, table or list of rows: ``prompt`` + ``completion``, ``messages``, or
            ``text``.
        config: settings, see :class:`SFTConfig`; or a dict of them.
        tokenizer: where the tokenizer is, when not beside the model.
        eval_data: like ``data``, to measure the loss on; or ``eval_size`` rows of ``data`` are set aside.
        columns: ``{"prompt": "the data's name for it"}``.
        run: folder for metrics, checkpoints and the result; None leaves nothing behind.
        resume: go on from the run's last checkpoint.
        overwrite: delete the run that is there.
        callbacks: look on: a :class:`~kedge.Callback`, a function ``f(trainer, metrics)``, or several of them.

    Raises:
        KedgeError: anything in these that does not fit (such as a demonstration longer than the model's positions,
            or ``max_length``: see ``too_long``), before any training.
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
        config: SFTConfig | Mapping[str, Any] | None = None,
        *,
        tokenizer: str | Path | None = None,
        eval_data: Source | None = None,
        eval_size: int = 0,
        columns: Mapping[str, str] | None = None,
        run: str | Path | RunFolder | None = None,
        resume: bool = False,
        overwrite: bool = False,
        callbacks: CallbackLike | Sequence[CallbackLike] | None = None,
        progress: bool = True,
    ) -> None:
        config = SFTConfig.of(config)
        sources = {
            "model": model, "tokenizer": tokenizer, "data": data, "eval_data": eval_data, "eval_size": eval_size,
            "columns": columns,
        }  # fmt: skip
        run = self.open_run(run, config, sources, resume=resume, overwrite=overwrite)
        train, held = read_split(
            demonstrations, data, eval_data, eval_size=eval_size, columns=columns, seed=config.seed
        )
        loaded = isinstance(model, LanguageModel)
        if isinstance(model, LanguageModel):
            refuse_loading_settings(config, {"tokenizer": tokenizer}, (*LOADING, "stop_tokens"))
        else:
            model = load_language_model(
                model,
                tokenizer=tokenizer,
                stop_tokens=config.stop_tokens,
                merged=not config.adapter,
                **config.loading_to_train,
            )
        adapt(model.model, config)
        self.lm = model
        fitter = config.fitter(config.too_long, model.positions, CUTTING)
        (examples, told), (held_out, also_told) = (
            fitter.fit(
                [_encoded(model, row) for row in rows],
                what,
                size=lambda row: len(row[1]),
                origin=lambda row: row[0],
                cut=lambda row, limit: _cut(model, row, limit),
            )
            for rows, what in ((train, "rows of data"), (held, "held-out rows"))
        )
        self.notes = told + also_told
        self.origins = [origin for origin, *_ in examples]
        self.examples = [(ids, trained) for _, ids, trained in examples]
        self.held_out = [(ids, trained) for _, ids, trained in held_out]
        sizes = [len(ids) for ids, _ in self.examples]
        super().__init__(config, model, sizes, run, loaded=loaded, progress=progress, callbacks=callbacks)

    def weigh(self, rows: Sequence[int]) -> float:
        return _targets([self.examples[row] for row in rows])

    def loss(self, rows: Sequence[int], denominator: float) -> tuple[Tensor, dict[str, Tensor]]:
        return self._cross_entropy([self.examples[row] for row in rows], denominator), {}

    def evaluate(self) -> Metrics:
        if not self.held_out:
            return {}
        total = _targets(self.held_out)
        batches = by_token_budget([len(ids) for ids, _ in self.held_out], self.config.tokens_at_a_time)
        return {"loss": sum(float(self._cross_entropy([self.held_out[i] for i in b], total)) for b in batches)}

    def _cross_entropy(self, examples: Sequence[Example], denominator: float) -> Tensor:
        tokens, _ = padded([ids for ids, _ in examples], self.lm.pad_id)
        mask = padded([trained for _, trained in examples], False)[0].bool()
        logprobs = forward_tokens(self.lm, tokens.to(self.lm.device), mask, temperature=1.0).logprobs
        return -masked_mean(logprobs, mask.to(self.lm.device), denominator=denominator)


def _targets(examples: Sequence[Example]) -> float:
    return float(sum(sum(trained) for _, trained in examples))


def _encoded(lm: LanguageModel, row: Demonstration) -> Encoded:
    ids, trained = encode_demonstration(lm.tokenizer, row, ends=lm.eos_ids)
    if not any(trained):
        raise DataError(f"{row.origin}: the completion has no tokens to train on")
    return row.origin, ids, trained


def _cut(lm: LanguageModel, row: Encoded, limit: int) -> Encoded:
    """The prompt loses its beginning, down to a quarter of the room; then the answer its end."""
    origin, ids, trained = row
    start = len(trained) - trained[::-1].index(False)  # of the last answer
    answer = min(len(ids) - start, limit - min(start, max(1, limit // 4)))
    prompt = ending(lm.tokenizer, ids[:start], limit - answer)
    mask = trained[start - len(prompt) : start + answer]
    return origin, prompt + ids[start : start + answer], [False, *mask[1:]]
