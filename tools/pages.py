"""Writes the pages of the documentation that are made from the code."""

from pathlib import Path

from kedge.config.names import coming_from
from kedge.recipes.settings import settings_page

DOCS = Path(__file__).parents[1] / "docs"

if __name__ == "__main__":
    (DOCS / "settings.md").write_text(settings_page(), encoding="utf-8")
    (DOCS / "coming-from.md").write_text(coming_from(), encoding="utf-8")
