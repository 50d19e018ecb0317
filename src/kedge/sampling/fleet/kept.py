"""A server that kedge starts, and starts again. Its methods may take their time, so no event loop waits in them."""

from abc import ABC, abstractmethod
from pathlib import Path

from kedge.sampling.fleet.signs import Signs


class Kept(ABC):
    """On this machine, or where somebody else has placed it."""

    @property
    @abstractmethod
    def url(self) -> str:
        """Where it answers: always there, however often it is started."""

    @property
    @abstractmethod
    def log(self) -> Path:
        """What it says, of all its starts."""

    @property
    @abstractmethod
    def takes_adapters(self) -> bool:
        """Whether it is to load adapters beside its weights."""

    @abstractmethod
    def start(self, model: Path, dtype: str, rank: int = 0) -> None:
        """Begin; it answers a minute later or so. Not while it runs.

        Args:
            model: a folder of the architecture that it is to serve.
            dtype: of its weights, such as ``float32``.
            rank: of the adapters that it is to load beside it, at most; 0: it need not.

        Raises:
            ServerFailure: it cannot be started.
        """

    @property
    @abstractmethod
    def runs(self) -> bool:
        """Whether it has been started and has not ended."""

    @abstractmethod
    def refuse_ended(self) -> None:
        """Raise where it no longer runs.

        Raises:
            ServerFailure: with the end of what it said.
        """

    @abstractmethod
    def last_words(self) -> str:
        """The end of its log, with where that is."""

    @abstractmethod
    def signs(self) -> Signs | None:
        """Of life; None where it does not run, or nobody can tell."""

    @abstractmethod
    def let_go(self) -> None:
        """Have it end, and all that it has started; nobody waits for that."""

    @abstractmethod
    def end(self) -> None:
        """End it, and all that it has started."""

    def give_back(self) -> None:
        """End it, and hold nothing for its next start, where there is one."""
        self.end()
