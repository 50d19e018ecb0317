"""What ``python -m vllm.entrypoints...`` is to kedge: a stand-in server at a port, with a child of its own."""

import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(2, str(Path(__file__).parents[2] / "src"))  # behind this folder, and what PYTHONPATH says


def main():
    given = dict(zip(sys.argv[1:], sys.argv[2:], strict=False))
    if given["--port"] == given.get("--refuse"):
        sys.exit("no such architecture")
    child = subprocess.Popen(["sleep", "1000"])
    print("child", child.pid, flush=True)
    import torch

    import kedge_vllm

    assert Path(kedge_vllm.__file__).parents[1].name == "plugin"
    torch.set_num_threads(1)
    from stand_in import StandIn, serving

    with serving(StandIn(given["--model"]), int(given["--port"])):
        while True:
            time.sleep(1)


main()
