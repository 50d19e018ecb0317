"""The benchmarks that need what is not at hand run all the same, at a small size."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_that_of_an_accelerator_as_a_dry_run():
    done = subprocess.run(
        [sys.executable, "benchmarks/gpu.py", "--dry-run"],
        cwd=ROOT, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    [line] = [line for line in done.stdout.splitlines() if line.startswith("{")]
    found = json.loads(line)["tiny"]
    assert {name for rows in found["decode"].values() for name in rows} == {"kedge", "generate"}
    assert all(seconds > 0 for rows in found["decode"].values() for seconds in rows.values())
    assert {"generate", "estimate", "update", "update_mfu", "step_mfu", "plan_bytes"} <= found["ppo"].keys()
