"""Dialogues to be summed up in a sentence or two (DialogSum)."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

from kedge.data.records import Text
from kedge.tasks.files import FolderTask
from kedge.tasks.task import Row, Split


class Summaries(FolderTask):
    """Sum up a dialogue in a sentence or two (DialogSum, Chen et al. 2021).

    The published dev set is trained on, the test set with its three references is held out, but for dialogues that
    begin alike; of each dialogue the first words only. 500 are few for a small model from nothing; ``--model`` begins
    with a better one. The reward is ROUGE-1 and ROUGE-L, the baseline the first sentences.
    """

    name = "summaries"
    primary_metric = "rougeL"
    needs = "the folder of DialogSum with dialogsum.dev.jsonl and dialogsum.test.jsonl (CC-BY-NC-SA-4.0)"
    reward = ({"kind": "rouge", "measure": "rouge1", "name": "rouge1"}, {"kind": "rouge", "name": "rougeL"})
    metrics = (*reward, {"kind": "rouge", "measure": "rouge2", "name": "rouge2"})
    new: ClassVar[Mapping[str, Any]] = {"vocabulary": 3000, "positions": 256}
    sft: ClassVar[Mapping[str, Any]] = {"epochs": 8.0, "batch_size": 16, "learning_rate": 2e-3, "warmup_steps": 50}
    ppo: ClassVar[Mapping[str, Any]] = {
        "steps": 40, "batch_size": 64, "mini_batch_size": 64, "num_ppo_epochs": 2, "response_length": 48,
        "learning_rate": 4e-4, "kl_coef": 0.01, "critic": "separate", "critic_learning_rate": 1e-3,
    }  # fmt: skip

    words: ClassVar[int] = 80
    """Of a dialogue, that the policy reads."""

    def rows(self, split: Split) -> Iterable[Row]:
        read = {self.prompt(row) for row in self.rows("train")} if split == "eval" else set()
        for row in self._rows("dialogsum.dev.jsonl" if split == "train" else "dialogsum.test.jsonl"):
            if self.prompt(row) not in read:
                yield row

    def _rows(self, name: str) -> Iterator[Row]:
        for number, line in enumerate(self.lines(name), start=1):
            try:
                row = json.loads(line)
            except ValueError as error:
                raise self.refused(name, number, f"is not DialogSum's: no JSON: {error}") from None
            keys = ("summary", "summary1", "summary2", "summary3")
            texts = {key: row[key] for key in ("dialogue", *keys) if key in row} if isinstance(row, dict) else {}
            if "dialogue" not in texts or len(texts) < 2:
                what = "is not DialogSum's: no 'dialogue', or no 'summary' nor 'summary1' to 'summary3'"
                raise self.refused(name, number, what)
            if wrong := [key for key, text in texts.items() if not isinstance(text, str) or not text.strip()]:
                raise self.refused(name, number, f"{wrong[0]!r} is no text: {texts[wrong[0]]!r}")
            yield {"dialogue": texts.pop("dialogue"), "reference": [*texts.values()]}

    def prompt(self, row: Row) -> Text:
        return " ".join(row["dialogue"].split()[: self.words]) + "\n=>"

    def demonstration(self, row: Row) -> str:
        return f" {row['reference'][0]}"

    def baseline(self, row: Row) -> str:
        return " " + " ".join(row["dialogue"].splitlines()[:2])
