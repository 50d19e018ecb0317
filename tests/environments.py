"""Environments of their own for what the others need not have: Ray, made at the first test that asks for it."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).parents[1]


def python_with(module, requirement):
    """A Python that has the module beside everything that this one has; kept in ``.cluster/`` for the next time.

    Args:
        module: as it is imported.
        requirement: for pip, with spaces between several, where it is not there.
    """
    if subprocess.run([sys.executable, "-c", f"import {module}"], capture_output=True, check=False).returncode == 0:
        return sys.executable
    folder = Path(os.environ.get("KEDGE_CLUSTER", ROOT / ".cluster")) / module
    python = folder / "bin/python"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if not (folder / "ready").exists():
            subprocess.run([sys._base_executable, "-m", "venv", "--clear", folder], check=True)
            [own] = folder.glob("lib/python*/site-packages")
            (own / "shared.pth").write_text(f"{sysconfig.get_paths()['purelib']}\n")
            done = subprocess.run(
                [python, "-m", "pip", "install", "-q", *requirement.split()],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                pytest.skip(f"{requirement} cannot be installed: {done.stderr.strip().splitlines()[-1:]}")
            (folder / "ready").touch()
    return python
