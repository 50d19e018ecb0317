"""Reading a recipe: one TOML file, a table for each stage that :mod:`kedge.recipes.registry` knows."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from kedge.config.names import TABLES
from kedge.config.settings import Config, nearest, override, read_recipe
from kedge.errors import ConfigError, DataError, ModelError
from kedge.recipes.overrides import of_a_table, refuse_unread
from kedge.recipes.registry import names, stage_called
from kedge.runs.folder import RunFolder

Settings = TypeVar("Settings", bound=Config)

SOURCES = ("model", "policy", "baseline", "tokenizer", "data", "eval_data", "prompts", "eval_prompts", "reward")
"""Keys of tables that name what is read."""


class Recipe:
    """A recipe file with its overrides. All its tables are checked when one of them is used; one whose stage is not
    installed is left alone.

    Args:
        path: the file.
        overrides: ``key=value``.
        stage: the table that the command reads: an override of a key without its table is one of that, and one of
            another table is refused.
        too: tables that it reads besides.
    """

    def __init__(self, path: Path, overrides: list[str], *, stage: str | None = None, too: Sequence[str] = ()) -> None:
        written = read_recipe(path)
        for text in overrides:
            refuse_unread(text, stage, too)
        tables = override(written, [of_a_table(text, written, stage) for text in overrides])
        self.name = tables.pop("name", path.resolve().parent.name if path.name == "recipe.toml" else path.stem)
        if not isinstance(self.name, str) or not self.name:
            raise ConfigError(f"{path}: name must be a word, not {self.name!r}")
        self.needs = tables.pop("needs", "")
        if not isinstance(self.needs, str):
            raise ConfigError(f"{path}: needs must be a text that says what has to be there, not {self.needs!r}")
        self.path = path
        self.tables = tuple(tables)
        for table, settings in tables.items():
            if table not in names():
                known = TABLES.get(table) or nearest(table, ["name", "needs", *names()])
                raise ConfigError(f"{path}: unknown key {table!r}; {known}")
            if not isinstance(settings, dict):
                raise ConfigError(f"{path}: {table!r} must be a table, [{table}]")
        if stage is not None and stage not in tables:
            raise self._no_table(stage)
        self.stages: dict[str, Config] = {}
        for table, settings in tables.items():
            if missing := stage_called(table).missing():
                if table == stage:
                    raise ConfigError(missing)
                continue
            self.stages[table] = self._checked(table, settings)

    def stage(self, name: str, cls: type[Settings]) -> Settings:
        """The settings of one stage.

        Raises:
            ConfigError: the recipe has no such table.
        """
        found = self.stages.get(name)
        if found is None:
            raise self._no_table(name)
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
        return stage_called(stage).run_path(self.name, self.stages[stage])

    def run_folder(self, stage: str, *, overwrite: bool, resume: bool) -> RunFolder:
        """The stage's run folder, with its resolved recipe."""
        tables: dict[str, Any] = {"name": self.name, stage: self.stages[stage].resolved()}
        return RunFolder(self.run_path(stage), tables, overwrite=overwrite, resume=resume)

    def _no_table(self, stage: str) -> ConfigError:
        there = ", ".join(f"[{table}]" for table in self.tables) or "none"
        return ConfigError(f"{self.path}: no table [{stage}], which `kedge {stage}` reads; tables there are: {there}")

    def _checked(self, stage: str, settings: dict[str, Any]) -> Config:
        try:
            return stage_called(stage).table()(**settings)
        except ConfigError as error:
            lines = [f"{self.path}: [{stage}] {line}" for line in str(error).splitlines()]
            raise ConfigError("\n".join(lines)) from None


def _sources(settings: Config) -> list[str]:
    """What a table names to be read, as far as it is text."""
    named = [getattr(settings, name, None) for name in SOURCES]
    return [source for source in named if isinstance(source, str)]


def _is_missing(source: str) -> bool:
    return source.startswith((".", "/", "~", "runs/")) and not Path(source).expanduser().exists()
