"""Plant one bug at a time in a copy of the library and see the tests that should catch it turn red.

A test that passes whatever the code does is worse than none. Each mutant is a classic mistake of PPO code, planted by
replacing a snippet that occurs exactly once in one file; the tests named beside it must then fail (pytest's exit
code 1: failing, not crashing). The bugs themselves stand in tools/bugs/, by floor.

    python tools/mutants.py                              all of them
    python tools/mutants.py gae                          those with "gae" in their name
    python tools/mutants.py src/kedge/core/advantages.py tests/core/test_kl.py
                                                         those planted in a file, or caught by one
    python tools/mutants.py --since HEAD~3               those planted in, or caught by, what has changed since
    python tools/mutants.py --jobs 16                    sixteen at a time
    python tools/mutants.py --list

Most of a short test's time is Python importing torch and transformers. So this process imports them once, and the tests
of each mutant run in a fork of it.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bugs import MUTANTS, Mutant
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT = 300  # seconds for the tests of one mutant
PASSED, FAILED = 0, 1  # pytest's exit codes; 2 and up: it could not run the tests


def planted(mutant: Mutant, source: str) -> str:
    """The file with the bug in it. Stops if the snippet is not there exactly once."""
    count = source.count(mutant.old)
    if count != 1:
        sys.exit(
            f"mutant {mutant.name!r} no longer applies: its snippet occurs {count} times, not once, in "
            f"src/kedge/{mutant.file}:\n    {mutant.old}\nRewrite it in tools/bugs/ for the code as it is now."
        )
    return source.replace(mutant.old, mutant.new)


def concerns(mutant: Mutant, word: str) -> bool:
    """Whether ``word`` is a part of its name, the file it is planted in, or a file of tests that catch it."""
    if "/" not in word and not word.endswith(".py"):
        return word in mutant.name
    path = Path(os.path.relpath(ROOT / word, ROOT)).as_posix()
    catches = {test.partition("::")[0] for test in mutant.tests}
    return path == f"src/kedge/{mutant.file}" or any(path == at or path.startswith(f"{at}/") for at in catches)


def changed_since(revision: str) -> list[str]:
    """Files that differ from a revision, those not committed yet too."""
    listing = subprocess.run(
        ["git", "diff", "--name-only", "--relative", revision, "--"], cwd=ROOT, capture_output=True, text=True
    )
    if listing.returncode:
        sys.exit(f"--since {revision}: {listing.stderr.strip()}")
    return [file for file in listing.stdout.splitlines() if "/" in file]


def environment(copy: Path) -> dict[str, str]:
    """Of processes that import kedge from ``copy``."""
    return {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}


def run(copy: Path, *command: str) -> tuple[int, str]:
    """(exit code, output) of a Python command that imports kedge from ``copy``."""
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment(copy), capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def check_copy_is_imported(copy: Path) -> None:
    """An editable install could win over PYTHONPATH: then every mutant would survive, or none be tested."""
    code, output = run(copy, "-c", "import kedge; print(kedge.__file__)")
    imported = Path(output.strip().splitlines()[-1]) if code == 0 else None
    if imported is None or copy not in imported.resolve().parents:
        sys.exit(f"the copy in {copy} is not what Python imports, so nothing would be tested:\n{output}")


def import_what_tests_need() -> None:
    """All that is slow to import, and no mutant is planted in."""
    os.environ.update({"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"})
    import datasets  # noqa: F401
    import gymnasium  # noqa: F401
    import pytest  # noqa: F401
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM  # noqa: F401

    assert "kedge" not in sys.modules, "the copies would not be imported"


@dataclass
class Attempt:
    """The tests of a mutant, in a process of their own."""

    mutant: Mutant
    copy: Path
    process: int
    output: Path
    start: float

    @classmethod
    def begin(cls, mutant: Mutant, copy: Path) -> "Attempt":
        output = copy.parent / "output"
        process = os.fork()
        if process == 0:
            _test(mutant.tests, copy, output)
        return cls(mutant, copy, process, output, time.perf_counter())

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.start

    def ended(self) -> tuple[bool, int | None]:
        """(whether it has, pytest's exit code); None where it ran out of time."""
        process, status = os.waitpid(self.process, os.WNOHANG)
        if process:
            return True, os.waitstatus_to_exitcode(status)
        if self.seconds < TIMEOUT:
            return False, None
        os.killpg(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)
        return True, None


def _test(tests: Sequence[str], copy: Path, output: Path) -> None:
    """In the fork: pytest, and the end of it."""
    os.setpgid(0, 0)
    os.chdir(ROOT)
    os.environ.update(environment(copy))
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(copy))
    with output.open("w") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
        import pytest

        code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests])
        sys.stdout.flush()
        os._exit(code)


def attempts(mutants: Sequence[Mutant], copies: Sequence[Path]) -> Iterator[tuple[Attempt, int | None]]:
    """Each mutant in turn, planted in a copy that is free; as they end."""
    waiting, free, going = deque(mutants), list(copies), []
    while waiting or going:
        while waiting and free:
            mutant, copy = waiting.popleft(), free.pop()
            target = copy / "kedge" / mutant.file
            whole = target.read_text()
            target.write_text(planted(mutant, whole))
            going.append((Attempt.begin(mutant, copy), target, whole))
        time.sleep(0.05)
        for each in list(going):
            attempt, target, whole = each
            has_ended, code = attempt.ended()
            if has_ended:
                going.remove(each)
                target.write_text(whole)
                free.append(attempt.copy)
                yield attempt, code


def verdict(code: int | None) -> str:
    if code == FAILED:
        return "[green]killed[/]"
    if code == PASSED:
        return "[bold red]SURVIVED[/]"
    return f"[bold red]BROKE ({'timeout' if code is None else f'exit code {code}'})[/]"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wanted", metavar="NAME | FILE", nargs="*", help="a part of a name, or a source or test file")
    parser.add_argument("--since", metavar="REV", help="those whose source or tests differ from this revision")
    parser.add_argument(
        "--jobs", type=int, default=1, help="copies of the library that mutants are planted in at a time"
    )
    parser.add_argument("--list", action="store_true", help="print the mutants and stop")
    arguments = parser.parse_args()

    console = Console(width=None if sys.stdout.isatty() else 150)
    files = None if arguments.since is None else changed_since(arguments.since)
    mutants = [
        mutant
        for mutant in MUTANTS
        if (not arguments.wanted or any(concerns(mutant, word) for word in arguments.wanted))
        and (files is None or any(concerns(mutant, file) for file in files))
    ]
    if not mutants:
        if files is not None and not arguments.wanted:
            console.print(f"no mutant is planted in, or caught by, what has changed since {arguments.since}")
            return 0
        sys.exit(f"no mutant is called, planted in or caught by {' or '.join(arguments.wanted)}; --list prints them")
    if len({mutant.name for mutant in MUTANTS}) != len(MUTANTS):
        sys.exit("two mutants have the same name")
    table = Table("mutant", "the bug", title="mutants of kedge")
    if arguments.list:
        for mutant in mutants:
            table.add_row(mutant.name, mutant.bug)
        console.print(table)
        return 0

    with tempfile.TemporaryDirectory(prefix="kedge-mutants-") as folder:
        copies = [Path(folder).resolve() / str(number) / "src" for number in range(arguments.jobs)]
        for copy in copies:
            shutil.copytree(ROOT / "src", copy, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        # Every snippet is looked up before the first test runs: a stale one is known at once.
        for mutant in mutants:
            planted(mutant, (copies[0] / "kedge" / mutant.file).read_text())
        check_copy_is_imported(copies[0])
        tests = sorted({test for mutant in mutants for test in mutant.tests})
        workers = ["-n", str(arguments.jobs)] if arguments.jobs > 1 else []
        code, output = run(copies[0], "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *workers, *tests)
        if code != PASSED:
            sys.exit(f"the tests are red without a mutant (exit code {code}): red would prove nothing\n{output}")
        table.add_column("verdict")
        table.add_column("seconds", justify="right")
        import_what_tests_need()
        rows, killed = {}, 0
        for attempt, code in attempts(mutants, copies):
            killed += code == FAILED
            name = attempt.mutant.name
            console.print(f"{name}: {verdict(code)}")  # the table is minutes away
            rows[name] = (name, attempt.mutant.bug, verdict(code), f"{attempt.seconds:.1f}")
            if code not in (PASSED, FAILED):
                console.print(f"{name}:\n{attempt.output.read_text()}", markup=False)
        for mutant in mutants:
            table.add_row(*rows[mutant.name])
    console.print(table)
    console.print(f"{killed} of {len(mutants)} mutants killed", highlight=False)
    return 0 if killed == len(mutants) else 1


if __name__ == "__main__":
    sys.exit(main())
