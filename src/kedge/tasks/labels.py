"""Texts to be given one label: financial opinion in English, news titles in Chinese."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from operator import itemgetter
from typing import Any, ClassVar

from kedge.config.optional import needed
from kedge.config.settings import nearest
from kedge.data.records import Text
from kedge.errors import DataError
from kedge.evaluation.metrics import mean
from kedge.rewards.library.labels import Classification, labels_in, macro_f1_parts
from kedge.tasks.files import FolderTask
from kedge.tasks.task import Row, Split, held_out


class Labelled(FolderTask):
    """A text is answered with its label, as a word. The reward is 1 for the right one, and 0 for all else.

    The baseline is TF-IDF of words and characters with logistic regression, fitted to the rows that are trained on.
    """

    primary_metric = "macro_f1"
    labels: ClassVar[tuple[str, ...]]
    grams: ClassVar[tuple[int, int]] = (1, 2)
    """Of the baseline: words, or characters where :attr:`by_character`."""
    by_character: ClassVar[bool] = False
    shown_every: ClassVar[int] = 1
    """One text in so many is demonstrated."""

    @property
    def reward(self) -> Any:  # type: ignore[override]
        return {"kind": Classification.KIND, "labels": list(self.labels)}

    @abstractmethod
    def published(self, split: Split) -> Iterable[Row]:
        """The rows of a split, before those that are trained on are left out of the other."""

    def rows(self, split: Split) -> Iterable[Row]:
        found = self.published(split)
        if split == "eval":
            return ({**row, "shown": False} for row in self.unseen(found, itemgetter("text")))
        return ({**row, "shown": place % self.shown_every == 0} for place, row in enumerate(found))

    def prompt(self, row: Row) -> Text:
        return f"{row['text']}\n=>"

    def demonstration(self, row: Row) -> str:
        return f" {row['label']}"

    def is_demonstrated(self, row: Row) -> bool:
        return bool(row["shown"])

    def read(self, row: Row, answer: str) -> str | None:
        """The one label that it names."""
        said = labels_in(answer, self.labels)
        return said[0] if len(said) == 1 else None

    def measures(self, rows: Sequence[Row], said: Sequence[str | None]) -> dict[str, float]:
        right = [row["label"] for row in rows]
        accuracy = mean([float(a == b) for a, b in zip(said, right, strict=True)])
        return {"accuracy": accuracy, "macro_f1": mean(macro_f1_parts(said, right))}

    def baseline(self, row: Row) -> str:
        return str(self._regression.predict([row["text"]])[0])

    def labelled(self, name: str, line: int, text: str, label: str) -> Row:
        """A row of a file, of a text and one of :attr:`labels`.

        Raises:
            DataError: it is neither.
        """
        if not text:
            raise self.refused(name, line, "no text")
        if label not in self.labels:
            raise self.refused(name, line, f"no label {label!r}", nearest(label, list(self.labels)))
        return {"text": text, "label": label}

    @cached_property
    def _regression(self) -> Any:
        features = needed("sklearn.feature_extraction.text", f"the baseline of {self.name}", "tasks")
        linear = needed("sklearn.linear_model", f"the baseline of {self.name}", "tasks")
        pipeline = needed("sklearn.pipeline", f"the baseline of {self.name}", "tasks")
        words = features.TfidfVectorizer(analyzer="char" if self.by_character else "word", ngram_range=self.grams)
        rows = list(self.rows("train"))
        if len({row["label"] for row in rows}) < 2:
            raise DataError(f"{self.folder}: all that is trained on has one label; add rows of others{self._needed}")
        both = pipeline.make_pipeline(words, linear.LogisticRegression(C=10.0, max_iter=1000))
        return both.fit([row["text"] for row in rows], [row["label"] for row in rows])


class FinancialOpinion(Labelled):
    """Whether a sentence of financial news is positive, neutral or negative for the company.

    Sentences on which all annotators agree (Malo et al. 2014). A fifth is held out, by a hash of the text, but for
    those that are trained on with other numbers: there is no published split.
    """

    name = "opinion"
    needs = "the folder of Financial PhraseBank with Sentences_AllAgree.txt (CC-BY-NC-SA-3.0)"
    labels = ("negative", "neutral", "positive")
    new: ClassVar[Mapping[str, Any]] = {"vocabulary": 3000, "positions": 256}
    sft: ClassVar[Mapping[str, Any]] = {"epochs": 4.0, "batch_size": 16, "learning_rate": 2e-3, "warmup_steps": 50}
    ppo: ClassVar[Mapping[str, Any]] = {
        "steps": 40, "batch_size": 64, "mini_batch_size": 64, "response_length": 4, "learning_rate": 2e-4,
        "kl_coef": 0.02, "eval_every": 10,
    }  # fmt: skip

    def published(self, split: Split) -> Iterable[Row]:
        name, seen = "Sentences_AllAgree.txt", set()
        for number, line in enumerate(self.lines(name), start=1):
            text, at, label = line.strip().rpartition("@")
            if not at:
                raise self.refused(name, number, f"no @ between text and label: {line!r}")
            row = self.labelled(name, number, text.strip(), label)
            if text not in seen:
                seen.add(text)
                if held_out(text) == (split == "eval"):
                    yield row


class NewsTitles(Labelled):
    """Which of ten sections a Chinese news title stands in (THUCNews, Sun et al. 2016), as readers' clicks say.

    Published splits: titles of *dev* are trained on, those of *test* are held out, but for 38 that are in both,
    whatever their numbers. Somebody has labelled every tenth title, and these are the demonstrations; of the others one
    learns only whether an answer was right. The baseline has the labels of all of them.
    """

    name = "news-titles"
    needs = "the folder of THUCNews titles with dev.txt and test.txt (research)"
    labels = (
        "finance", "realty", "stocks", "education", "science", "society", "politics", "sports", "game", "entertainment",
    )  # fmt: skip
    by_character = True
    new: ClassVar[Mapping[str, Any]] = {"vocabulary": 4000, "positions": 128}
    sft: ClassVar[Mapping[str, Any]] = {"epochs": 6.0, "batch_size": 16, "learning_rate": 2e-3, "warmup_steps": 50}
    ppo: ClassVar[Mapping[str, Any]] = {
        "steps": 80, "batch_size": 512, "mini_batch_size": 128, "num_ppo_epochs": 1, "response_length": 3,
        "learning_rate": 2e-4, "lam": 1.0, "kl_coef": 0.01, "critic": "separate", "critic_learning_rate": 1e-3,
        "eval_every": 20,
    }  # fmt: skip
    shown_every = 10
    _numbers: ClassVar[Mapping[str, str]] = {str(number): label for number, label in enumerate(labels)}

    def published(self, split: Split) -> Iterable[Row]:
        name = "dev.txt" if split == "train" else "test.txt"
        for place, line in enumerate(self.lines(name)):
            text, _, number = line.rpartition("\t")
            if number not in self._numbers:
                what = f"{number!r} behind the last tab is no number from 0 to {len(self.labels) - 1}"
                raise self.refused(name, place + 1, what, "write text, tab and number")
            yield self.labelled(name, place + 1, text, self._numbers[number])
