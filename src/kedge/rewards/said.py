"""A reward in a recipe: what may stand there, and how it is written back."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import PlainSerializer, PlainValidator

from kedge.errors import ConfigError
from kedge.rewards.build import spec_of
from kedge.rewards.spec import RewardSpec


def _judge(given: Any) -> str | RewardSpec:
    if isinstance(given, str | RewardSpec):
        return given
    if not isinstance(given, Mapping):
        raise ValueError(f"package.module:name, a reward model, or a table that names one, got {given!r}")
    try:
        return spec_of(given)
    except ConfigError as error:
        raise ValueError("; ".join(str(error).splitlines())) from None


def _judges(given: Any) -> str | list[str | RewardSpec]:
    if isinstance(given, str):
        return given
    return [_judge(each) for each in given] if isinstance(given, list | tuple) else [_judge(given)]


def _written(judge: str | RewardSpec) -> Any:
    return judge if isinstance(judge, str) else judge.resolved()


def _all_written(judges: str | list[str | RewardSpec]) -> Any:
    return judges if isinstance(judges, str) else [_written(judge) for judge in judges]


Judge = Annotated[str | RewardSpec, PlainValidator(_judge), PlainSerializer(_written)]
"""One reward or metric: a function's or reward model's name, or a table of any kind."""

Judges = Annotated[str | list[str | RewardSpec], PlainValidator(_judges), PlainSerializer(_all_written)]
"""One, or a list of them."""
