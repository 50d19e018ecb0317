"""Whether an answer has a form: a regular expression, a JSON schema."""

import json
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from kedge.config.optional import needed
from kedge.errors import ConfigError
from kedge.rewards.library.base import Said, Sample, TextSpec, lines_of


class Regex(TextSpec):
    """Whether an answer matches a regular expression, as Python's ``re`` has them.

    A pattern that can match in many ways (``(a+)+$``) can take forever: there is no limit of time.
    """

    KIND: ClassVar[str] = "regex"
    RANGE: ClassVar[str] = "0 or 1"

    pattern: str
    """``(?s)`` in front: a dot is also a line's end; ``(?i)``: in any case."""
    where: Literal["anywhere", "all"] = "anywhere"
    """``all``: the whole answer must match."""
    absent: bool = False
    """1 for answers that do not match."""

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ValueError(f"pattern: {self.pattern!r} is no regular expression: {error}") from None
        return self

    def one(self, sample: Sample) -> Said:
        find = re.search if self.where == "anywhere" else re.fullmatch
        return Said(float((find(self.pattern, sample.text) is None) is self.absent))


def json_in(text: str) -> Any:
    """The JSON that a text is, or that stands in its only fenced block.

    Raises:
        ValueError: there is none; the message says where it ends to be JSON.
    """
    blocks = re.findall(r"```(?:json)?\s*\n(.*?)```", text, re.DOTALL)
    return json.loads(blocks[0] if len(blocks) == 1 else text, parse_constant=_no_number)


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


class JSONSchema(TextSpec):
    """Whether an answer is JSON that fits a schema (jsonschema; json-schema.org), bare or in a fenced block.

    What keeps an answer from it is remarked on.
    """

    KIND: ClassVar[str] = "json_schema"
    RANGE: ClassVar[str] = "0..1"

    file: Path | None = None
    """The schema."""
    inline: dict[str, Any] | None = None
    """The schema as a table, such as ``{ type = "object", required = ["name"] }``."""
    parses: float = Field(0.0, ge=0, le=1)
    """Score of JSON that does not fit."""

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if (self.file is None) == (self.inline is None):
            raise ValueError("file: give the schema as file= or as inline=, one of the two")
        return self

    def files(self) -> Sequence[Path]:
        return () if self.file is None else (self.file,)

    def prepare(self) -> None:
        self._validator()

    def one(self, sample: Sample) -> Said:
        try:
            value = json_in(sample.text)
        except (ValueError, RecursionError) as error:
            return Said(0.0, f"no JSON: {error}")
        problem = needed("jsonschema.exceptions", "json_schema").best_match(self._validator().iter_errors(value))
        if problem is None:
            return Said(1.0)
        return Said(self.parses, f"{problem.json_path}: {problem.message}")

    def _validator(self) -> Any:
        if self.file is not None:
            return _validator("\n".join(lines_of(self.file, "json_schema")), str(self.file))
        return _validator(json.dumps(self.inline), "inline")


@cache
def _validator(schema: str, where: str) -> Any:
    library = needed("jsonschema", "json_schema")
    try:
        rules = json.loads(schema)
        kind = library.validators.validator_for(rules, default=library.Draft202012Validator)
        kind.check_schema(rules)
    except json.JSONDecodeError as error:
        raise ConfigError(f"json_schema: {where}: not JSON: {error}") from None
    except library.SchemaError as error:
        raise ConfigError(f"json_schema: {where}: no JSON schema: {error.json_path}: {error.message}") from None
    return kind(rules)
