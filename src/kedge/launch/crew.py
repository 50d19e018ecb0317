"""The processes of a job together, wherever they run."""

import time
from collections.abc import Mapping, Sequence
from typing import Protocol

from kedge.launch.supervisor import Look, Place, Supervisor


class Crew(Protocol):
    """Those who supervise a job's processes: one each, by rank."""

    @property
    def places(self) -> Sequence[Place]:
        """Where they are; neighbours in rank are on one machine."""
        ...

    def free_port(self) -> int:
        """Where the first one can listen."""
        ...

    def start(self, words: Sequence[str], environments: Sequence[Mapping[str, str]], folder: str) -> None:
        """Start ``kedge WORDS`` in that folder once for each environment.

        Raises:
            KedgeError: one of them cannot be started.
        """
        ...

    def look(self) -> Sequence[Look]:
        """What there is to see of each; waits for a moment."""
        ...

    def signal(self, number: int) -> None:
        """Give all of them a signal."""
        ...

    def close(self) -> None:
        """End all that is left of them at once, and give their places back."""
        ...


class LocalCrew:
    """Processes of this machine, supervised here."""

    def __init__(self, processes: int) -> None:
        self.supervisors = [Supervisor() for _ in range(processes)]
        self.places = [each.place() for each in self.supervisors]

    def free_port(self) -> int:
        return self.supervisors[0].free_port()

    def start(self, words: Sequence[str], environments: Sequence[Mapping[str, str]], folder: str) -> None:
        for supervisor, environment in zip(self.supervisors, environments, strict=True):
            supervisor.start(words, environment, folder)

    def look(self) -> Sequence[Look]:
        time.sleep(0.1)
        return [each.look() for each in self.supervisors]

    def signal(self, number: int) -> None:
        for each in self.supervisors:
            each.signal(number)

    def close(self) -> None:
        for each in self.supervisors:
            each.end()
