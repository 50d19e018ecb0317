"""The rounds one after the other, from wherever they were left."""

from pathlib import Path

from rich.console import Console

from kedge.recipes.loop_table import LoopRecipe
from kedge.recipes.recipe import Recipe
from kedge.serving.loop.heard import Heard, heard
from kedge.serving.loop.rounds import ARROWS, Arrow, Round
from kedge.storage.locking import take


class Loop:
    """What ``[loop]`` describes.

    Everything that a round has made stands in its folder, and what is there is not made again; so whoever starts the
    loop goes on with it.

    Args:
        recipe: with the table.
        console: to print on.

    Raises:
        ConfigError: it has no such table.
    """

    def __init__(self, recipe: Recipe, console: Console | None = None) -> None:
        self.settings = recipe.stage("loop", LoopRecipe)
        self.name = recipe.name
        self.folder = Path(recipe.run_path("loop")).expanduser()
        self.console = console or Console(quiet=True)

    @property
    def rounds(self) -> list[Round]:
        """All that it may have, whether or not they have begun."""
        return [
            Round(self.folder / f"round-{number:04}", number, self.settings, name=self.name, console=self.console)
            for number in range(1, self.settings.rounds + 1)
        ]

    @property
    def policy(self) -> str:
        """The version that was accepted last; where none was, the one that the loop began with."""
        accepted = [each.policy for each in self.rounds if each.state == "accepted"]
        return accepted[-1] if accepted else self.settings.policy

    def run(self, *, until: Arrow | None = None) -> str:
        """Go on until all rounds are done, or there is something to wait for.

        Args:
            until: an arrow after which to stop, in the round that is going.

        Returns:
            Why it ended: ``done``, ``until``, ``feedback`` (there is too little that is new), or ``canary`` (a trial at
            the server has not ended).

        Raises:
            KedgeError: what an arrow says. Stopped: it was asked to stop, and goes on from there when it is started
            again. ConfigError: another process does this loop.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        give_back = take(self.folder)
        try:
            return self._run(until)
        finally:
            give_back()

    def _run(self, until: Arrow | None) -> str:
        before: list[int] = []
        for each in self.rounds:
            if each.state in ("going", "trying"):
                if not each.has_begun:
                    said = heard(self.settings.feedback)
                    if not self._is_enough(each, said, before):
                        return "feedback"
                    each.begin(said, self.policy)
                    each.tell(f"begins from {self.policy} with {len(said.rows)} rows of feedback")
                for arrow in ARROWS:
                    if arrow != "feedback":
                        each.go(arrow)
                    if arrow == until:
                        return "until"
                if each.state == "trying":
                    return "canary"
            before = each.feedback
        return "done"

    def _is_enough(self, each: Round, said: Heard, before: list[int]) -> bool:
        new, wanted = len({*said.numbers} - {*before}), self.settings.at_least
        if new < wanted:
            each.tell(f"waits for feedback: {new} new of {wanted} (loop.at_least)")
        return new >= wanted
