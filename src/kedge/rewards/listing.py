"""The kinds of reward in words, for ``kedge rewards``."""

import textwrap

from kedge.config.described import as_text
from kedge.errors import ConfigError
from kedge.rewards.kinds import KINDS, kind_called
from kedge.rewards.spec import RewardSpec


def listed() -> str:
    """A line for each kind: its name, what it is, its arguments (those that must be given first), its range."""
    return "\n".join(f"{name:<15} {_line(name)}" for name in KINDS.names())


def settings_of_kind(name: str, *, width: int = 79) -> str:
    """What one is, and its settings.

    Raises:
        ConfigError: there is no such kind, or it cannot be loaded.
    """
    kind = kind_called(name)
    about = (kind.__doc__ or "").partition("\n\nSettings:")[0].replace("``", "")
    parts = [textwrap.fill(" ".join(part.split()), width) for part in about.split("\n\n")]
    head = f'[[ppo.reward]], kind = "{name}"; range: {kind.RANGE}'
    return "\n\n".join([head, *(part for part in parts if part), as_text(kind, width=width, indent="  ")])


def _line(name: str) -> str:
    try:
        kind = KINDS.get(name)
    except ConfigError as error:  # one package's fault, and the others are listed too
        return str(error)
    about = (kind.__doc__ or "").partition("\n")[0].rstrip(".").replace("``", "")
    return f"{about}  ({', '.join(_arguments(kind)) or 'no arguments'})  {kind.RANGE}"


def _arguments(kind: type[RewardSpec]) -> list[str]:
    own = {name: field for name, field in kind.model_fields.items() if name not in RewardSpec.model_fields}
    return sorted(own, key=lambda name: not own[name].is_required())
