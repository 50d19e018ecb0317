"""What a run leaves behind while it runs: its folder, its lines of metrics and samples, its seconds by phase."""

import json
import shutil
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kedge.config.settings import flattened, read_recipe, write_recipe
from kedge.errors import ConfigError
from kedge.parallel import join
from kedge.runs.trackers import Past, Tracker, TrackerName, open_tracker, refuse_uninstalled
from kedge.storage.locking import LOCK_FILES, refuse_locked, take
from kedge.storage.writing import TRIAL, refuse_unwritable, storage, strict_json, sync, write_text

Metrics = dict[str, float]

RUN_FILES = (
    "recipe.toml", "fingerprints.json", "metrics.jsonl", "samples.jsonl", "events.jsonl", "summary.json",
    "checkpoints", "not_finite", "policy", "critic", "reward_model", "tensorboard", "wandb", "launch.log",
)  # fmt: skip
"""What a run writes, and all that overwriting it deletes."""

LINES = ("metrics.jsonl", "samples.jsonl", "events.jsonl")
"""What grows by lines."""

MAY_CHANGE = {"steps", "epochs", "eval_every", "checkpoint_every", "keep_last", "samples_per_step", "device"}
MAY_CHANGE |= {"total_timesteps", "eval_episodes", "shard"}
MAY_CHANGE |= {"micro_batch_tokens", "gradient_checkpointing", "run", "best_metric", "max_left_out", "report_to"}
"""Settings that a resumed run may be given anew."""

SOURCES = {"policy", "model", "tokenizer", "prompts", "eval_prompts", "data", "eval_data", "eval_size", "columns"}
SOURCES |= {"reward", "metrics"}
"""Settings of which it matters what they name, and not how."""

FINGERPRINTS_FILE = "fingerprints.json"


class RunFolder:
    """``runs/NAME``: recipe.toml, metrics.jsonl, samples.jsonl, summary.json, checkpoints/ and the result.

    Of several processes the first one writes.
    """

    def __init__(
        self,
        path: str | Path,
        recipe: Mapping[str, Any],
        *,
        overwrite: bool = False,
        resume: bool | None = False,
        files: Sequence[str] = RUN_FILES,
    ) -> None:
        """Check that the folder may be used. Nothing is written or deleted before :meth:`start`.

        Args:
            recipe: the resolved recipe's tables; running it repeats the run.
            resume: go on with what is there; None: this kind of run cannot.
            files: what the run writes, and all that overwriting it deletes.

        Raises:
            ConfigError: it cannot be written; it exists and neither flag was given; both were; it is not a run's
                folder; or it is to be resumed with other settings.
        """
        self.path = Path(path).expanduser()
        self.processes = join()
        self.recipe = recipe
        self.resume = bool(resume)
        self.files = files
        self._started = False
        self._fingerprints: Mapping[str, str] = {}
        self._report_to: Sequence[TrackerName] = ()
        self._trackers: list[Tracker] | None = None
        if self.processes.leads:
            refuse_unwritable(self.path)
        if overwrite and resume:
            raise ConfigError("overwrite=True and resume=True exclude each other")
        if self.path.resolve() in (Path.cwd(), *Path.cwd().parents):
            raise ConfigError(f"{self.path}: is where you work; name another folder with run=...")
        self.overwrite = overwrite
        self._can_resume = resume is not None
        self._give_back: Callable[[], object] | None = None
        self.processes.gather(self._alone)
        self._refuse_occupied()
        if self.resume and self._is_occupied():
            self._refuse_other_settings()
        self._seen = self._traces()

    def began_with(self, fingerprints: Mapping[str, str], otherwise: str = "") -> None:
        """What models, data and rewards the run is given, which :meth:`start` writes down.

        Args:
            fingerprints: by what they are of.
            otherwise: what else there is to do about other ones; nothing: to say that they are meant.

        Raises:
            ConfigError: it is to be resumed, and began with others.
        """
        self._fingerprints = fingerprints
        file = self.path / FINGERPRINTS_FILE
        if not (self.resume and file.is_file() and (self.path / "recipe.toml").is_file()):
            return
        before: dict[str, str] = json.loads(file.read_text(encoding="utf-8"))
        known = {key for key in before.keys() | fingerprints.keys() if "?" not in _either(before, fingerprints, key)}
        others = sorted(key for key in known if before.get(key) != fingerprints.get(key))
        if others:
            lines = [f"  {key}: {before.get(key, 'none')} then, {fingerprints.get(key, 'none')} now" for key in others]
            raise ConfigError(
                "\n".join([f"{self.path}: the run began with another {', '.join(others)}", *lines])
                + "\nTake the change back, or "
                + (
                    otherwise
                    or f"begin a run of another name with run=...; where it is meant, delete {file} and resume again"
                )
            )

    def settle(self, stage: str, **settings: Any) -> None:
        """Before :meth:`start`: write what was chosen for these settings of a table, in place of how to choose it."""
        self.recipe = {**self.recipe, stage: {**self.recipe[stage], **settings}}

    def start(self) -> None:
        """Make the folder and write the recipe; a run to be overwritten is deleted only now, when all else is well.

        From here on no other process may use it, until :meth:`close`. Only the first call does more than that, so that
        a loop that was left can be taken up again.

        Raises:
            ConfigError: another process uses it, or has used it since this one looked. StorageError: it cannot be made.
        """
        self.processes.wait()  # until all have looked at what is there
        self.processes.gather(self._taken)
        if self._started:
            return
        self._started = True
        if self.processes.leads:
            if not self.resume:
                # The recipe last: it says that this is a run's folder, should a kill come between.
                for name in sorted(self.files, key="recipe.toml".__eq__):
                    target = self.path / name
                    shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
            if self._fingerprints and not (self.path / FINGERPRINTS_FILE).exists():
                write_text(self.path / FINGERPRINTS_FILE, json.dumps(self._fingerprints, indent=2) + "\n")
            write_recipe(self.path / "recipe.toml", self.recipe)
        self.processes.wait()

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints go."""
        return self.path / "checkpoints"

    def report_to(self, trackers: Sequence[TrackerName]) -> None:
        """From the start on, give every line of metrics to these too.

        Raises:
            ConfigError: one of them is not installed.
        """
        refuse_uninstalled(trackers)
        self._report_to = trackers

    def write_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """One line of metrics.jsonl. All processes call it, and all of them hear of it where it cannot be written."""
        with self.processes.agreeing():
            self._write_metrics(step, metrics)

    def complete_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """More metrics of a step whose line may be there already: it stays one line. All processes call it."""
        with self.processes.agreeing():
            if self.processes.leads:
                self._complete_metrics(step, metrics)

    def _write_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        self._append("metrics.jsonl", [{"step": step, **metrics}])
        for tracker in self._open_trackers(Past(first=step)):
            tracker.log(step, metrics)

    def _complete_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        path = self.path / "metrics.jsonl"
        *lines, _ = path.read_text(encoding="utf-8").split("\n") if path.is_file() else [""]
        row = json.loads(lines.pop()) if lines else {}
        if row.get("step") != step:
            self._write_metrics(step, metrics)
            return
        whole = json.dumps(row | dict(metrics), ensure_ascii=False)
        write_text(path, "".join(f"{line}\n" for line in [*lines, whole]))
        for tracker in self._open_trackers(Past(first=step)):
            tracker.log(step, metrics)

    def write_samples(self, samples: Iterable[Mapping[str, Any]]) -> None:
        """Lines of samples.jsonl. All processes call it."""
        with self.processes.agreeing():
            self._append("samples.jsonl", samples)

    def write_event(self, step: int, **event: Any) -> None:
        """A line of events.jsonl: something that a person should know of."""
        self._append("events.jsonl", [{"step": step, **event}])

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """summary.json, the last thing that a run writes. All processes call it."""
        self.close_trackers()
        with self.processes.agreeing():
            if self.processes.leads:
                write_text(self.path / "summary.json", strict_json(summary, indent=2) + "\n")
        self.close()

    def close(self) -> None:
        """Nothing more is written, until :meth:`start` is called again: others may use the folder."""
        self.close_trackers()
        if self._give_back is not None:
            self._seen = self._traces()
            self._give_back()
            self._give_back = None

    def close_trackers(self) -> None:
        """Until :meth:`forget_after` opens them again."""
        for tracker in self._trackers or ():
            tracker.close()
        self._trackers = None

    def sync(self) -> None:
        """Until every line written so far is on the disk itself."""
        for name in LINES if self.processes.leads else ():
            if (self.path / name).is_file():
                sync(self.path / name)

    def forget_after(self, step: int, *, evaluation_too: bool = False) -> None:
        """Drop the lines of steps after ``step``: a resumed run writes them again. Trackers begin, or go on, here.

        Args:
            evaluation_too: also the evaluation at ``step`` itself, where that is done again (at the beginning, at the
                end).
        """
        past = Past(first=step if evaluation_too else step + 1)
        for name in LINES if self.processes.leads else ():
            path = self.path / name
            if path.is_file():
                # Bytes, and not splitlines, which also splits at separators that a sample may contain. After the last
                # line end is nothing, or the line that was being written when the run was killed, cut off anywhere,
                # in the midst of a character too; it is past the checkpoint.
                *whole, cut_off = path.read_bytes().split(b"\n")
                kept = [line for line in (_remembered(line.decode(), step, evaluation_too) for line in whole) if line]
                if cut_off or kept != [line.decode() for line in whole]:
                    write_text(path, "".join(f"{line}\n" for line in kept))
                if name == "metrics.jsonl":
                    past.rows.extend(map(json.loads, kept))
        self._open_trackers(past)

    def _is_occupied(self) -> bool:
        return self.path.exists() and (not self.path.is_dir() or any(map(_counts, self.path.iterdir())))

    def _refuse_occupied(self) -> None:
        if not self._is_occupied():
            return
        if not (self.overwrite or self.resume):
            going_on = "resume=True goes on from its last checkpoint, " if self._can_resume else ""
            raise ConfigError(
                f"{self.path}: exists; {going_on}overwrite=True begins anew, or name another folder with run=..."
            )
        if not (self.path / "recipe.toml").is_file():
            raise ConfigError(f"{self.path}: exists and is not a run (no recipe.toml in it); name another with run=...")

    def _alone(self) -> tuple[()]:
        if self.processes.leads:
            refuse_locked(self.path)
        return ()

    def _taken(self) -> tuple[()]:
        """Lock the folder, and look again: another process may have come in between."""
        if not self.processes.leads or self._give_back is not None:
            return ()
        with storage(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        give_back = weakref.finalize(self, take(self.path))
        try:
            if not self._started:
                self._refuse_occupied()
            if (self._started or self.resume) and self._traces() != self._seen:
                raise ConfigError(f"{self.path}: has been worked on since it was read; start again")
        except ConfigError:
            give_back()
            raise
        self._give_back = give_back
        return ()

    def _traces(self) -> list[tuple[str, int, int]]:
        """What tells a run from the same one after more work."""
        files = [self.path / "metrics.jsonl", self.path / "summary.json", *sorted(self.checkpoints.glob("step-*"))]
        return [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files if path.exists()]

    def _refuse_other_settings(self) -> None:
        before, now = flattened(read_recipe(self.path / "recipe.toml")), flattened(self.recipe)
        by_content = (self.path / FINGERPRINTS_FILE).is_file()
        for key in sorted(before.keys() | now.keys()):
            may_change = key.rpartition(".")[2] in MAY_CHANGE or ".guards." in key or ".sampler." in key
            names = key.split(".")[1:]  # without the table's, for [reward] is one
            if not SOURCES.isdisjoint(names):  # those of an older run are known by name, or not at all
                may_change = by_content or key not in before or key not in now
            if not may_change and before.get(key) != now.get(key):
                was, is_now = (f"{found[key]!r}" if key in found else "not there" for found in (before, now))
                older = "" if key in before and key in now else " (or the run is of another version of kedge)"
                raise ConfigError(
                    f"{self.path}: {key} was {was} and is {is_now} now{older}; a resumed run keeps its "
                    "settings. Take the change back, or begin a run of another name with run=..."
                )

    def _open_trackers(self, past: Past) -> list[Tracker]:
        if self._trackers is None:
            names = self._report_to if self.processes.leads else ()
            self._trackers = [open_tracker(name, self.path, self.recipe, past) for name in names]
        return self._trackers

    def _append(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        if not self.processes.leads:
            return
        with storage(self.path / name), (self.path / name).open("a", encoding="utf-8") as file:
            for row in rows:
                file.write(strict_json(row) + "\n")


def _counts(path: Path) -> bool:
    """Whether a file makes a folder somebody's: not a lock or a trial of another process, nor what a run writes before
    its recipe, should a kill or a full disk have come there."""
    broken_off = path.name.startswith(".") and path.name.endswith(".writing")
    return not broken_off and not path.name.startswith((TRIAL, FINGERPRINTS_FILE, *LOCK_FILES))


def _either(before: Mapping[str, str], now: Mapping[str, str], key: str) -> str:
    return before.get(key, "") + now.get(key, "")


def _remembered(line: str, step: int, evaluation_too: bool) -> str:
    """A line without what is done again after ``step``; nothing where that is all of it."""
    row = json.loads(line)
    if row["step"] > step or (row["step"] == step and evaluation_too and row.get("split") == "eval"):
        return ""
    if row["step"] < step or not evaluation_too or not any(key.startswith("eval/") for key in row):
        return line
    rest = {key: value for key, value in row.items() if not key.startswith("eval/")}
    return json.dumps(rest, ensure_ascii=False) if len(rest) > 1 else ""


class Timer:
    """Seconds by phase: ``with timer("generate"): ...``."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def lap(self) -> Iterator[dict[str, float]]:
        """Seconds by phase of what happens inside, filled in at its end; ``other`` is what no phase took."""
        before, start = dict(self.seconds), time.perf_counter()
        lap: dict[str, float] = {}
        yield lap
        spent = {phase: total - before.get(phase, 0.0) for phase, total in self.seconds.items()}
        lap.update({phase: seconds for phase, seconds in spent.items() if seconds > 0})
        lap["other"] = time.perf_counter() - start - sum(lap.values())

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - start


def report(run: RunFolder | None, trackers: Sequence[TrackerName], *, checkpoint_every: int) -> None:
    """Have a run's metrics go to trackers too, which write into its folder.

    Raises:
        ConfigError: there is no folder for them or for checkpoints; or a tracker is not installed.
    """
    if run is not None:
        run.report_to(trackers)
        return
    for name, value in (("report_to", trackers), ("checkpoint_every", checkpoint_every)):
        if value:
            raise ConfigError(f"{name}: not used without a run's folder, which it writes into; set run, or take it out")


@contextmanager
def close_on_error(run: RunFolder | None) -> Iterator[None]:
    """Close the run where a loop is left before its end: this process, or another one, may take it up again."""
    try:
        yield
    except BaseException:
        if run is not None:
            run.close()
        raise
