"""A small job for several processes, and what to do to one of them while it runs."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
RECIPE = """
[ppo]
policy = "model"
prompts = "prompts.jsonl"
reward = "rewards:length"
steps = {steps}
batch_size = 6
mini_batch_size = 3
response_length = 7
micro_batch_tokens = 40
learning_rate = 1e-3
eval_size = 2
eval_every = 0
checkpoint_every = 2
device = "cpu"
"""


def make(folder, lm, steps):
    """A model, prompts, a reward that takes its time, and a recipe."""
    lm.save(folder / "model")
    rows = [{"prompt": "the cat " * (i % 4 + 1) + str(i)} for i in range(16)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "rewards.py").write_text(
        "import time\n"
        "def length(prompts, completions, completion_ids):\n"
        "    time.sleep(0.05)\n"
        "    return [len(ids) + len(set(ids)) / 9 for ids in completion_ids]\n"
    )
    (folder / "r.toml").write_text(RECIPE.format(steps=steps))
    return folder


def started(folder, *words, python=sys.executable, environment=()):
    """``kedge WORDS`` in the folder; what it says goes to ``said.txt``."""
    path = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")]))
    whole = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path} | dict(environment)
    whole.pop("RAY_ADDRESS", None)
    with (folder / "said.txt").open("wb") as file:
        return subprocess.Popen(
            [str(python), "-m", "kedge", *words], cwd=folder, env=whole, stdout=file, stderr=subprocess.STDOUT
        )


def ended(process, folder, within):
    """Its exit status and what it said; it must not take longer."""
    try:
        status = process.wait(within)
    except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError(f"hangs:\n{said(folder)}") from None
    return status, said(folder)


def said(folder):
    return (folder / "said.txt").read_text(encoding="utf-8", errors="replace")


def wait_for_steps(process, run, steps, within=90):
    """Until so many steps are done."""
    until = time.monotonic() + within
    while time.monotonic() < until and process.poll() is None:
        metrics = run / "metrics.jsonl"
        if metrics.is_file() and len(metrics.read_text().splitlines()) > steps:
            return
        time.sleep(0.05)
    raise AssertionError(f"not come to step {steps}:\n{said(run.parents[1])}")


def trainer(folder, rank):
    """The process of this rank that trains in the folder."""
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
            mine = process.cwd() == str(folder) and "kedge" in words and "ppo" in words
            if mine and "launch" not in words and process.environ().get("RANK") == str(rank):
                return process
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    raise AssertionError(f"no process of rank {rank} in {folder}")


def left(folder):
    """Processes that still train in the folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd() == str(folder) and "kedge" in process.cmdline():
                found.append(process.pid)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found
