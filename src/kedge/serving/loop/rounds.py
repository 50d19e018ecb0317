"""A round and its arrows. What an arrow has made is there when it is asked for again, and is not made twice."""

import json
from pathlib import Path
from typing import Any, Literal, get_args

from rich.console import Console

from kedge.recipes.loop_table import LoopRecipe
from kedge.recipes.recipe import Recipe
from kedge.recipes.registry import stage_called
from kedge.serving.loop.gate import decided
from kedge.serving.loop.heard import Heard
from kedge.serving.loop.material import ANCHORS, MADE_FROM, RECIPE, write_material
from kedge.serving.loop.trial import tried
from kedge.storage.writing import strict_json, write_text

Arrow = Literal["feedback", "reward", "ppo", "evaluate", "gate", "canary"]
ARROWS: tuple[Arrow, ...] = get_args(Arrow)

State = Literal["going", "accepted", "refused", "trying"]


class Round:
    """A round's folder.

    Args:
        folder: of it.
        number: of it, from 1.
        settings: of the loop.
        name: of the loop.
        console: to print on.
    """

    def __init__(self, folder: Path, number: int, settings: LoopRecipe, *, name: str, console: Console) -> None:
        self.folder, self.number, self.settings, self.name, self.console = folder, number, settings, name, console

    @property
    def has_begun(self) -> bool:
        """Whether it is written down what it is made from."""
        return (self.folder / RECIPE).is_file()

    @property
    def policy(self) -> str:
        """The run of its new version."""
        return str(self.folder / "ppo")

    @property
    def feedback(self) -> list[int]:
        """The numbers of what it is made from; none before it has begun."""
        return list(self._read(MADE_FROM)["feedback"]) if self.has_begun else []

    @property
    def state(self) -> State:
        """``accepted``: its version is the one to go on from; ``refused``: the one before still is."""
        if not (self.folder / "decision.json").is_file():
            return "going"
        if not self._read("decision.json")["accepted"]:
            return "refused"
        if self.settings.to is None:
            return "accepted"
        if not (self.folder / "canary.json").is_file():
            return "going"
        states: dict[str, State] = {"promoted": "accepted", "rolled back": "refused", "trying": "trying"}
        return states[self._read("canary.json")["state"]]

    def begin(self, said: Heard, policy: str) -> None:
        """The first arrow.

        Args:
            said: the feedback so far.
            policy: the version that was accepted last.
        """
        write_material(self.folder, self.settings, said, policy=policy, number=self.number, name=self.name)

    def go(self, arrow: Arrow) -> None:
        """One of the others.

        Raises:
            KedgeError: what its stage or the server says. Stopped: it was asked to stop; it goes on from there.
        """
        match arrow:
            case "reward" | "ppo":
                self._stage(arrow, RECIPE)
                self._say_what_it_is_made_from(arrow)
            case "evaluate":
                served = self._stage("evaluate", RECIPE)
                anchored = self._stage("evaluate", ANCHORS) if (self.folder / ANCHORS).is_file() else None
                self._write("evaluation.json", {"served": served, "anchors": anchored})
            case "gate":
                if not (self.folder / "decision.json").is_file():
                    self._write("decision.json", decided(self._read("evaluation.json"), self.settings.gate))
                self._tell_decision(self._read("decision.json"))
            case "canary":
                self._try()

    def _stage(self, name: str, recipe_file: str) -> dict[str, Any]:
        """Its summary; it is done, or goes on from where it broke off, where that is not there."""
        recipe, stage = Recipe(self.folder / recipe_file, [], stage=name), stage_called(name)
        summary = Path(recipe.run_path(name)) / "summary.json"
        if not summary.is_file():
            goes_on = bool(getattr(recipe.stages[name], "checkpoint_every", 0))
            job = stage.job(recipe, overwrite=not goes_on, resume=goes_on)
            done = job.train()
            if name != "ppo" or "after" in done:  # its evaluation comes later here
                stage.show(done, job, self.console)
        found: dict[str, Any] = json.loads(summary.read_text(encoding="utf-8"))
        return found

    def _say_what_it_is_made_from(self, arrow: str) -> None:
        table = Recipe(self.folder / RECIPE, []).stages[arrow].resolved()
        origins = {
            "reward": {"base": table.get("model")},
            "ppo": {"base": table.get("policy"), "reward_model": table.get("reward")},
        }
        known = {key: value for key, value in self._read(MADE_FROM).items() if key != "policy"}
        self._write(f"{arrow}/{MADE_FROM}", known | origins[arrow])

    def _try(self) -> None:
        settings = self.settings
        if settings.to is None or settings.admin_key_file is None or not self._read("decision.json")["accepted"]:
            return
        found = tried(
            Path(self.policy), settings.to, Path(settings.admin_key_file), share=settings.canary,
            seconds=settings.canary_wait,
        )  # fmt: skip
        self._write("canary.json", found)
        why = f" ({found['why']})" if found["why"] else ""
        self.tell(f"{settings.to}: version {found['version']} {found['state']}{why}")

    def _tell_decision(self, decision: dict[str, Any]) -> None:
        for check in decision["checks"]:
            numbers = ", ".join(
                f"{name} {'none' if check[name] is None else format(check[name], '.4g')}"
                for name in ("before", "after", "needed")
            )
            self.tell(f"{check['check']}: {numbers}: {'passed' if check['passed'] else 'not passed'}")
        self.tell("accepted" if decision["accepted"] else f"not accepted; {self._read(MADE_FROM)['policy']} stays")

    def tell(self, line: str) -> None:
        """Print a line that says whose it is."""
        self.console.print(f"round {self.number}: {line}", soft_wrap=True, markup=False, highlight=False)

    def _read(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / name).read_text(encoding="utf-8"))
        return found

    def _write(self, name: str, content: Any) -> None:
        write_text(self.folder / name, strict_json(content, indent=2) + "\n")
