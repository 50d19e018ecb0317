"""The loop that supervised fine-tuning and reward modelling share: examples in, minibatches, one loss, checkpoints."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from math import nan
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import torch
from pydantic import Field
from torch import Tensor

from kedge.data.files import Row, Source, rows_of
from kedge.data.records import held_out
from kedge.errors import ConfigError, NotFiniteError
from kedge.models.batch import dealt
from kedge.models.recompute import enable_recomputing
from kedge.models.role import Role
from kedge.models.sharding import refuse_sharded
from kedge.parallel import folder_of_all, join
from kedge.runs.callbacks import CallbackLike
from kedge.runs.folder import Metrics, RunFolder, report
from kedge.training.adalora import Ranks
from kedge.training.config import TrainingConfig
from kedge.training.fingerprints import of_rows, of_weights
from kedge.training.going_on import Sources, folder_for, kept
from kedge.training.loop import Evaluated, Trainer
from kedge.training.micro_batches import with_micro_batch
from kedge.training.optimization import (
    batch_indices,
    clip_gradients,
    make_optimizer,
    precision,
    schedule,
    set_learning_rate,
)
from kedge.training.too_long import Fitter, Limit, TooLong

Record = TypeVar("Record")

# Examples that a message names.
SHOWN = 8


class SupervisedConfig(TrainingConfig):
    """Settings of a supervised job."""

    epochs: float = Field(1.0, gt=0)
    """Passes over the data."""
    batch_size: int = Field(32, ge=1)
    """Examples an optimiser step."""
    max_length: int | None = Field(None, ge=2)
    """Longest example in tokens; ``none``: the model's positions."""

    def fitter(self, way: TooLong, positions: int | None, cutting: str) -> Fitter:
        """What makes examples fit ``max_length`` and a model of so many positions."""
        limit = (
            None if positions is None else Limit(positions, "the model's positions", "take a model of more positions")
        )
        if self.max_length is not None and (positions is None or self.max_length <= positions):
            limit = Limit(self.max_length, f"max_length={self.max_length}", "raise max_length")
        return Fitter(way, "too_long" in self.model_fields_set, limit, cutting)


class Supervised(Trainer):
    """Trains a role on examples. A subclass says what an example is, what it weighs and what it loses.

    ``sizes`` are the tokens of each training example, as :func:`by_token_budget` takes them. ``sources`` are what the
    constructor was given, by name; ``loaded``: the role was given as it is.
    """

    stage: ClassVar[str]
    """The recipe's table."""
    config: SupervisedConfig
    config_class: ClassVar[type[SupervisedConfig]]
    examples: Sequence[Any]
    """What is trained on, in token ids."""
    origins: Sequence[str]
    """File and row of each."""
    held_out: Sequence[Any]
    """Examples never trained on."""
    watched: str
    """The metric to show beside the progress bar."""
    best_by: str
    """The held-out metric that says which checkpoint is the best; with a minus in front, the smaller the better."""
    result: str
    """Name of the folder that the model goes to."""

    def __init__(
        self,
        config: SupervisedConfig,
        role: Role,
        sizes: Sequence[int],
        run: RunFolder | None,
        *,
        loaded: bool,
        progress: bool,
        callbacks: CallbackLike | Sequence[CallbackLike] | None,
    ) -> None:
        refuse_sharded(role.module, "model")
        trunk = role.own_trunk()
        assert trunk is not None
        self.config = config = with_micro_batch(config, trunk, max(sizes), run, self.stage, tell=progress)
        self.role, self.module = role, role.module
        if config.is_sharded:
            role.shard(config.sharding(), None if loaded else config.weights_dtype)
        if config.gradient_checkpointing:  # training mode is all that the layers wait for
            enable_recomputing(trunk)
        self.sizes = sizes
        self._check_budget()
        if config.warmup_steps >= self.total_steps:
            raise ConfigError(
                f"warmup_steps: {config.warmup_steps} of {self.total_steps} steps never reach learning_rate; at most "
                f"{self.total_steps - 1}"
            )
        for key in ("eval_every", "best_metric"):
            if getattr(config, key) and not self.held_out:
                raise ConfigError(f"{key}: not used without held-out rows; set eval_data or eval_size, or take it out")
        self.run = run
        report(run, config.report_to, checkpoint_every=config.checkpoint_every)
        self.processes = join()
        if config.batch_size < self.processes.size:
            raise ConfigError(
                f"batch_size: {config.batch_size} examples are too few for {self.processes.size} processes"
            )
        self.progress = progress and self.processes.leads
        self.optimizer = make_optimizer([role.group(config.learning_rate)], config)
        self.ranks = Ranks({"train": role}, self.total_steps)
        self.before: Metrics = {}
        self.set_up(watched=self.best_by, callbacks=callbacks)

    @classmethod
    def open_run(
        cls,
        run: str | Path | RunFolder | None,
        config: SupervisedConfig,
        sources: Mapping[str, Any],
        *,
        resume: bool,
        overwrite: bool,
    ) -> RunFolder | None:
        """The run's folder, looked at before anything is loaded; and each process has gone to a GPU of its own.

        Raises:
            ConfigError: as :class:`RunFolder`.
        """
        join()
        if run is None or isinstance(run, RunFolder):
            return run
        return folder_for(run, cls._sources(), config, sources, resume=resume, overwrite=overwrite)

    @classmethod
    def resume(
        cls,
        run: str | Path,
        *,
        callbacks: CallbackLike | Sequence[CallbackLike] | None = None,
        progress: bool = True,
        **given: Any,
    ) -> Self:
        """Go on with a run from its last checkpoint, as its recipe says: ``SFT.resume("runs/x").train()``.

        Args:
            callbacks: as for the constructor.
            given: what the recipe cannot say (a loaded model, rows) under the names of the constructor, and settings
                that a resumed run may change: ``SFT.resume("runs/x", data=rows, epochs=3)``.

        Raises:
            KedgeError: as the constructor; something is missing, or another one than the run began with.
        """
        return cls(**kept(run, cls._sources(), given), callbacks=callbacks, progress=progress)

    @classmethod
    def _sources(cls) -> Sources:
        names = ("model", "tokenizer", "data", "eval_data", "eval_size", "columns")
        return Sources(cls.stage, cls.config_class, names, needed=("model", "data"))

    @abstractmethod
    def weigh(self, rows: Sequence[int]) -> float:
        """What a minibatch's loss is divided by: its target tokens, or its pairs."""

    @abstractmethod
    def loss(self, rows: Sequence[int], denominator: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and metrics of some examples; the parts of a minibatch add up."""

    @abstractmethod
    def evaluate(self) -> Metrics:
        """Held-out metrics; empty where nothing is held out."""

    def save(self, folder: str | Path) -> None:
        """Write the model as it is now, as a folder of its own in ``folder``.

        Raises:
            StorageError: it cannot be written; what was there is as it was.
        """
        with folder_of_all(Path(folder).expanduser() / self.result, self.processes) as aside:
            self.role.save(aside)

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole job."""
        return max(1, round(self.config.epochs * len(self.sizes) / self.config.batch_size))

    def look_before(self) -> Evaluated:
        if self.step_done == 0:
            self.before = self.look().metrics
        return Evaluated(self.before)

    def look(self) -> Evaluated:
        self.module.eval()
        with self.timer("evaluate"), torch.no_grad(), self.precision():
            return Evaluated({f"eval/{name}": value for name, value in self.evaluate().items()})

    def outcome(self, after: Evaluated) -> dict[str, Any]:
        found = {"before": _short(self.before), "after": _short(after.metrics)} if after.metrics else {}
        return {"examples": len(self.sizes)} | found

    def live(self, metrics: Metrics) -> tuple[tuple[str, ...], dict[str, float]]:
        return (), {self.watched: metrics.get(f"train/{self.watched}", nan)}

    def work(self) -> Metrics:
        """One minibatch, one optimiser step."""
        rows = batch_indices(len(self.sizes), self.config.batch_size, self.step_done, self.config.seed)
        set_learning_rate(self.optimizer, schedule(self.config, self.step_done, self.total_steps))
        torch.manual_seed((self.config.seed * 1_000_003 + self.step_done) % 2**63)  # dropout, the same after a resume
        self.left_out.note(rows=self._named(rows), examples=[self.examples[row] for row in rows])
        self.module.train()
        self.ranks.begin(self.step_done)
        try:
            with self.timer("train"):
                metrics = self._accumulate(rows) | {"train/grad_norm": self._apply(rows)}
            return metrics | self.ranks.metrics()
        finally:
            self.module.eval()
            self.ranks.end(self.step_done + 1)

    def counted(self, metrics: Metrics, seconds: Mapping[str, float]) -> Metrics:
        return {"lr": self.config.learning_rate * schedule(self.config, self.step_done, self.total_steps)}

    def _accumulate(self, rows: Sequence[int]) -> Metrics:
        """Gradients and metrics of a minibatch, the same whatever the micro-batches and the processes."""
        denominator = self.weigh(rows)
        totals: dict[str, Tensor] = {}
        parts = dealt([self.sizes[row] for row in rows], self.config.tokens_at_a_time, self.processes)
        trained = [*self.module.parameters()]  # before the passes: within them, sharded weights are others
        for number, part in enumerate(parts, start=1):
            loss, metrics = self.loss([rows[i] for i in part] or rows[:1], denominator)
            if not part:
                loss, metrics = loss * 0.0, {name: value * 0.0 for name, value in metrics.items()}
            with self.processes.summing_gradients(trained, now=number == len(parts)):
                loss.backward()
            for name, value in (metrics | {"loss": loss.detach()}).items():
                totals[name] = totals.get(name, torch.zeros_like(value)) + value
        self.processes.sum_(*totals.values())
        if not totals["loss"].isfinite():  # the gradient may be: that of a log-probability of minus infinity is
            self.optimizer.zero_grad(set_to_none=True)
            raise NotFiniteError(f"loss: {totals['loss'].item()}, of {self._culprits(rows)}; lower learning_rate")
        return {f"train/{name}": float(value) for name, value in totals.items()}

    def _apply(self, rows: Sequence[int]) -> float:
        self.ranks.before_step()
        norm = clip_gradients(self.module.parameters(), self.config.max_grad_norm)
        if torch.isfinite(norm):
            self.optimizer.step()
            self.ranks.after_step()
        self.optimizer.zero_grad(set_to_none=True)
        if not torch.isfinite(norm):
            raise NotFiniteError(f"gradient: its norm is {norm.item()}, of {self._culprits(rows)}; lower learning_rate")
        return float(norm)

    @torch.no_grad()
    def _culprits(self, rows: Sequence[int]) -> str:
        """The examples that have no finite loss by themselves; all of them, where each has."""
        bad = [row for row in rows if not self.loss([row], self.weigh([row]))[0].isfinite()]
        named = self._named(bad or rows)
        more = f" and {len(named) - SHOWN} more" if len(named) > SHOWN else ""
        return ", ".join(named[:SHOWN]) + more

    def _named(self, rows: Sequence[int]) -> list[str]:
        """Where examples come from: file and row."""
        return [self.origins[row] for row in rows]

    def precision(self) -> torch.autocast:
        return precision(self.config, next(self.module.parameters()).device)

    def write_models(self, checkpoint: Path | None) -> None:
        self.role.save(None if checkpoint is None else checkpoint / self.result)

    def load_models(self, checkpoint: Path) -> None:
        self.role.load_weights(checkpoint / self.result)

    def fingerprints(self) -> dict[str, str]:
        rows = {"data": self.examples, "held-out data": self.held_out}
        return {"model": of_weights(self.module), **{name: of_rows(part) for name, part in rows.items()}}

    def state(self) -> dict[str, Any]:
        return {"before": self.before, "ranks": self.ranks.state_dict()}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.before = state["before"]
        self.ranks.load_state_dict(state.get("ranks", {}))

    def _check_budget(self) -> None:
        longest = max(self.sizes)
        if longest > self.config.tokens_at_a_time:
            raise ConfigError(
                f"micro_batch_tokens={self.config.tokens_at_a_time}: the longest example has {longest} tokens; "
                f"set micro_batch_tokens={longest} or more"
            )


def read_split(
    read: Callable[[Sequence[Row]], list[Record]],
    data: Source,
    eval_data: Source | None,
    *,
    eval_size: int,
    columns: Mapping[str, str] | None,
    seed: int,
) -> tuple[list[Record], list[Record]]:
    """``(training, held-out)`` records: held out are those of ``eval_data``, or ``eval_size`` rows of ``data``.

    Raises:
        ConfigError: both ways to hold out at once. DataError: rows that ``read`` refuses, or too few.
    """
    rows = rows_of(data, rename=columns)
    if eval_data is not None:
        if eval_size:
            raise ConfigError("eval_size: not used with eval_data, whose rows are all held out; take one of them out")
        return read(rows), read(rows_of(eval_data, rename=columns))
    # Rows are set aside before they are paired, or one text would stand on both sides.
    train, aside = held_out(rows, eval_size, seed=seed, what="data")
    return read(train), read(aside) if aside else []


def refuse_loading_settings(config: SupervisedConfig, arguments: Mapping[str, object], keys: Sequence[str]) -> None:
    """Settings that say how to load a model are not used with one that is loaded.

    Raises:
        ConfigError: naming the first of them.
    """
    given = [name for name, value in arguments.items() if value is not None]
    for key in [*given, *(key for key in keys if key in config.model_fields_set)]:
        raise ConfigError(f"{key}: not used with a loaded model; take it out, or give the model by name")


def _short(metrics: Metrics) -> Metrics:
    return {name.removeprefix("eval/"): value for name, value in metrics.items()}
