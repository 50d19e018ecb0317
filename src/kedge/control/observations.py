"""From observations of any supported space to one array a step, and the network that reads it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from kedge.errors import ConfigError, NotFiniteError

SMALLEST_IMAGE = 8  # smaller ones leave nothing for two convolutions


def is_image(space: spaces.Space[Any]) -> bool:
    """Pixels: three axes of bytes, two of them at least 8 long."""
    return (
        isinstance(space, spaces.Box)
        and len(space.shape) == 3
        and space.dtype == np.uint8
        and sorted(space.shape)[1] >= SMALLEST_IMAGE
    )


def has_images(space: spaces.Space[Any]) -> bool:
    """An image, or a Dict with one in it."""
    return is_image(space) or (isinstance(space, spaces.Dict) and any(map(has_images, space.spaces.values())))


def parts(space: spaces.Space[Any]) -> list[spaces.Space[Any]]:
    """The spaces that a flattened observation is made of, in their order."""
    if not isinstance(space, spaces.Dict):
        return [space]
    return [each for part in space.spaces.values() for each in parts(part)]


def pixels_first(space: spaces.Box) -> tuple[int, int, int]:
    """Channels, height and width of an image, whose channels are its shorter end."""
    first, second, third = space.shape
    return (first, second, third) if first <= third else (third, first, second)


def width(space: spaces.Space[Any]) -> int:
    """Numbers that a flattened observation has.

    Raises:
        ConfigError: a space that cannot be flattened to a fixed width.
    """
    if isinstance(space, spaces.Dict):
        return sum(width(part) for part in space.spaces.values())
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    if isinstance(space, spaces.Box | spaces.MultiBinary):
        return int(np.prod(space.shape))
    if isinstance(space, spaces.MultiDiscrete):
        return int(np.sum(space.nvec))
    raise ConfigError(
        f"observations of {space} are not supported; Box, Discrete, MultiDiscrete, MultiBinary and Dict of these are"
    )


def flatten(space: spaces.Space[Any], observations: Any, n: int) -> np.ndarray:
    """``[n, width]`` float32 of n observations, batched as Gymnasium batches them; images ``[n, C, H, W]`` uint8.

    Always a copy: environments may write into the same array at their next step.
    """
    if is_image(space):
        pixels = np.array(observations)
        channels = pixels_first(space)[0]  # type: ignore[arg-type]
        return pixels if space.shape[0] == channels else pixels.transpose(0, 3, 1, 2)  # type: ignore[index]
    if isinstance(space, spaces.Dict):
        parts = [flatten(part, observations[name], n).reshape(n, -1) for name, part in space.spaces.items()]
        return np.concatenate(parts, axis=1).astype(np.float32)
    if isinstance(space, spaces.Discrete):
        return _one_hot(np.asarray(observations).reshape(n, 1) - space.start, [int(space.n)])
    if isinstance(space, spaces.MultiDiscrete):
        return _one_hot(
            np.asarray(observations).reshape(n, -1) - space.start.ravel(), [int(k) for k in space.nvec.ravel()]
        )
    return np.array(observations, dtype=np.float32).reshape(n, -1)


def batched(space: spaces.Space[Any], observations: Sequence[Any]) -> Any:
    """Single observations as Gymnasium batches them."""
    if isinstance(space, spaces.Dict):
        return {name: batched(part, [o[name] for o in observations]) for name, part in space.spaces.items()}
    return np.array(observations)


def is_batch(space: spaces.Space[Any], observation: Any) -> bool:
    """Several observations at once, and not one."""
    if isinstance(space, spaces.Dict):
        name, part = next(iter(space.spaces.items()))
        return is_batch(part, observation[name])
    return np.ndim(observation) > len(space.shape or ())


def length(space: spaces.Space[Any], observations: Any) -> int:
    """How many observations a batch holds."""
    if isinstance(space, spaces.Dict):
        name, part = next(iter(space.spaces.items()))
        return length(part, observations[name])
    return len(observations)


def refuse_broken_observations(observations: Any, n: int, where: str) -> None:
    """Raise where one of n observations, batched, has a number in it that is none.

    Raises:
        NotFiniteError: naming environment, key and value.
    """
    for key, part in _named(observations):
        numbers = np.asarray(part)
        if numbers.dtype.kind == "f" and not np.isfinite(numbers).all():
            rows = numbers.reshape(n, -1)
            i, column = np.argwhere(~np.isfinite(rows))[0]
            which = f"environment {i} of {n} ({where})" if n > 1 else f"the environment ({where})"
            what = f"observation {key!r}" if key else "an observation"
            raise NotFiniteError(
                f"{which} gave {what} with {rows[i, column]} in it, at position {column}; mend it there"
            )


def _named(observations: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The parts of Dict observations by their keys; of others all, without a name."""
    if not isinstance(observations, Mapping):
        yield name, observations
        return
    for key, part in observations.items():
        yield from _named(part, f"{name}.{key}" if name else str(key))


def _one_hot(values: np.ndarray, sizes: list[int]) -> np.ndarray:
    hot = np.zeros((len(values), sum(sizes)), np.float32)
    first = np.cumsum([0, *sizes[:-1]])
    hot[np.arange(len(values))[:, None], values.astype(int) + first] = 1.0
    return hot
