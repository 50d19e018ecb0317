"""Telling a server which weights are to answer."""

from pathlib import Path
from typing import Any

import httpx

from kedge.errors import KedgeError
from kedge.serving.http.run import read_keys

SECONDS = 600.0
"""Loading and checking may take."""


def deployed(source: str, server: str, key_file: Path) -> dict[str, Any]:
    """What the server says once a run, folder or hub id answers.

    Raises:
        KedgeError: it is not there, or refuses.
    """
    here = Path(source)
    return _asked(server, "deploy", key_file, {"source": str(here.resolve()) if here.exists() else source})


def rolled_back(server: str, key_file: Path) -> dict[str, Any]:
    """What the server says once the version before answers again.

    Raises:
        KedgeError: it is not there, or refuses.
    """
    return _asked(server, "rollback", key_file, None)


def _asked(server: str, route: str, key_file: Path, body: dict[str, str] | None) -> dict[str, Any]:
    key = read_keys(key_file, "--admin-key-file")[0]
    try:
        answer = httpx.post(
            f"{server.rstrip('/')}/admin/{route}", json=body, headers={"Authorization": f"Bearer {key}"},
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
