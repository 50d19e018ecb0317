"""What a recipe file may say: one table a stage.

``[sft]``, ``[reward]``, ``[ppo]`` and ``[evaluate]`` hold the settings of the class beside the code they configure,
and what only a file has to say: which model, which data, which run folder.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from pydantic import Field, model_validator

from kedge.config.names import TABLES, elsewhere
from kedge.config.settings import Config, Several, nearest, override, read_recipe
from kedge.errors import ConfigError, DataError, ModelError
from kedge.models.language_model import Device, DType
from kedge.rewards.said import Judge, Judges
from kedge.runs.folder import RunFolder
from kedge.sampling.settings import Sampling
from kedge.training.ppo import PPOConfig
from kedge.training.reward_modeling import RewardConfig
from kedge.training.sft import SFTConfig

StageRecipe = TypeVar("StageRecipe", bound=Config)


class _Data(Config):
    """Where rows come from. A table that trains names more."""

    columns: Mapping[str, str] = Field(default_factory=dict)
    """``{kedge's column = "the data's column"}`` where they differ."""
    run: str | None = None
    """Run folder; default ``runs/<recipe>-<stage>``."""


class SFTRecipe(_Data, SFTConfig):
    """``[sft]``."""

    model: str
    """Hub id, folder or run to start from."""
    tokenizer: str | None = None
    """Where the tokenizer is, when not beside the model."""
    data: str
    """Demonstrations: ``prompt`` + ``completion``, ``messages``, or ``text``."""
    eval_data: str | None = None
    """Held-out demonstrations."""
    eval_size: int = Field(0, ge=0)
    """How many rows of ``data`` to set aside instead."""


class RewardRecipe(_Data, RewardConfig):
    """``[reward]``."""

    model: str
    """Hub id, folder or run whose trunk to start from."""
    tokenizer: str | None = None
    """Where the tokenizer is, when not beside the model."""
    data: str
    """Preferences: ``chosen`` + ``rejected``, with or without ``prompt``; or ``label`` beside a ``text``, ``messages``,
    or ``prompt`` + ``completion``."""
    eval_data: str | None = None
    """Held-out preferences."""
    eval_size: int = Field(0, ge=0)
    """How many pairs of ``data`` to set aside instead."""


class PPORecipe(_Data, PPOConfig):
    """``[ppo]``."""

    policy: str
    """Hub id, folder or run to start from; also the reference."""
    tokenizer: str | None = None
    """Where the tokenizer is, when not beside the policy."""
    prompts: str
    """Rows with a column ``prompt``; the other columns reach the reward."""
    reward: Judges
    """``package.module:name``, a reward model, ``{function | model | kind, weight, name}``, or a list of these."""
    eval_prompts: str | None = None
    """Prompts never trained on."""
    eval_size: int = Field(0, ge=0)
    """How many of ``prompts`` to set aside instead."""
    metrics: Several[Judge] = ()
    """Judges that the training never sees: ``package.module:name``, reward models, or
    ``{function | model | kind, name}``."""


class EvaluateRecipe(_Data):
    """``[evaluate]``: one policy against another on the same prompts."""

    STAGE: ClassVar[str] = "evaluate"

    policy: str
    """Hub id, folder or run."""
    baseline: str
    """The policy it is compared with, and from which its KL is measured."""
    tokenizer: str | None = None
    """Where both tokenizers are, when not beside the models."""
    prompts: str
    """Rows with a column ``prompt``; prompts that neither was trained on."""
    limit: int | None = Field(None, ge=1)
    """At most so many of them."""
    reward: Judges | None = None
    """Scores the answers as ``score``."""
    metrics: Several[Judge] = ()
    """Further judges: ``package.module:name``, reward models, or ``{function | model | kind, name}``."""
    response_length: int = Field(64, ge=1)
    """Longest answer, in tokens."""
    temperature: float = Field(1.0, ge=0)
    """Of sampling; 0 is greedy."""
    top_k: int = Field(0, ge=0)
    """Keep the k likeliest tokens; 0 keeps all."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Keep the likeliest tokens up to this probability."""
    min_p: float = Field(0.0, ge=0, lt=1)
    """Keep tokens at least this likely relative to the likeliest."""
    stop_tokens: Several[str] = ()
    """Tokens that end an answer, besides the model's own EOS ids."""
    stop_strings: Several[str] = ()
    """Texts that end an answer."""
    seed: int = 0
    """Both policies draw the same random numbers for a prompt."""
    device: Device = "auto"
    """``auto``: cuda, else mps, else cpu."""
    dtype: DType = "auto"
    """Of the weights."""
    trust_remote_code: bool = False
    """Whether a model may bring code of its own, which is then run. Read it before."""
    attn_implementation: str | None = None
    """Of the models: ``sdpa``, ``eager``, ``flash_attention_2``, ...; ``none``: the model's own."""

    @model_validator(mode="after")
    def _sampling_fits(self) -> Self:
        _ = self.sampling  # says what does not fit together
        return self

    @property
    def sampling(self) -> Sampling:
        """How both policies' answers are drawn."""
        return Sampling(self.response_length, self.temperature, self.top_k, self.top_p, self.min_p, self.stop_strings)


SOURCES = ("model", "policy", "baseline", "tokenizer", "data", "eval_data", "prompts", "eval_prompts", "reward")
"""Keys of tables that name what is read."""

STAGES: dict[str, type[Config]] = {
    "sft": SFTRecipe,
    "reward": RewardRecipe,
    "ppo": PPORecipe,
    "evaluate": EvaluateRecipe,
}

ELSEWHERE = ("control",)
"""Tables that a recipe may have too, and that are read and checked elsewhere."""


class Recipe:
    """A recipe file with its overrides. All its tables are checked when one of them is used, but for ``[control]``.

    ``stage`` is the table that the command reads: an override of a key without its table is one of that, and one of
    another table is refused, but of those that it reads ``too``.
    """

    def __init__(self, path: Path, overrides: list[str], *, stage: str | None = None, too: Sequence[str] = ()) -> None:
        written = read_recipe(path)
        for text in overrides:
            _refuse_unread(text, stage, too)
        tables = override(written, [_of_a_table(text, written, stage) for text in overrides])
        self.name = tables.pop("name", path.resolve().parent.name if path.name == "recipe.toml" else path.stem)
        if not isinstance(self.name, str) or not self.name:
            raise ConfigError(f"{path}: name must be a word, not {self.name!r}")
        self.needs = tables.pop("needs", "")
        if not isinstance(self.needs, str):
            raise ConfigError(f"{path}: needs must be a text that says what has to be there, not {self.needs!r}")
        self.path = path
        self.stages: dict[str, Config] = {}
        for stage, settings in tables.items():
            if stage in ELSEWHERE:
                continue
            if stage not in STAGES:
                known = TABLES.get(stage) or nearest(stage, ["name", "needs", *STAGES, *ELSEWHERE])
                raise ConfigError(f"{path}: unknown key {stage!r}; {known}")
            if not isinstance(settings, dict):
                raise ConfigError(f"{path}: {stage!r} must be a table, [{stage}]")
            self.stages[stage] = self._checked(stage, settings)

    def stage(self, name: str, cls: type[StageRecipe]) -> StageRecipe:
        """The settings of one stage.

        Raises:
            ConfigError: the recipe has no such table.
        """
        found = self.stages.get(name)
        if found is None:
            there = ", ".join(f"[{stage}]" for stage in self.stages) or "none"
            raise ConfigError(f"{self.path}: no table [{name}], which `kedge {name}` reads; tables there are: {there}")
        assert isinstance(found, cls)
        return found

    @contextmanager
    def where_from(self, stage: str) -> Iterator[None]:
        """An error about a stage's model or data that are not there ends with what the recipe says it ``needs``."""
        try:
            yield
        except (ModelError, DataError) as error:
            if not self.needs or not any(map(_is_missing, _sources(self.stages[stage]))):
                raise
            raise type(error)(f"{error}\n{self.path} needs: {self.needs}") from error

    def run_path(self, stage: str) -> str:
        """Where the stage's run stands, or will stand."""
        return getattr(self.stages[stage], "run", None) or f"runs/{self.name}-{stage}"

    def run_folder(self, stage: str, *, overwrite: bool, resume: bool) -> RunFolder:
        """The stage's run folder, with its resolved recipe."""
        tables: dict[str, Any] = {"name": self.name, stage: self.stages[stage].resolved()}
        return RunFolder(self.run_path(stage), tables, overwrite=overwrite, resume=resume)

    def _checked(self, stage: str, settings: dict[str, Any]) -> Config:
        try:
            return STAGES[stage](**settings)
        except ConfigError as error:
            lines = [f"{self.path}: [{stage}] {line}" for line in str(error).splitlines()]
            raise ConfigError("\n".join(lines)) from None


def _sources(settings: Config) -> list[str]:
    """What a table names to be read, as far as it is text."""
    named = [getattr(settings, name, None) for name in SOURCES]
    return [source for source in named if isinstance(source, str)]


def _is_missing(source: str) -> bool:
    return source.startswith((".", "/", "~", "runs/")) and not Path(source).expanduser().exists()


def _refuse_unread(assignment: str, stage: str | None, too: Sequence[str]) -> None:
    """Raise where an override is of a table that the command does not read: it would be ignored.

    Raises:
        ConfigError: naming both.
    """
    table, dot, _ = assignment.partition("=")[0].strip().partition(".")
    if stage is None or table not in (*STAGES, *ELSEWHERE) or table in (stage, *too):
        return
    own = STAGES[stage].model_fields
    if dot:
        meant = f"; {stage}.{table} is another setting, {stage}.{assignment.strip()}" if table in own else ""
        raise ConfigError(f"{assignment.strip()!r}: of [{table}], and [{stage}] is what is read here{meant}")
    if table not in own:
        raise ConfigError(f"{assignment.strip()!r}: [{table}] is a table, and not what is read here")


def _of_a_table(assignment: str, written: Mapping[str, Any], stage: str | None) -> str:
    """``assignment`` with the table that it is of in front, where it names none: the command's own, or where a command
    reads all of them the only one that has such a key.

    Raises:
        ConfigError: it may be of several tables, or is of one that the command does not read.
    """
    key, _, rest = assignment.strip().partition("=")
    first = key.strip().split(".")[0]
    if not rest or not first:
        return assignment
    # `reward` is a table's name too, so the command's own settings come first.
    if stage is not None and stage in written and key.strip() == first in STAGES[stage].model_fields:
        return f"{stage}.{assignment.strip()}"
    if first in ("name", "needs", *STAGES, *written, *TABLES):
        return assignment
    tables_here = [table for table in STAGES if table in written]
    if stage is None and len(tables_here) == 1:
        stage = tables_here[0]
    having = [table for table in tables_here if first in STAGES[table].model_fields]
    if stage in having or (stage in written and not having and "." not in key):
        return f"{stage}.{assignment.strip()}"  # what no table knows is refused there, by a name that may be known
    if stage is not None and stage not in written and first in STAGES[stage].model_fields:
        raise ConfigError(f"{assignment.strip()!r}: the recipe has no table [{stage}], which would have {first!r}")
    if not having:
        return assignment
    if stage is not None:
        unread = f"[{stage}] has no {first!r}; [{'] and ['.join(having)}] has, and is not read"
        raise ConfigError(f"{assignment.strip()!r}: {elsewhere(first, stage, STAGES[stage].model_fields) or unread}")
    tables = [f"{table}.{assignment.strip()}" for table in having]
    if len(tables) == 1:
        return tables[0]
    raise ConfigError(f"{assignment.strip()!r}: several tables have it; write {' or '.join(tables)}")
