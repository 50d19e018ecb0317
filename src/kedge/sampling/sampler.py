"""What writes answers, seen from outside: the local engine, a fleet of servers, a file of recorded answers."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import ClassVar, Self

from torch import Tensor

from kedge.errors import ConfigError, ModelError
from kedge.models.language_model import LanguageModel
from kedge.parallel import gathered, local, part_of
from kedge.sampling.completion import Completion
from kedge.sampling.settings import Sampling


class Sampler(ABC):
    """Writes answers with the weights that were published last. A context manager, which closes it."""

    writes_apart: ClassVar[bool] = False
    """Whether it has weights of its own and takes calls from several threads: answers are written, and new weights
    published meanwhile, while the model that it was made for is trained. Its completions then carry versions."""
    is_one: ClassVar[bool] = False
    """Whether those of several processes are one, which the leading process asks for all."""

    positions: int | None = None
    """The tokens of a prompt and its answer that it has room for, where these may be fewer than the model's."""

    @abstractmethod
    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, *, seed: int = 0, first_request: int = 0
    ) -> list[Completion]:
        """One completion a prompt, in order.

        Args:
            prompts: token ids, at least one each.
            sampling: how to draw.
            seed: of all that is drawn.
            first_request: prompt ``i`` draws from the random stream (seed, first_request + i), whoever is beside it.

        Raises:
            DataError: a prompt that cannot be answered.
            NumericsError: the model gives NaN or infinite logits.
        """

    @abstractmethod
    def publish(self, weights: Mapping[str, Tensor], version: int) -> None:
        """From the next token on, write with these weights.

        Args:
            weights: by their names in the model; those left out stay as they are.
            version: their number, which completions carry beside the tokens that they drew.
        """

    def stream(self, prompt: Sequence[int], sampling: Sampling, *, seed: int = 0, request: int = 0) -> Iterator[str]:
        """The answer to one prompt in pieces of text, as they become certain; together they are the whole text.

        Here in one piece. A caller that closes the iterator early wants no more of it.

        Args:
            prompt: token ids, at least one.
            sampling: how to draw.
            seed: of what is drawn.
            request: it draws from the random stream (seed, request).

        Raises:
            DataError, NumericsError: as :meth:`generate`, when the first piece is asked for.
        """
        [completion] = self.generate([prompt], sampling, seed=seed, first_request=request)
        yield completion.text

    def whole(self) -> AbstractContextManager[None]:
        """Around :meth:`generate`, where several processes each have their share written: all of them come here."""
        return nullcontext()

    def close(self) -> None:  # noqa: B027  most have nothing to give back
        """Give back what it holds; nobody asks it for anything after that, and who still waits for answers in another
        thread gets an error."""

    def metrics(self) -> dict[str, float]:
        """What a step's line should say of it."""
        return {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def take_in(lm: LanguageModel, weights: Mapping[str, Tensor]) -> None:
    """Have a model these weights. Its own tensors cost nothing, others are copied into it.

    Args:
        lm: a sampler's.
        weights: that were published.

    Raises:
        ModelError: the model has no weight of such a name or shape.
    """
    own = lm.weights()
    for name, tensor in weights.items():
        if name not in own or own[name].shape != tensor.shape:
            raise ModelError(f"publish: the sampler's model has no weight {name!r} of shape {tuple(tensor.shape)}")
    for name, tensor in weights.items():
        if local(own[name]).data_ptr() != local(tensor).data_ptr():
            own[name].copy_(part_of(gathered(tensor), own[name]))


SamplerOf = Callable[[LanguageModel], Sampler]
"""Who writes for a model: :class:`kedge.Engine` does so with the model's own tensors."""


def made(maker: SamplerOf, lm: LanguageModel) -> Sampler:
    """A sampler of a model's answers.

    Raises:
        ConfigError: ``maker`` makes none.
    """
    if isinstance(maker, Sampler) or not callable(maker):
        raise ConfigError(
            f"sampler: what makes one for a model, such as a class or `lambda lm: MySampler(lm)`; got {maker!r}"
        )
    sampler = maker(lm)
    if not isinstance(sampler, Sampler):
        raise ConfigError(f"sampler: it makes a {type(sampler).__name__}, which is no kedge.sampling.Sampler")
    return sampler
