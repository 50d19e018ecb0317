"""What tests of the page look for, and how long they wait for it."""

import os
import re
import shutil
import time

from kedge.serving.people.store import GivenAnswer

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip


def seen(text):
    """As the page shows it: characters that deceive the eye are named."""
    hidden = r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]"
    return re.sub(hidden, lambda found: f"U+{ord(found[0]):04X}", text)


def fits(page):
    return page.evaluate("document.scrollingElement.scrollWidth <= innerWidth")


def say(page, text):
    page.fill("#question", text)
    page.press("#question", "Enter")


def until(true, seconds=8.0):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


HELD = [{"rule": "r", "on": "answer", "did": "replace", "reason": "words found", "matched": "0" * 64}]


def given(name, *, days=0, version=1, source="first", text="sat", tokens=2, held=None, told=None):
    ids = [*range(tokens)]
    return GivenAnswer(
        name, "tiny", version, source, None, "the cat", [1], text, ids, [-0.5] * tokens, {}, "eos", held, told,
        time.time() - 86_400 * days,
    )  # fmt: skip


def picture(page, name):
    """For people, where they ask for it: KEDGE_PICTURES=folder."""
    if folder := os.environ.get("KEDGE_PICTURES"):
        page.screenshot(path=f"{folder}/{name}.png", full_page=True)
