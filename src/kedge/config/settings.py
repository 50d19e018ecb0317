"""Recipes: one TOML file, overrides from the command line, and settings that cannot be wrong silently.

A configuration is a frozen pydantic class beside what it configures, with a docstring a field. What all of them share
is here: an unknown key is an error that names the right one (for another library's name kedge's, see
:mod:`kedge.config.names`; else the nearest there is), a key that the chosen mode does not use is an error that says
which mode would, and ``"none"`` stands for "off" because TOML has no null.
"""

import datetime
import difflib
import inspect
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, TypeVar, get_args

import tomli_w
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from kedge.config.described import as_text
from kedge.config.names import elsewhere
from kedge.errors import ConfigError
from kedge.storage.writing import write_text

Item = TypeVar("Item")


def several(value: Any) -> Any:
    """One thing where several may stand, as one of several; None as none."""
    if value is None:
        return ()
    return value if isinstance(value, Sequence) and not isinstance(value, str) else (value,)


Several = Annotated[tuple[Item, ...], BeforeValidator(several)]
"""A list of them, a single one, or none."""


class Config(BaseModel):
    """Base of every configuration class."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    STAGE: ClassVar[str] = ""
    """The recipe's table that these settings are of, where there is one."""

    USED_WHEN: ClassVar[Mapping[str, tuple[str, tuple[object, ...]]]] = {}
    """``{key: (other key, its values)}``: the key means something only with one of those values; with no values given,
    where the other key is on at all (not 0, false or none)."""

    REFUSED: ClassVar[Mapping[str, str]] = {}
    """``{key: why}``: keys that users of other libraries will try, and why they are not here."""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if cls.__doc__:  # for `help`
            cls.__doc__ = f"{inspect.cleandoc(cls.__doc__)}\n\nSettings:\n\n{as_text(cls, indent='  ')}\n"

    def __init__(self, **data: Any) -> None:
        for name, value in data.items():
            self._refuse_in_table(name, value)
        try:
            super().__init__(**data)
        except ValidationError as error:
            raise _readable(error, type(self)) from None

    @classmethod
    def of(cls, given: Self | Mapping[str, Any] | None, *, key: str = "config") -> Self:
        """The settings as they are given from Python: of this class, as a dict, or none for the defaults.

        Raises:
            ConfigError: another class's settings, or wrong ones. ``key`` is the argument's name.
        """
        if given is None:
            return cls()
        if isinstance(given, Mapping):
            return cls(**given)
        if not isinstance(given, cls):
            raise ConfigError(f"{key}: {cls.__name__} or a dict of its settings, not {type(given).__name__}")
        return given

    @classmethod
    def _refuse_in_table(cls, name: str, value: object) -> None:
        """A table within a table says where it stands."""
        field = cls.model_fields.get(name)
        table = None if field is None else field.annotation
        if isinstance(value, dict) and isinstance(table, type) and issubclass(table, Config):
            try:
                table(**value)
            except ConfigError as error:
                raise ConfigError("\n".join(f"{name}.{line}" for line in str(error).splitlines())) from None

    @model_validator(mode="before")
    @classmethod
    def _none_is_off(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {key: None if isinstance(value, str) and value == "none" else value for key, value in data.items()}

    @field_validator("*", mode="before")
    @classmethod
    def _a_switch_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        # Python's True is 1, and so it is for pydantic.
        kinds = _leaves(cls.model_fields[str(info.field_name)].annotation)
        switched = any(isinstance(x, bool) for x in (value if isinstance(value, list | tuple) else [value]))
        if switched and bool not in kinds and kinds & {int, float}:
            raise ValueError(f"a number, and not true or false, got {value!r}")
        return value

    @model_validator(mode="after")
    def _only_used_keys(self) -> Self:
        for key in self.USED_WHEN:
            unmet = self._unmet(key)
            if unmet and key in self.model_fields_set:
                other, allowed = unmet
                current = getattr(self, other)
                wanted = " or ".join(f"{other}={_shown(value)}" for value in allowed) or other
                raise ValueError(f"{key}: not used with {other}={_shown(current)}; set {wanted}, or take {key} out")
        return self

    def resolved(self) -> dict[str, Any]:
        """Every setting in force, ready for TOML; those that the chosen mode does not use are left out."""
        tables = {key: value for key in type(self).model_fields if isinstance(value := getattr(self, key), Config)}
        unused = {key for key in self.USED_WHEN if self._unmet(key)}
        plain = self.model_dump(mode="json", exclude=unused | tables.keys())
        return {key: _for_toml(value) for key, value in plain.items()} | {
            key: table.resolved() for key, table in tables.items()
        }

    def _unmet(self, key: str) -> tuple[str, tuple[object, ...]] | None:
        """The condition of :attr:`USED_WHEN` that keeps ``key`` from meaning anything: its own, or one further up."""
        if key not in self.USED_WHEN:
            return None
        other, allowed = self.USED_WHEN[key]
        return self._unmet(other) or (None if _is_on(getattr(self, other), allowed) else (other, allowed))


def _leaves(annotation: Any) -> set[Any]:
    """The plain types that an annotation is made of."""
    inner = get_args(annotation)
    return set().union(*map(_leaves, inner)) if inner else {annotation}


def _is_on(current: object, values: tuple[object, ...]) -> bool:
    return current in values if values else bool(current)


def _for_toml(value: Any) -> Any:
    if value is None:
        return "none"
    if isinstance(value, dict):
        return {key: _for_toml(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_for_toml(inner) for inner in value]
    return value


def _shown(value: object) -> str:
    return "none" if value is None else repr(value)


FEW = 20
"""Names that a message lists."""


def nearest(word: str, words: Sequence[str]) -> str:
    """ "did you mean 'x'?" where some word is near enough, else all of them, if they are few."""
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.7)  # a slip of the finger, not another word
    if close:
        return f"did you mean {close[0]!r}?"
    return f"there are: {', '.join(sorted(words))}" if len(words) <= FEW else "`kedge settings` prints all there are"


def _readable(error: ValidationError, cls: type[Config]) -> ConfigError:
    lines = []
    for problem in error.errors():
        where = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            key = str(problem["loc"][-1])
            if key in cls.REFUSED:
                lines.append(f"{where}: {cls.REFUSED[key]}")
                continue
            known = list(cls.model_fields) if len(problem["loc"]) == 1 else []
            if known and cls.STAGE and (said := elsewhere(key, cls.STAGE, known)):
                lines.append(f"{where}: {said}")
                continue
            lines.append(f"{where}: unknown key; {nearest(key, known)}" if known else f"{where}: unknown key")
        elif problem["type"] == "value_error":
            said = str(problem["ctx"]["error"])
            lines.append(f"{where}: {said}" if where else said)
        elif problem["type"] == "missing":
            lines.append(f"{where}: missing, and it has no default")
        else:
            lines.append(f"{where}: {problem['msg']}, got {problem['input']!r}")
    return ConfigError("\n".join(lines))


def read_recipe(path: Path) -> dict[str, Any]:
    """The tables of a recipe file.

    Raises:
        ConfigError: no such file, or not TOML (with the line).
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such recipe file")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None


def override(recipe: dict[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """A copy of ``recipe`` with ``key.path=value`` assignments made in it.

    A value is read as TOML (``3``, ``0.5``, ``true``, ``["a"]``); what is not TOML, or is a date or time in TOML, is
    taken as a plain string.

    Raises:
        ConfigError: no ``=`` in an assignment, or a path that runs through something that is not a table.
    """
    result: dict[str, Any] = _copied(recipe)
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not path.strip():
            raise ConfigError(f"{assignment!r}: an override reads key.path=value, such as ppo.kl_coef=0.1")
        *tables, key = path.strip().split(".")
        table = result
        for name in tables:
            table = table.setdefault(name, {})
            if not isinstance(table, dict):
                raise ConfigError(f"{assignment!r}: {name!r} is no table in the recipe, but {table!r}; set all of it")
        table[key] = _value(text.strip())
    return result


def _copied(table: dict[str, Any]) -> dict[str, Any]:
    return {key: _copied(value) if isinstance(value, dict) else value for key, value in table.items()}


def _value(text: str) -> Any:
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
    # No setting is a date, but a run may be named by one.
    return text if isinstance(value, datetime.date | datetime.time) else value


def write_recipe(path: Path, tables: Mapping[str, Any]) -> None:
    """Write ``tables`` as TOML."""
    write_text(path, tomli_w.dumps(tables))


def flattened(tables: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """``{"ppo.kl_coef": 0.05, ...}``, as they read in TOML."""
    flat: dict[str, Any] = {}
    for key, value in tables.items():
        name = f"{path}{key}"
        flat |= flattened(value, f"{name}.") if isinstance(value, Mapping) else {name: json.loads(json.dumps(value))}
    return flat
