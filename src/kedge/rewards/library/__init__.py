"""The built-in rewards: as kinds for recipes, and as functions of texts."""

from typing import TYPE_CHECKING

from kedge.lazy import lazily

if TYPE_CHECKING:
    from kedge.rewards.library.base import Said, Sample, TextSpec
    from kedge.rewards.library.bias import Bias, Swap
    from kedge.rewards.library.code import Code, code_in
    from kedge.rewards.library.coherence import Coherence
    from kedge.rewards.library.detoxify import Detoxify
    from kedge.rewards.library.diversity import Diversity, self_bleu, unrepeated
    from kedge.rewards.library.fact_table import FactTable, read_table
    from kedge.rewards.library.facts import Facts, contradictions
    from kedge.rewards.library.http import HTTP
    from kedge.rewards.library.judge import Judge
    from kedge.rewards.library.labels import Classification, Entities, f1, labels_in, macro_f1_parts
    from kedge.rewards.library.length import Length, cosine_length, near_target, soft_overlong
    from kedge.rewards.library.matching import Match, fuzzy
    from kedge.rewards.library.mathematics import Math, comes_to
    from kedge.rewards.library.overlap import BLEU, CHRF, ROUGE, rouge, sentence_bleu, sentence_chrf
    from kedge.rewards.library.patterns import JSONSchema, Regex, json_in
    from kedge.rewards.library.ranking import Ranking, ndcg
    from kedge.rewards.library.remote import Remote
    from kedge.rewards.library.sentiment import Sentiment, vader
    from kedge.rewards.library.toxicity import Toxicity, WordList, abuse_in
    from kedge.rewards.library.words import distinct_n, normalised, words_of

_NAMES = {
    "base": ("Said", "Sample", "TextSpec"),
    "bias": ("Bias", "Swap"),
    "coherence": ("Coherence",),
    "code": ("Code", "code_in"),
    "detoxify": ("Detoxify",),
    "diversity": ("Diversity", "self_bleu", "unrepeated"),
    "fact_table": ("FactTable", "read_table"),
    "facts": ("Facts", "contradictions"),
    "http": ("HTTP",),
    "judge": ("Judge",),
    "labels": ("Classification", "Entities", "f1", "labels_in", "macro_f1_parts"),
    "length": ("Length", "cosine_length", "near_target", "soft_overlong"),
    "matching": ("Match", "fuzzy"),
    "mathematics": ("Math", "comes_to"),
    "overlap": ("BLEU", "CHRF", "ROUGE", "rouge", "sentence_bleu", "sentence_chrf"),
    "patterns": ("JSONSchema", "Regex", "json_in"),
    "ranking": ("Ranking", "ndcg"),
    "remote": ("Remote",),
    "sentiment": ("Sentiment", "vader"),
    "toxicity": ("Toxicity", "WordList", "abuse_in"),
    "words": ("distinct_n", "normalised", "words_of"),
}

__all__ = [
    "BLEU",
    "CHRF",
    "HTTP",
    "ROUGE",
    "Bias",
    "Classification",
    "Code",
    "Coherence",
    "Detoxify",
    "Diversity",
    "Entities",
    "FactTable",
    "Facts",
    "JSONSchema",
    "Judge",
    "Length",
    "Match",
    "Math",
    "Ranking",
    "Regex",
    "Remote",
    "Said",
    "Sample",
    "Sentiment",
    "Swap",
    "TextSpec",
    "Toxicity",
    "WordList",
    "abuse_in",
    "code_in", "comes_to",
    "contradictions",
    "cosine_length",
    "distinct_n",
    "f1",
    "fuzzy",
    "json_in",
    "labels_in",
    "macro_f1_parts",
    "ndcg",
    "near_target",
    "normalised",
    "read_table",
    "rouge",
    "self_bleu",
    "sentence_bleu",
    "sentence_chrf",
    "soft_overlong",
    "unrepeated",
    "vader",
    "words_of",
]  # fmt: skip

__getattr__, __dir__ = lazily(
    __name__, {name: f"kedge.rewards.library.{module}" for module, names in _NAMES.items() for name in names}
)
