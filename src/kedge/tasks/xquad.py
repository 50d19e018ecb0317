"""Questions about paragraphs of Wikipedia, in English and Chinese (XQuAD; any files in SQuAD's format)."""

import json
import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from typing import Any, ClassVar

from kedge.data.records import Text
from kedge.errors import DataError
from kedge.rewards.library.words import normalised, sentences_of, words_of
from kedge.tasks.files import FolderTask
from kedge.tasks.questions import f1, sliding_window
from kedge.tasks.task import Row, Split


class XQuAD(FolderTask):
    """Answer a question about a paragraph of Wikipedia with some words of it (XQuAD, Artetxe et al. 2020).

    Every fifth article is held out, in both languages; there is no published split. The policy reads the one sentence
    that shares most with the question. It has an answer for 473 of the 582 rows that are held out (81 %): no policy can
    answer the others word for word, but by chance; of those that are trained on, they are not demonstrated. A thousand
    questions are few for a small model from nothing; ``--model`` begins with a better one. The reward is exact match
    and token F1, the baseline a sliding window over all runs of up to three words that are not the question's.
    """

    name = "xquad"
    primary_metric = "f1"
    needs = "the folder of XQuAD with xquad.en.json and xquad.zh.json (CC-BY-SA-4.0)"
    reward = ({"kind": "match"}, f1)
    metrics = ({"kind": "match"}, f1)
    new: ClassVar[Mapping[str, Any]] = {"vocabulary": 4000, "positions": 384}
    sft: ClassVar[Mapping[str, Any]] = {"epochs": 3.0, "batch_size": 16, "learning_rate": 2e-3, "warmup_steps": 50}
    ppo: ClassVar[Mapping[str, Any]] = {
        "steps": 60, "batch_size": 64, "mini_batch_size": 64, "num_ppo_epochs": 2, "response_length": 16,
        "learning_rate": 4e-4, "kl_coef": 0.01, "critic": "separate", "critic_learning_rate": 1e-3,
    }  # fmt: skip

    languages: ClassVar[tuple[str, ...]] = ("en", "zh")

    def rows(self, split: Split) -> Iterable[Row]:
        for language in self.languages:
            name = f"xquad.{language}.json"
            for number, article in enumerate(self._articles(name)):
                if (number % 5 == 0) == (split == "eval"):
                    try:
                        yield from ({**row, "article": number} for row in _rows_of(article))
                    except (ValueError, KeyError, TypeError) as error:
                        what = f"article {number + 1} of its data is not in SQuAD's format: {error!r}"
                        raise DataError(
                            f"{self.folder / name}: {what}; mend it or leave it out; {self.needs}"
                        ) from None

    def prompt(self, row: Row) -> Text:
        return f"{row['text']}\n{row['question']}\n=>"

    def group(self, row: Row) -> Hashable:
        """Both languages ask the same of an article."""
        return row["article"]

    def demonstration(self, row: Row) -> str | None:
        return next((f" {answer}" for answer in row["answer"] if answer in row["text"]), None)

    def baseline(self, row: Row) -> str:
        words = words_of(normalised(row["text"]))
        asked = set(words_of(normalised(row["question"])))
        between = " " if " " in row["text"].strip() else ""
        runs = [words[i : i + n] for n in (1, 2, 3) for i in range(len(words) - n + 1)]
        options = [between.join(run) for run in runs if not asked.intersection(run)]
        return " " + sliding_window(row["text"], row["question"], options) if options else ""

    def _articles(self, name: str) -> list[Any]:
        try:
            return list(json.loads("\n".join(self.lines(name)))["data"])
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{self.folder / name}: is not in SQuAD's format: {error!r}; {self.needs}") from None


def _rows_of(article: Mapping[str, Any]) -> list[Row]:
    rows: list[Row] = []
    for paragraph in article["paragraphs"]:
        for asked in paragraph["qas"]:
            context, question, answers = paragraph["context"], asked["question"], [a["text"] for a in asked["answers"]]
            if not answers or not all(str(text).strip() for text in (context, question, *answers)):
                raise ValueError(f"an empty context or question, or no answer, by question {question!r}")
            rows.append({"text": nearest_sentence(context, question), "question": question, "answer": answers})
    if not rows:
        raise ValueError("no questions")
    return rows


def nearest_sentence(text: str, question: str) -> str:
    """The sentence that has most of the question's words, the rarer in the text the more."""
    sentences = {sentence: frozenset(words_of(normalised(sentence))) for sentence in sentences_of(text)}
    count = Counter(word for words in sentences.values() for word in words)
    asked = frozenset(words_of(normalised(question)))

    def shared(sentence: str) -> float:  # rounded once: sets have another order in every process, and ties would differ
        return math.fsum(math.log(1 + 1 / count[word]) for word in asked & sentences[sentence])

    return max(sentences, key=shared)
