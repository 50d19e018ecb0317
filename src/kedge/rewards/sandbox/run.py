"""One sample judged by its tests, in processes of its own."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kedge.errors import RewardError
from kedge.rewards.sandbox.warden import OUT_OF_TIME

WARDEN = Path(__file__).with_name("warden.py")


@dataclass(frozen=True)
class Job:
    """What is to be tested, and within which limits."""

    code: str
    tests: Sequence[str]
    prefix: str = ""
    """What of the code is the data's own; names in it, but for ``entry``, are the tests' to use."""
    setup: Sequence[str] = ()
    entry: str | None = None
    """The function that the tests' ``check`` is called with."""
    share: bool = False
    """Go on after a test that fails."""
    seconds: float = 10.0
    memory: int = 512 * 2**20
    """Bytes of address space of each process."""
    packages: bool = False
    """Whether installed packages can be imported, besides the standard library."""
    apart: bool = True
    """In namespaces, where there are some."""


@dataclass(frozen=True)
class Verdict:
    """What came of it."""

    passed: int
    total: int
    said: str
    """The first failure in words."""
    walled: bool = True
    """Whether the kernel held it, by namespaces; else an audit hook did."""


def run(job: Job) -> Verdict:
    """Run the code, and its tests on it.

    Raises:
        RewardError: the tests themselves cannot be read, or the processes not be started.
    """
    with tempfile.TemporaryDirectory(prefix="kedge-", ignore_cleanup_errors=True) as folder:
        os.chmod(folder, 0o777)  # the code runs as another user where it can
        told, status = _told(job, folder)
    if not told:
        if status not in (0, OUT_OF_TIME):
            raise RewardError(f"the process that tests code ended with status {status}")
        late = status == OUT_OF_TIME
        return Verdict(0, 1, f"took more than {job.seconds:g} seconds" if late else "its tests ended without a verdict")
    if "broken" in told:
        raise RewardError(str(told["broken"]))
    return Verdict(told["passed"], told["total"], told["said"], told["walled"])


def _told(job: Job, folder: str) -> tuple[dict[str, Any], int]:
    held, lifeline = os.pipe()
    flags = ["-P", "-s", "-B", *([] if job.packages else ["-S"])]
    process = subprocess.Popen(
        [sys.executable, *flags, str(WARDEN), str(job.seconds), str(job.memory), str(held), str(int(job.apart))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        pass_fds=(held,),
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0", **_ONE_THREAD},
        start_new_session=True,
    )
    os.close(held)
    wanted = {name: getattr(job, name) for name in ("code", "prefix", "entry", "share", "seconds", "memory")}
    wanted |= {"tests": [*job.tests], "setup": [*job.setup]}
    try:
        out, _ = process.communicate(json.dumps(wanted).encode())
    finally:
        os.close(lifeline)  # the warden kills what is left, and ends
        process.wait()
    return json.loads(out) if out else {}, process.returncode


_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
