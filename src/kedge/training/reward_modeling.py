"""Reward modelling: a score for every answer such that the preferred one of a pair scores higher (Bradley-Terry)."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from kedge.core import preference_loss
from kedge.data.files import Source
from kedge.data.records import Preference, preferences
from kedge.evaluation.trust.calibration import fitted_factor
from kedge.evaluation.trust.page import headline, write_report
from kedge.evaluation.trust.report import trust_report
from kedge.models.batch import by_token_budget
from kedge.models.reward_model import RewardModel, adapted_part, new_reward_model
from kedge.runs.callbacks import CallbackLike
from kedge.runs.folder import Metrics, RunFolder
from kedge.training.config import LOADING, adapt
from kedge.training.loop import Evaluated
from kedge.training.supervised import Supervised, SupervisedConfig, read_split, refuse_loading_settings
from kedge.training.too_long import TooLong

Pair = tuple[list[int], list[int]]
"""Ids of the chosen and of the rejected text."""


class RewardConfig(SupervisedConfig):
    """Settings of reward modelling."""

    STAGE: ClassVar[str] = "reward"

    learning_rate: float = Field(1e-4, gt=0)
    """Peak learning rate."""
    center_rewards_coefficient: float = Field(0.0, ge=0)
    """Pulls scores towards 0 (Eisenstein et al. 2023), so that they mean the same from run to run; 0.01 is usual."""
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    """Share of labels that may be the wrong way round: for raters who err (Mitchell 2023)."""
    length_debiasing: bool = False
    """Raters like long answers. What the length alone says of the labels is fitted first, by a logistic regression on
    the difference in tokens, and taken as given in training: the model learns what is left."""
    too_long: TooLong = "truncate"
    """What to do with pairs of which one text is too long: an ``error``; ``truncate`` it (it loses its beginning, as
    texts do later that the model scores); or ``skip`` them."""


CUTTING = "the beginnings of their texts"


class RewardModeling(Supervised):
    """Trains a reward model on preferences.

    Args:
        model: hub id, folder or run whose trunk to start from; or a :class:`RewardModel`, trained in place.
        data: a data file, folder, hub id, table or list of rows: ``chosen`` + ``rejected``, with or without ``prompt``,
            perhaps with ``margin`` (by how much) and ``agreement`` (share of raters, 1/2 for a tie);
            or ``label`` beside a ``text``, ``messages``, or ``prompt`` + ``completion``.
        config: settings, see :class:`RewardConfig`; or a dict of them.
        tokenizer: where the tokenizer is, when not beside the model.
        eval_data: like ``data``, to measure the accuracy on; or ``eval_size`` rows of ``data`` are set aside.
        columns: ``{"chosen": "the data's name for it"}``.
        run: folder for metrics, checkpoints and the result; None leaves nothing behind.
        resume: go on from the run's last checkpoint.
        overwrite: delete the run that is there.
        callbacks: look on: a :class:`~kedge.Callback`, a function ``f(trainer, metrics)``, or several of them.

    Raises:
        KedgeError: anything in these that does not fit, before any training.
    """

    stage = "reward"
    config_class = RewardConfig
    label = "reward model"
    watched = "accuracy"
    best_by = "accuracy"
    result = "reward_model"
    config: RewardConfig

    def __init__(
        self,
        model: str | Path | RewardModel,
        data: Source,
        config: RewardConfig | Mapping[str, Any] | None = None,
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
        config = RewardConfig.of(config)
        sources = {
            "model": model, "tokenizer": tokenizer, "data": data, "eval_data": eval_data, "eval_size": eval_size,
            "columns": columns,
        }  # fmt: skip
        run = self.open_run(run, config, sources, resume=resume, overwrite=overwrite)
        read = partial(preferences, seed=config.seed)
        train, held = read_split(read, data, eval_data, eval_size=eval_size, columns=columns, seed=config.seed)
        if isinstance(model, RewardModel):
            refuse_loading_settings(config, {"tokenizer": tokenizer}, (*LOADING, "max_length"))
        else:
            torch.manual_seed(config.seed % 2**63)  # the new head's weights
            model = new_reward_model(
                model, tokenizer=tokenizer, max_length=config.max_length, merged=not config.adapter, **config.loading
            )
        adapt(adapted_part(model), config)
        self.model = model
        fitter = config.fitter(config.too_long, model.max_length, CUTTING)
        (pairs, told), (held_out, also_told) = (
            fitter.fit(
                [self._encoded(row) for row in rows],
                what,
                size=lambda row: max(map(len, row[1])),
                origin=lambda row: row[0].origin,
                cut=lambda row, _: (row[0], (self.model.ending(row[1][0]), self.model.ending(row[1][1]))),
            )
            for rows, what in ((train, "rows of data"), (held, "held-out rows"))
        )
        self.notes = told + also_told
        self.examples = self.pairs = [pair for _, pair in pairs]
        self.read, self.unread = [row for row, _ in pairs], [row for row, _ in held_out]
        self.origins = [row.origin for row in self.read]
        self.held_out = [pair for _, pair in held_out]
        self.liking = fitted_factor([_longer(pair) for pair in self.pairs]) if config.length_debiasing else 0.0
        """Of raters for length: margin for a hundred tokens."""
        sizes = _sizes(self.pairs)
        super().__init__(config, model, sizes, run, progress=progress, callbacks=callbacks)

    def weigh(self, rows: Sequence[int]) -> float:
        return float(len(rows))

    def loss(self, rows: Sequence[int], denominator: float) -> tuple[Tensor, dict[str, Tensor]]:
        pairs, read = [self.pairs[row] for row in rows], [self.read[row] for row in rows]
        return self._preference_loss(pairs, read, denominator, self.liking)

    def evaluate(self) -> Metrics:
        totals: Metrics = {}
        for batch in by_token_budget(_sizes(self.held_out), self.config.tokens_at_a_time):
            pairs, rows = [self.held_out[i] for i in batch], [self.unread[i] for i in batch]
            loss, metrics = self._preference_loss(pairs, rows, len(self.held_out))
            for name, value in (metrics | {"loss": loss}).items():
                totals[name] = totals.get(name, 0.0) + float(value)
        return totals

    def outcome(self, after: Evaluated) -> dict[str, Any]:
        found = super().outcome(after)
        if self.run is None or not self.unread:
            return found
        with self.timer("trust"):
            report = trust_report(self.model.score, self.unread, self.read, seed=self.config.seed)
        if self.processes.leads:
            write_report(report, self.run.path / "trust")
        return found | {"trust": headline(report)}

    def _encoded(self, row: Preference) -> tuple[Preference, Pair]:
        sides = (self.model.encode_whole(text, origin=row.origin) for text in (row.chosen, row.rejected))
        return row, (next(sides), next(sides))

    def _preference_loss(
        self, pairs: Sequence[Pair], rows: Sequence[Preference], denominator: float, liking: float = 0.0
    ) -> tuple[Tensor, dict[str, Tensor]]:
        scores = self.model([chosen for chosen, _ in pairs] + [rejected for _, rejected in pairs])
        chosen, rejected = scores.chunk(2)
        return preference_loss(
            chosen,
            rejected,
            margin=scores.new_tensor([x.margin - liking * _longer(pair) for pair, x in zip(pairs, rows, strict=True)]),
            agreement=scores.new_tensor([row.agreement for row in rows]),
            label_smoothing=self.config.label_smoothing,
            center=self.config.center_rewards_coefficient,
            denominator=denominator,
        )


def _longer(pair: Pair) -> float:
    """By how many hundred tokens the chosen text is the longer one."""
    return (len(pair[0]) - len(pair[1])) / 100


def _sizes(pairs: Sequence[Pair]) -> list[int]:
    return [2 * max(len(chosen), len(rejected)) for chosen, rejected in pairs]
