"""Databases that feedback is kept in, a PostgreSQL server that the tests start among them; and a browser."""

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
from browsing import CHROMIUM, QUIET

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


@pytest.fixture(scope="module")
def browser():
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        sync_playwright = None
    if CHROMIUM is None or sync_playwright is None:
        say = pytest.fail if os.environ.get("CI") else pytest.skip
        say("no browser: apt-get install chromium; pip install playwright")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=[*QUIET])
        yield browser
        browser.close()


@pytest.fixture
def tab(browser):
    """``tab(url, ...)``: a page of its own. In the end: nothing ran, nothing left the server, no error was logged."""
    faults, contexts = [], []

    def opened(url, view="chat", expected=(), answers=None, **how):
        """``expected``: what may be in the console; ``answers``: stubbed, ``{glob: function of a route}``."""
        context = browser.new_context(**how)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(8000)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda said: said.type in ("error", "warning")
                and not any(each in said.text for each in expected) and faults.append(said.text))  # fmt: skip
        page.on("request", lambda asked: asked.url.startswith(f"{url}/") or faults.append(asked.url))
        for glob, answer in (answers or {}).items():
            page.route(glob, answer)
        page.goto(f"{url}/#{view}")
        return page

    yield opened
    for context in contexts:
        for page in context.pages:
            assert page.evaluate("window.ran") is None
        context.close()
    assert faults == []
