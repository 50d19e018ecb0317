"""From a run or model to a server that listens."""

from collections.abc import Sequence
from pathlib import Path

import uvicorn

from kedge.errors import ConfigError
from kedge.models.reward_loading import load_reward_model
from kedge.serving.http.app import create_app
from kedge.serving.http.service import Limits, Service
from kedge.serving.http.versions import Versions, load_version
from kedge.serving.people.store import Store
from kedge.serving.people.tables import open_database

GRACE = 60
"""Seconds that answers have to be written to their end once the server is told to stop."""


def load_service(
    source: str,
    *,
    name: str | None = None,
    reward_model: str | None = None,
    feedback: str | None = None,
    limits: Limits | None = None,
    trust_remote_code: bool = False,
) -> Service:
    """A policy, ready to answer.

    Args:
        source: a run, folder or hub id.
        name: as clients ask for it; None: the folder's.
        reward_model: of ``/v1/score``; None: there is none.
        feedback: the database that answers, and what people say of them, are kept in: a file, or a URL of SQLAlchemy's.
            None: they are not.
        limits: what is taken at most.
        trust_remote_code: run code that the models bring.

    Raises:
        ModelError: as :func:`load_language_model`. ConfigError: no such database.
    """
    store = None if feedback is None else Store(open_database(feedback))
    first = load_version(1, source, trust_remote_code=trust_remote_code)
    reward = None if reward_model is None else load_reward_model(reward_model, trust_remote_code=trust_remote_code)
    versions = Versions(first, trust_remote_code=trust_remote_code)
    return Service(name or Path(source).name, versions, limits or Limits(), reward=reward, store=store)


def read_keys(path: Path, option: str = "--api-key-file") -> list[str]:
    """The keys in a file, one a line; what begins with # is none.

    Args:
        path: of the file.
        option: that named it, for messages.

    Raises:
        ConfigError: it cannot be read, has no key, or one that is no bearer token.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{option}: {path} cannot be read: {error}") from None
    keys = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not keys:
        raise ConfigError(f"{option}: there is no key in {path}; write one a line")
    for number, key in enumerate(keys, 1):
        if not key.isascii() or not key.isprintable() or " " in key:
            raise ConfigError(f"{option}: key {number} in {path} has characters that no header may have")
    return keys


def serve(service: Service, *, host: str, port: int, keys: Sequence[str] = (), admin_keys: Sequence[str] = ()) -> None:
    """Answer until the process is told to stop; then what is being written is written to its end."""
    app = create_app(service, keys=keys, admin_keys=admin_keys)
    uvicorn.run(
        app, host=host, port=port, log_level="warning", access_log=False, timeout_graceful_shutdown=GRACE,
        server_header=False,
    )  # fmt: skip
