"""What ``python -m vllm.entrypoints...`` is to kedge: a stand-in server at a port, with a child of its own.

``--begins FILE``: each start takes the first word of a file, and leaves the others: it ``sleeps`` for ever, is
``stopped``, ``says`` or ``computes`` something for a while before it serves, or serves ``at-once``.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(2, str(Path(__file__).parents[2] / "src"))  # behind this folder, and what PYTHONPATH says


def begin(file):
    first, *others = Path(file).read_text().split() if file else [None]
    if others or first not in (None, "at-once"):  # two that begin at once both find the last word
        Path(file).write_text(" ".join(others) or "at-once")
    until = time.monotonic() + 4.0
    if first == "stopped":
        os.kill(os.getpid(), signal.SIGSTOP)
    while first == "sleeps" or (first in ("says", "computes") and time.monotonic() < until):
        if first == "says":
            print("loading", flush=True)
        if first != "computes":
            time.sleep(0.1)


def main():
    given = dict(zip(sys.argv[1:], sys.argv[2:], strict=False))
    if given["--port"] == given.get("--refuse"):
        sys.exit("no such architecture")
    begin(given.get("--begins"))
    child = subprocess.Popen(["sleep", "1000"])
    print("child", child.pid, flush=True)
    import torch

    import kedge_vllm

    assert Path(kedge_vllm.__file__).parents[1].name == "plugin"
    torch.set_num_threads(1)
    from stand_in import StandIn, serving

    with serving(StandIn(given["--model"]), int(given["--port"]), given["--host"]):
        while True:
            time.sleep(1)


main()
