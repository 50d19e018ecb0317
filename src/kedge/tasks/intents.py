"""What customers want: the intent behind a question to a bank or a shop, as a label."""

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any, ClassVar

from kedge.tasks.labels import Labelled
from kedge.tasks.task import Row, Split


class Intents(Labelled):
    """Questions with intents, in CSV files: labels are those of the training file, their underscores as spaces.

    Some questions have been answered by somebody who knows, and these are the demonstrations; of the others one learns
    only whether an answer was right, as from a customer who is passed on to the wrong place. The baseline has the
    labels of all of them.
    """

    files: ClassVar[Mapping[Split, str]]
    """Their names."""
    columns: ClassVar[tuple[str, str]]
    """Of the text and of the intent."""

    def published(self, split: Split) -> Iterable[Row]:
        text, intent = self.columns
        for line, row in self.table(self.files[split], self.columns):
            if not _spaced(row[intent]):
                raise self.refused(self.files[split], line, f"no intent: {row[intent]!r}")
            yield self.labelled(self.files[split], line, row[text].strip(), _spaced(row[intent]))

    @cached_property
    def labels(self) -> tuple[str, ...]:  # type: ignore[override]
        intent = self.columns[1]
        return tuple(sorted({_spaced(row[intent]) for _, row in self.table(self.files["train"], self.columns)}))


class BankingIntents(Intents):
    """Which of 77 intents a question to an online bank has (BANKING77, Casanueva et al. 2020).

    Published splits; every tenth question of *train* is demonstrated, about 13 an intent.
    """

    name = "banking-intents"
    needs = "the folder of BANKING77 with train.csv and test.csv (CC-BY-4.0)"
    files: ClassVar[Mapping[Split, str]] = {"train": "train.csv", "eval": "test.csv"}
    columns = ("text", "category")
    shown_every = 10
    new: ClassVar[Mapping[str, Any]] = {"vocabulary": 2000, "positions": 256}
    sft: ClassVar[Mapping[str, Any]] = {"epochs": 10.0, "batch_size": 16, "learning_rate": 2e-3, "warmup_steps": 50}
    ppo: ClassVar[Mapping[str, Any]] = {
        "steps": 80, "batch_size": 512, "mini_batch_size": 128, "num_ppo_epochs": 1, "response_length": 10,
        "learning_rate": 2e-4, "lam": 1.0, "kl_coef": 0.01, "critic": "separate", "critic_learning_rate": 1e-3,
        "eval_every": 20,
    }  # fmt: skip


class SupportIntents(Intents):
    """Which of 27 intents a message to a shop's customer service has (Bitext's sample).

    Published splits, but for messages of *test* that are trained on with other numbers; every fiftieth of *train* is
    demonstrated. The messages are made of templates, so that those held out are like those that are trained on.
    """

    name = "support-intents"
    needs = "the folder of Bitext's sample customer service dataset with its CSV files (CDLA-Sharing-1.0)"
    files: ClassVar[Mapping[Split, str]] = {
        "train": "Bitext_Sample_Customer_Service_Training_Dataset.csv",
        "eval": "Bitext_Sample_Customer_Service_Testing_Dataset.csv",
    }
    columns = ("utterance", "intent")
    shown_every = 50
    new: ClassVar[Mapping[str, Any]] = {"vocabulary": 1500, "positions": 256}
    sft: ClassVar[Mapping[str, Any]] = {"epochs": 20.0, "batch_size": 16, "learning_rate": 2e-3, "warmup_steps": 20}
    ppo = BankingIntents.ppo


def _spaced(intent: str) -> str:
    return " ".join(intent.replace("_", " ").split())
