"""From a run or model to a server that listens."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from socket import socket
from threading import Thread

import uvicorn
from fastapi import FastAPI

from kedge.errors import ConfigError, KedgeError
from kedge.models.reward_loading import load_reward_model
from kedge.serving.guard.audit import AuditLog
from kedge.serving.guard.guard import Guard
from kedge.serving.guard.rules import read_rules
from kedge.serving.http.panel import Panel
from kedge.serving.http.service import Limits, Service
from kedge.serving.http.version import PLAINLY, Held, load_version
from kedge.serving.http.versions import Versions
from kedge.serving.people.store import Store
from kedge.serving.people.tables import open_database

GRACE = 60
"""Seconds that answers have to be written to their end once the server is told to stop."""


def load_service(
    source: str,
    *,
    name: str | None = None,
    reward_model: Sequence[str] = (),
    feedback: str | None = None,
    guard: Path | None = None,
    audit: Path | None = None,
    limits: Limits | None = None,
    held: Held = PLAINLY,
) -> Service:
    """A policy, ready to answer.

    Args:
        source: a run, folder or hub id.
        name: as clients ask for it; None: the folder's.
        reward_model: of ``/v1/score``; of several the mean, and answers on which they do not agree are shown to
            people first; none: there is none.
        feedback: the database that answers, and what people say of them, are kept in: a file, or a URL of SQLAlchemy's.
            None: they are not.
        guard: the file of rules on prompts and answers; None: there are none.
        audit: the file that keeps what they did; None: none does.
        limits: what is taken at most.
        held: how policies are held in memory; reward models are as they were saved.

    Raises:
        ModelError: as :func:`load_language_model`. ConfigError: no such database; weights that cannot be held so; or
            what is wrong with the rules.
        AuditError: the audit log was changed.
    """
    if guard is None and audit is not None:
        raise ConfigError("--audit: keeps what a guard does, and there is none; give --guard")
    rules = None if guard is None else read_rules(guard)
    for rule in () if rules is None or feedback is not None else rules.rule:
        if rule.do == "review":
            raise ConfigError(
                f"--guard: rule {rule.name!r} asks for review, which needs answers to be kept: --feedback"
            )
    store = None if feedback is None else Store(open_database(feedback))
    first = load_version(1, source, held)
    reward = load_panel(reward_model, trust_remote_code=held.trust_remote_code) if reward_model else None
    versions = Versions(first, held)
    log = None if audit is None else AuditLog(audit)
    guarding = None if rules is None else Guard(rules, log, trust_remote_code=held.trust_remote_code)
    return Service(name or name_of(source), versions, limits or Limits(), reward=reward, store=store, guard=guarding)


def load_panel(sources: Sequence[str], *, trust_remote_code: bool = False) -> Panel:
    """Reward models, ready to score.

    Args:
        sources: a run, folder or hub id each.
        trust_remote_code: run their own code.

    Raises:
        ModelError: as :func:`load_reward_model`.
    """
    return Panel([load_reward_model(each, trust_remote_code=trust_remote_code) for each in sources])


def name_of(source: str) -> str:
    """As clients ask for what comes from there, unless they are told otherwise."""
    return Path(source).name or Path(source).resolve().name


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


@contextmanager
def listening(app: FastAPI, *, port: int = 0, grace: int = GRACE) -> Iterator[str]:
    """``http://127.0.0.1:PORT`` of a server in this process, for as long as the block lasts.

    Args:
        app: what answers.
        port: 0: a free one.
        grace: seconds that answers have to be written to their end.

    Raises:
        KedgeError: it ended before it answered.
    """
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error", timeout_graceful_shutdown=grace))
    thread = Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        if not thread.is_alive():
            raise KedgeError(f"the server on port {port} ended before it answered")
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


class Telling(uvicorn.Server):
    """A server that says so once it listens."""

    def __init__(self, config: uvicorn.Config, tell: Callable[[], object]) -> None:
        super().__init__(config)
        self.tell = tell

    async def startup(self, sockets: "list[socket] | None" = None) -> None:
        await super().startup(sockets)
        if self.started:
            self.tell()


def serve(app: FastAPI, *, host: str, port: int, tell: Callable[[], object]) -> None:
    """Answer until the process is told to stop; then what is being written is written to its end.

    Args:
        app: answers.
        host: where it listens.
        port: there.
        tell: is called once it listens.

    Raises:
        KedgeError: it could not begin. SystemExit: it cannot listen there, which uvicorn has said.
    """
    config = uvicorn.Config(
        app, host=host, port=port, log_level="warning", access_log=False, timeout_graceful_shutdown=GRACE,
        server_header=False,
    )  # fmt: skip
    server = Telling(config, tell)
    server.run()
    if not server.started:
        raise KedgeError("the server could not begin; what uvicorn says stands above")
