"""Judges for the recipes, as `recipes.judges:NAME` from the project's folder."""

from functools import cache
from typing import Any

from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer  # pip install 'kedge[vader]'


@cache
def _analyzer() -> Any:
    return SentimentIntensityAnalyzer()


def vader(prompts: list[str], completions: list[str], **columns: object) -> list[float]:
    """How positive a text is, from -1 to 1: VADER's compound score (Hutto and Gilbert 2014)."""
    return [_analyzer().polarity_scores(completion)["compound"] for completion in completions]
