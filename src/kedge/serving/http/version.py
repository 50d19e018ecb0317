"""One model that answers, loaded and checked."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from kedge.errors import ModelError
from kedge.models.language_model import LanguageModel, load_language_model
from kedge.models.loading import DType
from kedge.models.quantized import Quantization
from kedge.sampling.local.driver import Driver
from kedge.sampling.local.engine import Engine
from kedge.sampling.local.schemas import Schemas
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
    asking: int = 0
    """Requests that may ask for some."""
    retired: bool = False
    """Whether it goes with the last of them."""

    @property
    def schemas(self) -> Schemas:
        """That its answers may be asked to have."""
        return self.driver.schemas

    @property
    def fingerprint(self) -> str:
        """Of the weights, as clients see it (``system_fingerprint``)."""
        return f"v{self.number}"

    def told(self) -> dict[str, object]:
        """For the administrator."""
        return {"version": self.number, "source": self.source, "answers": self.answers}

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """It stays meanwhile, retired or not: somebody is about to ask it."""
        self.asking += 1
        try:
            yield
        finally:
            self.asking -= 1
            if self.retired:
                await asyncio.to_thread(self.close_if_idle)

    def close_if_idle(self) -> None:
        """Let it go where it is retired and nobody waits for it."""
        if self.retired and not self.answers and not self.asking:
            self.driver.close()


@dataclass(frozen=True)
class Held:
    """How versions are held in memory: all of them alike."""

    dtype: DType = "auto"
    """Of the weights; ``auto`` is float32."""
    quantization: Quantization | None = None
    """Linear layers in eight or four bits a weight."""
    prefix_bytes: int = 0
    """Each remembers what its prompts began with, up to so many bytes; 0: nothing."""
    trust_remote_code: bool = False
    """Run code that models bring."""


PLAINLY = Held()


def load_version(number: int, source: str, held: Held = PLAINLY) -> Version:
    """A version of a run, folder or hub id.

    Raises:
        ModelError: as :func:`load_language_model`. ConfigError: it cannot be held so.
    """
    lm = load_language_model(
        source, dtype=held.dtype, quantization=held.quantization, trust_remote_code=held.trust_remote_code
    )
    engine = Engine(lm, prefix_bytes=held.prefix_bytes)
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
