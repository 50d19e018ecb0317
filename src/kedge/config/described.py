"""Settings in words: every key of a configuration class with its default, what it may be, and what it means.

What is said is what the code holds (defaults, limits, docstrings of the fields), for `help`, the terminal and the
documentation alike.
"""

import json
import textwrap
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo

REQUIRED = "must be given"
NEEDED = "must be given in it"
"""Of a table that may be left out."""
_WORDS = {bool: "true | false", int: "whole number", float: "number", str: "text", type(None): "none"}
_LIMITS: Mapping[type, tuple[str, str]] = {
    annotated_types.Gt: ("gt", "above"),
    annotated_types.Ge: ("ge", "at least"),
    annotated_types.Lt: ("lt", "below"),
    annotated_types.Le: ("le", "at most"),
}


@dataclass(frozen=True)
class Setting:
    """One key."""

    key: str
    default: str
    """As a recipe would write it."""
    kind: str
    """What may stand there; nothing where the meaning has to say it."""
    meaning: str


def settings_of(cls: type[BaseModel], prefix: str = "") -> list[Setting]:
    """All keys of a class, those of its tables too (``guards.kl``); what must be given first."""
    found: list[Setting] = []
    for key, field in cls.model_fields.items():
        table = field.annotation
        if isinstance(table, type) and issubclass(table, BaseModel):
            found += settings_of(table, f"{prefix}{key}.")
            continue
        meaning = " ".join((field.description or "").split()) + _only_with(cls, key)
        found.append(Setting(prefix + key, _default(field), _kind(field), meaning))
        for optional in get_args(table):
            if isinstance(optional, type) and issubclass(optional, BaseModel):
                of_table = settings_of(optional, f"{prefix}{key}.")
                found += [replace(each, default=NEEDED) if each.default == REQUIRED else each for each in of_table]
    return sorted(found, key=lambda setting: setting.default != REQUIRED)


def as_text(cls: type[BaseModel], *, width: int = 79, indent: str = "") -> str:
    """The settings of a class, in lines of at most ``width`` characters."""
    return "\n".join(line for setting in settings_of(cls) for line in _lines(setting, width, indent))


def as_table(cls: type[BaseModel]) -> str:
    """The settings of a class as a table of Markdown."""
    lines = ["| key | default | | meaning |", "| --- | --- | --- | --- |"]
    for s in settings_of(cls):
        default = s.default if s.default in (REQUIRED, NEEDED) else f"`{s.default}`"
        cells = (f"`{s.key}`", default, s.kind, s.meaning.replace("``", "`"))
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines)


def _lines(setting: Setting, width: int, indent: str) -> Iterator[str]:
    given = setting.default not in (REQUIRED, NEEDED)
    head = f"{setting.key} = {setting.default}" if given else f"{setting.key}: {setting.default}"
    kind = f"({setting.kind})" if setting.kind else ""
    if kind and len(indent) + len(head) + 2 + len(kind) <= width:
        head, kind = f"{head}  {kind}", ""
    yield indent + head
    for text in (kind, setting.meaning.replace("``", "")):
        yield from textwrap.wrap(text, width, initial_indent=f"{indent}    ", subsequent_indent=f"{indent}    ")


def _only_with(cls: type[BaseModel], key: str) -> str:
    used_when = getattr(cls, "USED_WHEN", {})
    if key not in used_when:
        return ""
    other, values = used_when[key]
    wanted = " or ".join(f"{other} = {_toml(value)}" for value in values) or other
    return f" Only with ``{wanted}``."


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return REQUIRED
    return _toml(field.get_default(call_default_factory=True))


def _toml(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool | str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, Mapping):
        return "{}" if not value else "{ " + ", ".join(f"{k} = {_toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, Sequence):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return str(value).replace("e-0", "e-")


def _kind(field: FieldInfo) -> str:
    words = _word(field.annotation)
    if not words:
        return ""
    limits = [
        f"{word} {getattr(limit, name):g}"
        for limit in field.metadata
        for name, word in [_LIMITS.get(type(limit), ("", ""))]
        if name
    ]
    parts = words.split(" | ")
    return " | ".join([" ".join([parts[0], " and ".join(limits)]).strip(), *parts[1:]])


def _word(annotation: Any) -> str:
    """What a type lets stand there; nothing for what words cannot say."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation in _WORDS:
        return _WORDS[annotation]
    if origin is Literal:
        return " | ".join(_toml(value) for value in inner)
    if origin in (Union, types.UnionType):
        words = [_word(part) for part in inner]
        return " | ".join(words) if all(words) else ""
    if hasattr(annotation, "__metadata__"):
        return _word(inner[0])
    if origin is tuple and inner:
        word = _word(inner[0])
        return f"list of {word}" if word else ""
    return ""
