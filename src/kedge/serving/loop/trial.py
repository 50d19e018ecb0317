"""A version of the loop at its server: on trial there, and what became of it."""

import time
from pathlib import Path
from typing import Any

from kedge.serving.http.deploying import deployed, versions_of

PAUSE = 5.0
"""Seconds between two questions."""


def tried(policy: Path, server: str, key_file: Path, *, share: float, seconds: float) -> dict[str, Any]:
    """Let a server try a version, where it does not do so already, and wait for the end of that.

    Args:
        policy: the run.
        server: its address.
        key_file: whose first line is an administrator's key.
        share: of the people.
        seconds: to wait, at most.

    Returns:
        ``state``: ``promoted``, ``rolled back`` or ``trying``; ``version``, ``why``.

    Raises:
        KedgeError: the server is not there, or refuses.
    """
    source, deadline = str(policy.resolve()), time.monotonic() + seconds
    found = _state(source, versions_of(server, key_file))
    if found is None:
        found = _state(source, deployed(source, server, key_file, {"share": share}))
    while found is not None and found["state"] == "trying" and time.monotonic() < deadline:
        time.sleep(min(PAUSE, max(0.0, deadline - time.monotonic())))
        found = _state(source, versions_of(server, key_file))
    return found or {
        "state": "trying",
        "version": None,
        "why": "the server has begun anew, and tries it again next time",
    }


def _state(source: str, told: dict[str, Any]) -> dict[str, Any] | None:
    """What became of a version; None: the server does not know it."""
    if told["canary"] is not None and told["canary"]["source"] == source:
        return {"state": "trying", "version": told["canary"]["version"], "why": ""}
    for each in reversed(told["history"]):
        if each["source"] == source and each["did"] in ("promoted", "rolled back", "deployed"):
            state = "rolled back" if each["did"] == "rolled back" else "promoted"
            return {"state": state, "version": each["version"], "why": each["why"]}
    if told["live"]["source"] == source:  # it was started with it
        return {"state": "promoted", "version": told["live"]["version"], "why": "it answers"}
    return None
