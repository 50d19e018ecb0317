"""What trackers wrote, read back: ``{(step, name): number}``."""

import json
import struct

import pytest


def from_tensorboard(run):
    """``{(step, name): value}``; a number that stands there twice is an error."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    return once((event.step, name, event.value) for name in events.Tags()["scalars"] for event in events.Scalars(name))


def from_wandb(run):
    """The same, from all files of a run that was never online."""
    histories = [record.history for record in wandb_records(run) if record.WhichOneof("record_type") == "history"]
    numbers = [
        (history.step.num, item.key or "/".join(item.nested_key), json.loads(item.value_json))
        for history in histories
        for item in history.item
    ]
    return once(number for number in numbers if not number[1].startswith("_"))


def wandb_records(run):
    """All records of the run's files, which are LevelDB logs behind a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    for path in sorted((run / "wandb").glob("offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns):
        data, at, record = path.read_bytes(), 7, b""
        while at < len(data):
            if (rest := 32768 - at % 32768) < 7:
                at += rest
                continue
            _, size, kind = struct.unpack("<IHB", data[at : at + 7])
            record += data[at + 7 : at + 7 + size]
            at += 7 + size
            if kind in (1, 4):  # whole, or the last part
                yield Record.FromString(record)
                record = b""


def from_lines(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return once((row["step"], name, value) for row in rows for name, value in row.items() if name != "step")


def once(numbers):
    found = {}
    for step, name, value in numbers:
        assert (step, name) not in found
        found[step, name] = pytest.approx(value, rel=1e-6)  # TensorBoard has float32
    return found


READ = {"tensorboard": from_tensorboard, "wandb": from_wandb}
