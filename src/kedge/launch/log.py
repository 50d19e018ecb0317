"""What all processes of a job say, in one place: the terminal, and the run's folder once it is the run's."""

from collections.abc import Callable
from pathlib import Path

LOG_FILE = "launch.log"


class Log:
    """Lines with the rank before each. Those from before the run has begun are written down when it has."""

    def __init__(self, run: Path, show: Callable[[str], object]) -> None:
        """Begin.

        Args:
            run: the folder that the run will have.
            show: prints a line for who is there.
        """
        self.run, self.show = run, show
        self.begun = False
        """Whether the run has taken its folder, so that it may be resumed."""
        self._before = self._recipe()
        self._unwritten: list[str] = []

    def say(self, line: str, rank: int | None = None, *, shown: bool = True) -> None:
        """A line of a process, or of the launcher; ``shown``: to who is there too."""
        whole = line if rank is None else f"[{rank}] {line}"
        if shown:
            self.show(whole)
        self._unwritten.append(whole)

    def write(self) -> None:
        """Add what was said to the run's log. The recipe tells that the folder is the run's: whatever was there has
        been deleted by then, if it was to be."""
        self.begun = self.begun or self._recipe() not in (None, self._before)
        if self.begun and self._unwritten:
            with (self.run / LOG_FILE).open("a", encoding="utf-8") as file:
                file.writelines(f"{line}\n" for line in self._unwritten)
            self._unwritten = []

    def _recipe(self) -> tuple[int, int] | None:
        try:
            found = (self.run / "recipe.toml").stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns
