"""The databases that feedback is kept in: a file of SQLite, and a PostgreSQL server that the tests start."""

import getpass
import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

PLACES = os.pathsep.join([os.environ.get("PATH", ""), *sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")))])


@pytest.fixture(scope="session")
def postgres():
    """``f(name)``: the URL of a new database at a server of its own."""
    programs = {name: shutil.which(name, path=PLACES) for name in ("initdb", "postgres")}
    missing = [f"no program {name!r}" for name, path in programs.items() if path is None]
    if importlib.util.find_spec("psycopg") is None:
        missing.append("no psycopg (pip install 'kedge[postgres]')")
    if missing:
        pytest.skip(f"PostgreSQL is not tried: {', '.join(missing)}")
    who = getpass.getuser() if os.getuid() else _somebody()  # it refuses to be root's
    folder = Path(tempfile.mkdtemp(prefix="kedge-postgres-", dir="/tmp"))
    shutil.chown(folder, who)
    how = {"cwd": folder, "stdout": subprocess.DEVNULL, "user": who if not os.getuid() else None}
    subprocess.run([programs["initdb"], "-D", folder / "data", "-A", "trust", "-U", "kedge", "-N"], check=True, **how)
    options = ["-k", str(folder), "-c", "listen_addresses=", "-c", "fsync=off"]
    with open(folder / "log", "wb") as log:
        server = subprocess.Popen([programs["postgres"], "-D", folder / "data", *options], stderr=log, **how)
    try:
        at = f"postgresql+psycopg://kedge@/{{}}?host={folder}"
        engine = sa.create_engine(at.format("postgres"), isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
        _wait_for(engine, server)

        def new(name):
            with engine.connect() as connection:
                connection.exec_driver_sql(f'CREATE DATABASE "{name}"')
            return at.format(name)

        yield new
    finally:
        server.send_signal(2)  # at once, whoever is connected
        server.wait(30)
        shutil.rmtree(folder)


def _somebody():
    return next(name for name in ("postgres", "nobody") if name in {each.pw_name for each in pwd.getpwall()})


def _wait_for(engine, server, seconds=30.0):
    deadline = time.monotonic() + seconds
    while True:
        try:
            return engine.connect().close()
        except sa.exc.OperationalError:
            assert server.poll() is None, "the server has ended"
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request, tmp_path):
    """Where feedback may be kept: a new one of each kind."""
    if request.param == "sqlite":
        return str(tmp_path / "feedback.db")
    return request.getfixturevalue("postgres")(f"t{time.monotonic_ns()}")
