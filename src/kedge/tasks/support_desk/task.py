"""The support desk as a task: the shape that all tasks have."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from kedge.data.files import read_rows
from kedge.data.records import Text, plain
from kedge.tasks.support_desk.phrases import PRODUCTS
from kedge.tasks.support_desk.world import DeskFiles, write_support_desk
from kedge.tasks.task import Row, Split, Task

CANNED = "I am sorry about your {product}. Our team will look into it within two days. Thank you for your patience."


class SupportDesk(Task):
    """Customers' messages to a shop, to be answered; offline, and made by a generator.

    There is no reward but people's preferences, labelled by a noisy judge; ``gold`` is what people would say, and
    neither the reward model nor PPO ever sees it. Demonstrations are replies of very mixed quality.

    Args:
        folder: where its files are, or are written when they are first read.
        seed: of all that is drawn.
    """

    name = "support-desk"
    primary_metric = "gold"
    metrics = "kedge.tasks.support_desk:gold"
    new: ClassVar[Mapping[str, Any]] = {"positions": 256}
    sft: ClassVar[Mapping[str, Any]] = {"epochs": 2.0, "batch_size": 16, "learning_rate": 4e-3, "warmup_steps": 50}
    reward_modeling: ClassVar[Mapping[str, Any]] = {
        "epochs": 1.0, "batch_size": 32, "learning_rate": 1e-3, "warmup_steps": 25, "micro_batch_tokens": 4096,
    }  # fmt: skip
    ppo: ClassVar[Mapping[str, Any]] = {
        "steps": 50, "batch_size": 64, "mini_batch_size": 32, "num_ppo_epochs": 2, "response_length": 60,
        "learning_rate": 5e-4, "kl_coef": 0.05, "critic": "separate", "critic_init": "reward", "eval_every": 10,
    }  # fmt: skip

    def __init__(self, folder: str | Path = "runs/desk/data", *, seed: int = 0) -> None:
        self.folder, self.seed = Path(folder).expanduser(), seed

    @property
    def files(self) -> DeskFiles:
        """The files, which are written where they are not there."""
        there = DeskFiles.of(self.folder)
        return there if there.prompts.is_file() else write_support_desk(self.folder, seed=self.seed)

    def rows(self, split: Split) -> Iterable[Row]:
        return [row.columns for row in read_rows(self._file("prompts", split))]

    def prompt(self, row: Row) -> Text:
        prompt: Text = row["prompt"]
        return prompt

    def baseline(self, row: Row) -> str:
        """One polite reply to everything, which names the product that the message names."""
        asked = plain(self.prompt(row)).lower()
        return CANNED.format(product=next((product for product in PRODUCTS if product in asked), "order"))

    def demonstrations(self, split: Split = "train") -> list[dict[str, object]]:
        self.refuse_unknown(split)
        return [dict(row.columns) for row in read_rows(self.files.demonstrations)] if split == "train" else []

    def preferences(self, split: Split) -> list[Row]:
        return [row.columns for row in read_rows(self._file("preferences", split))]

    def _file(self, name: str, split: Split) -> Path:
        self.refuse_unknown(split)
        path: Path = getattr(self.files, name if split == "train" else f"{name}_heldout")
        return path
