"""The engine here: continuous batching over any causal language model; and a driver that shares it."""

from typing import TYPE_CHECKING

from kedge.lazy import lazily

if TYPE_CHECKING:
    from kedge.sampling.local.driver import Driver
    from kedge.sampling.local.engine import Engine
    from kedge.sampling.local.request import Request

__all__ = ["Driver", "Engine", "Request"]

_HOMES = {
    "Driver": "kedge.sampling.local.driver",
    "Engine": "kedge.sampling.local.engine",
    "Request": "kedge.sampling.local.request",
}

__getattr__, __dir__ = lazily(__name__, _HOMES)
