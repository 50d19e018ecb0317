"""The Hugging Face hub: asked only where it answers.

Left to themselves the libraries ask an unreachable hub six times for each of a model's files: minutes, and a line for
every try, until a mistyped folder is said to be none.
"""

import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import constants

PATIENCE = 5.0
"""Seconds in which it has to begin to answer."""


@contextmanager
def asked_if_it_answers(source: str | Path) -> Iterator[None]:
    """Where ``source`` is no local folder and the hub does not answer, what is loaded inside comes from the cache or
    fails at once, as with ``HF_HUB_OFFLINE=1``."""
    if Path(source).exists() or answers():
        yield
        return
    # The libraries read it once, when they are imported, and it is the whole process's: so it is put back.
    holders = [constants, *([config] if (config := sys.modules.get("datasets.config")) else [])]
    before = [vars(holder)["HF_HUB_OFFLINE"] for holder in holders]
    try:
        for holder in holders:
            vars(holder)["HF_HUB_OFFLINE"] = True
        yield
    finally:
        for holder, was in zip(holders, before, strict=True):
            vars(holder)["HF_HUB_OFFLINE"] = was


def answers() -> bool:
    """Whether there is a hub to ask: it says something, be it an error, and ``HF_HUB_OFFLINE`` is not set."""
    if constants.HF_HUB_OFFLINE:
        return False
    if "all" in urllib.request.getproxies():
        return True  # a proxy of a kind that only the real client knows
    try:
        with urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=PATIENCE):
            return True
    except urllib.error.HTTPError:
        return True
    except urllib.error.URLError as error:
        return isinstance(error.reason, ssl.SSLError)  # certificates are the real client's matter
    except OSError:
        return False
