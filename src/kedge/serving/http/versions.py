"""The weights that answer, and those that will: loaded beside one another, checked, and switched between."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from kedge.errors import KedgeError, ModelError
from kedge.models.language_model import LanguageModel, load_language_model
from kedge.sampling.local.driver import Driver
from kedge.sampling.local.engine import Engine
from kedge.sampling.settings import Sampling
from kedge.serving.chat import trained_sampling

REPLAYED = Sampling(max_new_tokens=4, temperature=0)
"""How a new version answers prompts that the present one has had, before it answers anybody."""


@dataclass(eq=False)
class Version:
    """A model that answers."""

    number: int
    source: str
    """Where it came from."""
    lm: LanguageModel
    driver: Driver
    usual: Sampling
    """How it draws where nobody says."""
    answers: int = 0
    """Of its own that somebody waits for."""
    retired: bool = False
    """Whether it goes with the last of them."""

    @property
    def fingerprint(self) -> str:
        """Of the weights, as clients see it (``system_fingerprint``)."""
        return f"v{self.number}"

    def told(self) -> dict[str, object]:
        """For the administrator."""
        return {"version": self.number, "source": self.source, "answers": self.answers}

    def close_if_idle(self) -> None:
        """Let it go where it is retired and nobody waits for it."""
        if self.retired and not self.answers:
            self.driver.close()


def load_version(number: int, source: str, *, trust_remote_code: bool = False) -> Version:
    """A version of a run, folder or hub id.

    Raises:
        ModelError: as :func:`load_language_model`.
    """
    lm = load_language_model(source, trust_remote_code=trust_remote_code)
    engine = Engine(lm)
    engine.version = number
    return Version(number, source, lm, Driver(engine), trained_sampling(Path(source)))


def check(new: Version, present: Version, prompts: Sequence[Sequence[int]]) -> None:
    """Raise where a new version cannot take the present one's place.

    Raises:
        KedgeError: weights that are not finite, another tokenizer, or a prompt that it cannot answer.
    """
    for name, weight in new.lm.weights().items():
        if not torch.isfinite(weight).all():
            raise ModelError(f"{new.source}: {name} is not finite everywhere")
    ours, theirs = present.lm.tokenizer, new.lm.tokenizer
    if ours.get_vocab() != theirs.get_vocab():
        raise ModelError(f"{new.source}: its tokenizer is another one; start a server of its own for it")
    if ours.chat_template != theirs.chat_template:
        raise ModelError(f"{new.source}: its chat template is another one; start a server of its own for it")
    if prompts:
        new.driver.generate(prompts, REPLAYED)


class Versions:
    """Which version answers now, and which one did before.

    The one before stays in memory for a way back. So there are two with their weights, and a third one while it is
    checked.

    Args:
        first: answers from the start.
        trust_remote_code: run code that new ones bring.
    """

    def __init__(self, first: Version, *, trust_remote_code: bool = False) -> None:
        self.live = first
        self.before: Version | None = None
        self.trust_remote_code = trust_remote_code
        self._number = first.number
        self._changing = asyncio.Lock()

    async def deploy(self, source: str, prompts: Sequence[Sequence[int]]) -> Version:
        """Load new weights beside those that answer, check them, and let them answer what comes from now on.

        Args:
            source: a run, folder or hub id, on the server's machine.
            prompts: that it must be able to answer.

        Raises:
            KedgeError: it cannot be loaded, or may not take the present one's place, which goes on then.
        """
        async with self._changing:
            self._number += 1
            new = await asyncio.to_thread(load_version, self._number, source, trust_remote_code=self.trust_remote_code)
            try:
                await asyncio.to_thread(check, new, self.live, prompts)
            except BaseException:
                await asyncio.to_thread(new.driver.close)
                raise
            self.live, self.before, former = new, self.live, self.before
            if former is not None:
                former.retired = True
                await asyncio.to_thread(former.close_if_idle)
            return new

    async def roll_back(self) -> Version:
        """Let the version before answer again.

        Raises:
            KedgeError: there is none.
        """
        async with self._changing:
            if self.before is None:
                raise KedgeError("there is no version before this one")
            self.live, self.before = self.before, self.live
            return self.live

    def close(self) -> None:
        """Whoever still waits hears that it is over."""
        for version in filter(None, (self.live, self.before)):
            version.driver.close()
