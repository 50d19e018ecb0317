"""What a user says of one reward: the base of every kind. A kind is its settings, and builds itself.

A new kind is one file, in the package or anywhere else: a subclass of :class:`RewardSpec` with its fields and
:meth:`RewardSpec.build`. See ``docs/rewards.md``.
"""

from abc import abstractmethod
from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

from pydantic import model_validator
from pydantic_core import PydanticSerializationError

from kedge.config.settings import Config
from kedge.errors import ConfigError
from kedge.models.device import Device
from kedge.models.sharding import BEFORE
from kedge.rewards.foreign import is_function_path
from kedge.rewards.scores import Reward
from kedge.rewards.terms import Normalization, Terms
from kedge.runs.fingerprints import of_settings


@dataclass(frozen=True)
class Loading:
    """How the models are loaded that a reward has in it."""

    device: Device = "auto"
    """``auto``: cuda, else mps, else cpu."""
    trust_remote_code: bool = False
    """Whether a model may bring code of its own."""
    attn_implementation: str | None = None
    """``sdpa``, ``eager``, ...; None: the model's own."""
    sharded: bool = False
    """Reward models will be spread over the processes."""

    def of_reward_models(self) -> dict[str, Any]:
        """What :func:`load_reward_model` is to be told."""
        how = asdict(self)
        return how | BEFORE if how.pop("sharded") else how


class RewardSpec(Config):
    """One reward as it is specified, of whatever kind; ``RewardSpec(function="m:f")`` is a ``FunctionSpec``."""

    kind: str = ""
    """Name of a kind that is installed, or ``package.module:Class``. With ``function`` or ``model`` it goes without
    saying."""
    weight: float = 1.0
    """Factor on its scores."""
    name: str | None = None
    """Under which it is logged; ``none``: the reward's own name."""
    final_weight: float | None = None
    """Weight at the last step, to which it goes in a straight line; ``none``: the same throughout."""
    clip: tuple[float, float] | None = None
    """``[low, high]``: scores beyond are these."""
    normalize: Normalization | None = None
    """For training alone, ``rank``: among the answers to its prompt, from -1 to 1; ``running``: less the mean of all
    scores so far, in their standard deviations."""
    gate: float | None = None
    """An answer that scores less here gets nothing from rewards that are no gates: quality counts where the format is
    right, and harm is not made good by anything."""

    SAID_BY: ClassVar[str] = ""
    """The kind's name where a key of that name says it already."""
    KIND: ClassVar[str] = ""
    """The name of a built-in kind that ``kind`` must say."""
    RANGE: ClassVar[str] = "any number"
    """Of its scores, for ``kedge rewards``."""

    def __new__(cls, *_: Any, **given: Any) -> Self:
        if cls is not RewardSpec:
            return super().__new__(cls)
        from kedge.rewards.kinds import kind_of  # the kinds stand on this class

        return super().__new__(kind_of(given))  # type: ignore[return-value]

    @abstractmethod
    def build(self, loading: Loading) -> Reward:
        """The reward, ready to score."""

    def refuse_missing_columns(self, there: Collection[str]) -> None:
        """Before anything is loaded: raise RewardError where it must have what is no column of the data."""

    def reward_models(self) -> list[str]:
        """Sources of the reward models that it will load, for ``kedge plan``."""
        return []

    def fingerprint(self) -> str:
        """Of the settings, so that a resumed run keeps them; nothing where the reward's own tells them."""
        try:
            settings = self.resolved()  # plain values: of a path or a table within, what it says and not its type
        except PydanticSerializationError:
            settings = {key: getattr(self, key) for key in type(self).model_fields}
        return of_settings({key: value for key, value in settings.items() if key not in RewardSpec.model_fields})

    def built(self, loading: Loading) -> Reward:
        """What :meth:`build` gives, under its name.

        Raises:
            ConfigError: it is no reward.
        """
        reward = self.build(loading)
        if not isinstance(reward, Reward):
            raise ConfigError(
                f"reward: build() of kind {self.kind!r} gives {type(reward).__name__}; it must give a Reward, such as "
                "FunctionReward(function)"
            )
        if self.name:
            reward.name = self.name
        reward.settings = self.fingerprint()
        reward.terms = Terms(self.final_weight, self.clip, self.normalize, self.gate)
        return reward

    def resolved(self) -> dict[str, Any]:
        """Every setting in force as a recipe says it, which is read back to the same thing."""
        fields, plain = type(self).model_fields, super().resolved()
        silent = {key for key, value in plain.items() if value == "none" and fields[key].default is None}
        silent |= {"kind"} if self._said_by() else set()
        return {key: value for key, value in plain.items() if key not in silent}

    def said(self) -> dict[str, Any] | None:
        """What was set, as a recipe says it; None where none can: something in it, or its class, is Python's alone."""
        if not self._said_by() and (not is_function_path(self._where()) or type(self).__module__ == "__main__"):
            return None
        try:
            said = {key: value for key, value in self.resolved().items() if key in self.model_fields_set}
            return said if type(self)(**said) == self else None
        except (PydanticSerializationError, ConfigError):
            return None

    @classmethod
    def _said_by(cls) -> str:
        """What a class built on this one does not inherit: a key names the kind that it is of, and no other."""
        return str(vars(cls).get("SAID_BY", ""))

    @classmethod
    def _own_kind(cls) -> str:
        """Its name among the built-in ones; a class built on one of these has none."""
        return cls._said_by() or str(vars(cls).get("KIND", ""))

    @classmethod
    def _where(cls) -> str:
        return f"{cls.__module__}:{cls.__qualname__}"

    @model_validator(mode="after")
    def _clips_upwards(self) -> Self:
        if self.clip is not None and not self.clip[0] < self.clip[1]:
            raise ValueError(f"clip: [low, high], the lower one first, not {list(self.clip)}")
        return self

    @model_validator(mode="before")
    @classmethod
    def _knows_its_kind(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        own = cls._own_kind() or cls._where()
        if given.get("kind") in (None, "none", own):
            return given | {"kind": own}
        from kedge.rewards.kinds import kind_called

        try:
            meant = kind_called(given["kind"])
        except ConfigError as error:
            raise ValueError(str(error)) from None
        if meant is not cls:
            raise ValueError(f"kind: {given['kind']!r} is a {meant.__name__} and this a {cls.__name__}; take it out")
        return given
