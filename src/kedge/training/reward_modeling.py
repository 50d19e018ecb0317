"""Reward modelling: a score for every answer, from pairs of which one is preferred, or from ratings."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from kedge.data.files import Row, Source
from kedge.data.ratings import RATED, Labelled, Rating, StepLabels, labelled
from kedge.data.records import Preference
from kedge.errors import ConfigError
from kedge.models.batch import by_token_budget
from kedge.models.reward_loading import new_reward_model
from kedge.models.reward_model import RewardModel, adapted_part, with_reading
from kedge.models.steps import Pooling, Steps
from kedge.runs.callbacks import CallbackLike
from kedge.runs.folder import Metrics, RunFolder
from kedge.training.config import LOADING, adapt
from kedge.training.labels.base import Example, Labels, Told
from kedge.training.labels.pairs import Pairs
from kedge.training.labels.ratings import Ratings
from kedge.training.labels.stepwise import Stepwise
from kedge.training.loop import Evaluated
from kedge.training.reference_scale import ReferenceConfig, scaled
from kedge.training.supervised import Supervised, SupervisedConfig, read_split, refuse_loading_settings
from kedge.training.too_long import TooLong


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
    objectives: Mapping[str, float] = Field(default_factory=dict)
    """Columns of numbers to learn, each an output of the head, and what they weigh in the score:
    ``{ helpfulness = 1.0, verbosity = -0.2 }``. Without them a column ``score`` is learnt, or preferences."""
    step_separator: str = Field("\n", min_length=1)
    """Between the steps of an answer, where these are labelled (``completions`` and ``labels``)."""
    step_pooling: Pooling = "min"
    """An answer's score is that of its weakest step (``min``), their ``mean``, or the log-odds of the ``product`` of
    their chances."""
    reference: ReferenceConfig | None = None
    """A policy and prompts, ``{ policy = "runs/sft", prompts = "prompts.jsonl" }``: in the end scores are shifted and
    scaled to mean 0 and spread 1 on its answers, and this is stored with the model."""
    too_long: TooLong = "truncate"
    """What to do with pairs of which one text is too long: an ``error``; ``truncate`` it (it loses its beginning, as
    texts do later that the model scores); or ``skip`` them."""

    @model_validator(mode="after")
    def _objectives_count(self) -> Self:
        if self.objectives and not any(self.objectives.values()):
            raise ValueError("objectives: all weigh 0, so that every score would be the same")
        if len(self.objectives) > 1 and (taken := [name for name in OWN_NAMES if name in self.objectives]):
            raise ValueError(f"objectives: {taken[0]!r} is a name of kedge's own; name the column anew with columns")
        return self


OWN_NAMES = ("score", "std", "share", "trend")
"""Of what stands beside objectives in scores and metrics."""
NAMES = {Preference: "preferences", Rating: "ratings", StepLabels: "labels of steps"}
ONLY_FOR = {
    Preference: ("label_smoothing", "center_rewards_coefficient", "length_debiasing"),
    StepLabels: ("step_separator", "step_pooling"),
}
"""Settings that are for records of one kind; ``objectives`` make ratings of any."""

CUTTING = "the beginnings of their texts"


class RewardModeling(Supervised):
    """Trains a reward model on preferences, labels or ratings.

    Args:
        model: hub id, folder or run whose trunk to start from; or a :class:`RewardModel`, trained in place.
        data: a data file, folder, hub id, table or list of rows: ``chosen`` + ``rejected``, with or without ``prompt``,
            perhaps with ``margin`` (by how much) and ``agreement`` (share of raters, 1/2 for a tie);
            or ``label``, ``score`` or the columns of ``objectives`` beside a ``text``, ``messages``, or ``prompt`` +
            ``completion``; or ``prompt``, ``completions`` (an answer's steps) and their ``labels``.
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
        if config.reference is not None:
            config.reference.refuse_missing(trust_remote_code=config.trust_remote_code)
        read: Callable[[Sequence[Row]], list[Labelled]] = partial(
            labelled, objectives=[*config.objectives], separator=config.step_separator, seed=config.seed
        )
        train, held = read_split(read, data, eval_data, eval_size=eval_size, columns=columns, seed=config.seed)
        self.labels = labels_of(config, train)
        self.watched, self.best_by = self.labels.watched, self.labels.best_by
        loaded = isinstance(model, RewardModel)
        if isinstance(model, RewardModel):
            refuse_loading_settings(config, {"tokenizer": tokenizer}, (*LOADING, "max_length"))
            model = with_reading(model, self.labels.reading)
        else:
            torch.manual_seed(config.seed % 2**63)  # the new head's weights
            model = new_reward_model(
                model,
                tokenizer=tokenizer,
                max_length=config.max_length,
                merged=not config.adapter,
                reading=self.labels.reading,
                **config.loading_to_train,
            )
        if config.reference is not None:
            config.reference.refuse_unread(model)
        adapt(adapted_part(model), config)
        self.model = model
        fitter = config.fitter(config.too_long, model.max_length, CUTTING)
        (self.taught, told), (self.unseen, also_told) = (
            fitter.fit(
                [self._encoded(row) for row in rows],
                what,
                size=lambda example: example.longest,
                origin=lambda example: example.record.origin,
                cut=lambda example, _: example._replace(sides=tuple(map(self.model.ending, example.sides))),
            )
            for rows, what in ((train, "rows of data"), (held, "held-out rows"))
        )
        self.notes = told + also_told
        self.trust: Told | None = None
        """What the report said, once it is trained."""
        self.labels.settle(self.taught)
        self.examples, self.held_out = (
            [self.labels.fingerprint(example) for example in examples] for examples in (self.taught, self.unseen)
        )
        self.origins = [example.record.origin for example in self.taught]
        sizes = [example.size for example in self.taught]
        super().__init__(config, model, sizes, run, loaded=loaded, progress=progress, callbacks=callbacks)

    def weigh(self, rows: Sequence[int]) -> float:
        return float(len(rows))

    def loss(self, rows: Sequence[int], denominator: float) -> tuple[Tensor, dict[str, Tensor]]:
        return self.labels.loss(self.model, [self.taught[row] for row in rows], denominator, training=True)

    def evaluate(self) -> Metrics:
        totals: Metrics = {}
        for batch in by_token_budget([example.size for example in self.unseen], self.config.tokens_at_a_time):
            examples = [self.unseen[i] for i in batch]
            loss, metrics = self.labels.loss(self.model, examples, len(self.unseen), training=False)
            for name, value in (metrics | {"loss": loss}).items():
                totals[name] = totals.get(name, 0.0) + float(value)
        return totals

    def outcome(self, after: Evaluated) -> dict[str, Any]:
        found = super().outcome(after)
        if self.run is None or not self.unseen:
            return found | self._scaled()
        held, train = ([example.record for example in examples] for examples in (self.unseen, self.taught))
        folder = self.run.path / "trust" if self.processes.leads else None
        with self.timer("trust"):
            self.trust = self.labels.report(self.model, held, train, self.config.seed, folder)
        return found | {"trust": self.trust.headline} | self._scaled()

    def _scaled(self) -> dict[str, Any]:
        """What the scores of the reference's answers had of mean and spread; saved with the model."""
        if self.config.reference is None:
            return {}
        loading = {key: value for key, value in self.config.loading.items() if key != "quantization"}
        with self.timer("reference"):
            reading = scaled(self.model, self.config.reference, self.processes, seed=self.config.seed, loading=loading)
        if reading is None:
            return {}
        self.role = self.model = with_reading(self.model, reading)
        if self.run is not None:
            self.save(self.run.path)
        return {"reference": {"mean": reading.mean, "std": reading.std}}

    def _encoded(self, record: Labelled) -> Example:
        return self.labels.encoded(self.model, record)


def labels_of(config: RewardConfig, records: Sequence[Labelled]) -> Labels[Any]:
    """What such records teach.

    Raises:
        ConfigError: settings that are for records of another kind. DataError: nothing to learn from them.
    """
    kind = type(records[0])
    for other, keys in ONLY_FOR.items():
        for key in keys if other is not kind else ():
            if getattr(config, key) != RewardConfig.model_fields[key].get_default(call_default_factory=True):
                raise ConfigError(f"{key}: not used with {NAMES[kind]}, which the data has; take it out")
    if kind is Preference:
        return Pairs(
            label_smoothing=config.label_smoothing,
            center=config.center_rewards_coefficient,
            length_debiasing=config.length_debiasing,
        )
    if kind is StepLabels:
        return Stepwise(Steps(config.step_separator, config.step_pooling))
    return Ratings(config.objectives or {RATED: 1.0}, [x for x in records if isinstance(x, Rating)])
