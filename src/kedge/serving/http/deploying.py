"""Telling a server which weights are to answer."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from kedge.errors import KedgeError
from kedge.serving.http.run import read_keys

SECONDS = 600.0
"""Loading and checking may take."""


def deployed(source: str, server: str, key_file: Path, canary: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What the server says once a run, folder or hub id answers.

    Args:
        source: the run, folder or hub id.
        server: its address.
        key_file: whose first line is an administrator's key.
        canary: the terms on which it answers a share of the people first; None: everybody.

    Raises:
        KedgeError: it is not there, or refuses.
    """
    here = Path(source)
    body: dict[str, Any] = {"source": str(here.resolve()) if here.exists() else source}
    return _asked("POST", server, "deploy", key_file, body if canary is None else body | {"canary": dict(canary)})


def rolled_back(server: str, key_file: Path) -> dict[str, Any]:
    """What the server says once the version that is tried answers nobody, or that before the present one everybody.

    Raises:
        KedgeError: it is not there, or refuses.
    """
    return _asked("POST", server, "rollback", key_file)


def promoted(server: str, key_file: Path) -> dict[str, Any]:
    """What the server says once the version that is tried answers everybody.

    Raises:
        KedgeError: it is not there, or refuses.
    """
    return _asked("POST", server, "promote", key_file)


def versions_of(server: str, key_file: Path) -> dict[str, Any]:
    """What answers at a server, and what is tried.

    Raises:
        KedgeError: it is not there, or refuses.
    """
    return _asked("GET", server, "versions", key_file)


def _asked(
    method: str, server: str, route: str, key_file: Path, body: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    key = read_keys(key_file, "--admin-key-file")[0]
    try:
        answer = httpx.request(
            method, f"{server.rstrip('/')}/admin/{route}", json=body, headers={"Authorization": f"Bearer {key}"},
            timeout=SECONDS,
        )  # fmt: skip
        told: dict[str, Any] = answer.json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise KedgeError(f"--to: {server} does not answer as kedge serve does: {error}") from None
    if answer.status_code == 404:
        raise KedgeError(f"--to: {server} lets nobody change its weights; start it with --admin-key-file")
    if answer.status_code != 200:
        raise KedgeError(f"{server}: {told.get('error', {}).get('message', answer.status_code)}")
    return told
