"""What can be set, as `kedge settings`, `help` and the documentation say it."""

import pydoc
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import pytest
from pydantic import Field

from kedge import PPOConfig
from kedge.config.described import as_table, as_text
from kedge.config.settings import Config
from kedge.errors import ConfigError
from kedge.recipes.settings import settings_page, settings_text, tables


class Inner(Config):
    width: int = Field(4, ge=1)
    """How wide."""


class Example(Config):
    """An example."""

    USED_WHEN: ClassVar = {"limit": ("kind", ("a", None))}

    rate: float = Field(1e-5, gt=0, le=1)
    """A rate, in ``units`` that is told in so many words that one line of eighty characters cannot hold them."""
    kind: Literal["a", "b"] | None = None
    """Which."""
    limit: Annotated[float | None, "checked"] = None
    """How far."""
    words: tuple[str, ...] = ("x",)
    """Some."""
    path: str
    """Where | when."""
    inner: Inner = Inner()


def test_in_words():
    assert as_text(Example, width=60) == (
        "path: must be given  (text)\n    Where | when.\n"
        "rate = 1e-5  (number above 0 and at most 1)\n"
        "    A rate, in units that is told in so many words that one\n    line of eighty characters cannot hold them.\n"
        'kind = none  ("a" | "b" | none)\n    Which.\n'
        'limit = none  (number | none)\n    How far. Only with kind = "a" or kind = none.\n'
        'words = ["x"]  (list of text)\n    Some.\n'
        "inner.width = 4  (whole number at least 1)\n    How wide."
    )
    assert "| `path` | must be given | text | Where \\| when. |" in as_table(Example)


def test_help_tells_them():
    told = pydoc.plain(pydoc.render_doc(PPOConfig))
    assert "Schulman et al. 2017" in told
    assert "kl_coef = 0.05  (number at least 0)\n |        Weight of the KL from the reference." in told
    assert "guards.patience = " in told


def test_every_setting_has_a_meaning_and_fits_the_terminal():
    for name, table in tables().items():
        cls, text = table.settings, settings_text(name)
        assert max(map(len, text.splitlines())) < 80, name
        for key in cls.model_fields:
            assert f"  {key}" in text
            inner = cls.model_fields[key].annotation
            assert cls.model_fields[key].description or issubclass(inner, Config), (name, key)
    for asked in ("ppo", "ppo.reward"):
        assert '[[ppo.reward]], kind = "function"\nOne entry of a list of rewards. A Python function.' in settings_text(
            asked
        )
        assert '[[ppo.reward]], kind = "model"' in settings_text(asked)
    assert "time_limit" not in settings_text("ppo.reward.model")
    assert "[sft]" not in settings_text("ppo")
    for name, said in (("rm", "a reward model's table is"), ("ppo.guards", r"its settings stand in \[ppo\]")):
        with pytest.raises(ConfigError, match=f"^{name}: no table; {said}"):
            settings_text(name)
    with pytest.raises(ConfigError, match="ppoo: no table; did you mean 'ppo'"):
        settings_text("ppoo")


def test_without_gymnasium(monkeypatch):
    monkeypatch.setattr("kedge.recipes.stages.control.find_spec", lambda name: None)
    assert "control" not in tables()
    with pytest.raises(ConfigError, match=r"pip install 'kedge\[control\]'"):
        settings_text("control")


def test_the_page_is_what_the_code_says():
    pytest.importorskip("gymnasium")
    page = Path(__file__).parents[2] / "docs/settings.md"
    assert page.read_text(encoding="utf-8") == settings_page(), "run `make pages`"
