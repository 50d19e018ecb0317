"""The kinds of reward there are: the built-in ones, those that other packages bring, and a user's own by its place."""

from collections.abc import Mapping
from typing import Any

from kedge.config.plugins import Registry
from kedge.config.settings import nearest
from kedge.errors import ConfigError
from kedge.rewards.ensemble import Ensemble
from kedge.rewards.foreign import import_function, is_function_path
from kedge.rewards.function_spec import FunctionSpec
from kedge.rewards.library.bias import Bias
from kedge.rewards.library.code import Code
from kedge.rewards.library.coherence import Coherence
from kedge.rewards.library.detoxify import Detoxify
from kedge.rewards.library.diversity import Diversity
from kedge.rewards.library.facts import Facts
from kedge.rewards.library.http import HTTP
from kedge.rewards.library.judge import Judge
from kedge.rewards.library.labels import Classification, Entities
from kedge.rewards.library.length import Length
from kedge.rewards.library.matching import Match
from kedge.rewards.library.mathematics import Math
from kedge.rewards.library.overlap import BLEU, CHRF, ROUGE
from kedge.rewards.library.patterns import JSONSchema, Regex
from kedge.rewards.library.ranking import Ranking
from kedge.rewards.library.remote import Remote
from kedge.rewards.library.sentiment import Sentiment
from kedge.rewards.library.toxicity import Toxicity
from kedge.rewards.model import ModelSpec
from kedge.rewards.spec import RewardSpec

IMPLIED: dict[str, type[RewardSpec]] = {kind.SAID_BY: kind for kind in (FunctionSpec, ModelSpec)}
"""Those that a key of their name says."""

LIBRARY: tuple[type[RewardSpec], ...] = (
    Diversity, Length, Sentiment, Match, Math, Regex, JSONSchema, Classification, Entities, Ranking, BLEU, CHRF, ROUGE,
    Facts, Toxicity, Detoxify, Coherence, Bias, Ensemble, Code, HTTP, Remote, Judge,
)  # fmt: skip

KINDS = Registry[RewardSpec](
    "kind of reward", RewardSpec, "kedge.rewards", IMPLIED | {kind.KIND: kind for kind in LIBRARY}
)


def kind_of(given: Mapping[str, Any]) -> type[RewardSpec]:
    """The kind that a table is of.

    Raises:
        ConfigError: there is no such kind, or the table does not say which.
    """
    if given.get("kind") not in (None, "none"):
        return kind_called(given["kind"])
    implied = [name for name in IMPLIED if given.get(name) not in (None, "none")]
    if len(implied) == 1:
        return IMPLIED[implied[0]]
    keys = dict.fromkeys(key for kind in IMPLIED.values() for key in kind.model_fields)
    unknown = [key for key in given if key not in keys]
    if unknown and not implied:
        raise ConfigError("\n".join(f"{key}: unknown key; {nearest(key, [*keys])}" for key in unknown))
    raise ConfigError("a reward names either function= or model=, or another kind=")


def kind_called(kind: object) -> type[RewardSpec]:
    """The kind of this name, or at this place.

    Raises:
        ConfigError: there is none, or it cannot be loaded.
    """
    if not isinstance(kind, str):
        raise ConfigError(f"kind: a name, or package.module:Class, got {kind!r}")
    if is_function_path(kind):
        return KINDS.checked(import_function(kind), f"kind: {kind}")
    return KINDS.get(kind, otherwise="; one of your own is named by its place, package.module:Class")
