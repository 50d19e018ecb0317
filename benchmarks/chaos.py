"""A sharded job whose processes and servers are killed and stopped at random, beside the same job left in peace.

    python benchmarks/chaos.py --steps 20 --every 20 --minutes 3
    python benchmarks/chaos.py --steps 250 --minutes 20 --tc "netem delay 20ms loss 1%"
    python benchmarks/chaos.py --steps 40 --vllm .venv-vllm/bin/python --beside
    python benchmarks/chaos.py --steps 40 --ray

PPO of stories3M by two processes with ``shard = true``, launched by ``kedge launch --restarts``; two servers write its
answers: stand-ins (tests/sampling/stand_in.py) as processes, which are started again 5 seconds after they were killed
and 25 seconds after they were stopped, as Kubernetes would do it; with ``--vllm`` two real ones that kedge starts and
starts again itself, anew with each attempt of the job, or with ``--beside`` too ones that stand beside the job. Every
so many seconds a process of the job or of a server, with ``--ray`` an actor too, gets SIGKILL or SIGSTOP, and never
SIGCONT. With ``--tc`` (root) the job is in a network namespace of its own, and every fourth time the network has that
queueing discipline for some seconds instead; a kernel without netem may have ``tbf rate 50mbit burst 128kb latency
5ms``, which delays and drops too.

``--undisturbed RUN`` names the run of an undisturbed job of before, of at least as many steps. Ends with 1 where a step
is missing or there twice, where nothing was heard for longer than ``--patience``, or where the job ended badly and no
message says why.
"""

import argparse
import json
import math
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from serving_peers import end_in_order, free_port
from workload import SHARED, show

from kedge.sampling.fleet.started import Started

ROOT = Path(__file__).parents[1]
RECIPE = """
[ppo]
run = "runs/{name}"
policy = "{policy}"
prompts = "{root}/recipes/openings.jsonl"
reward = "rewards:words"
steps = {steps}
batch_size = 8
mini_batch_size = 8
num_ppo_epochs = 2
response_length = 16
learning_rate = 3e-5
lr_scheduler_type = "constant"
critic = "separate"
stop_tokens = ["<s>"]
eval_size = 4
eval_every = 0
checkpoint_every = {kept}
keep_last = 2
samples_per_step = 0
shard = true
device = "cpu"
seed = {seed}
sampler = {sampler}
"""
REWARD = """
def words(completions):
    return [len({*each.lower().split()}) / 10 for each in completions]
"""
AGAIN = {signal.SIGKILL: 5.0, signal.SIGSTOP: 25.0}
"""Seconds after which somebody starts a server again that was killed, or that hangs."""
SHAKEN = 8.0
"""Seconds for which the network is bad."""
BETWEEN = 0.1
"""Seconds between two looks."""
ERROR = "error: "
ROUNDING = 1e-6


@dataclass
class Harm:
    """Something that was done to the job, and what was heard of it."""

    at: float
    what: str
    marks: tuple[str, ...]
    """A message that has one of these is about it."""
    noticed: float | None = None
    said: str = ""
    went_on: float | None = None
    """When the first step after it was done."""

    def row(self) -> list[str]:
        """A line of the table."""
        after = [f"{when - self.at:.1f}" if when is not None else "-" for when in (self.noticed, self.went_on)]
        return [f"{self.at:.0f}", self.what, self.said[:100] or "-", *after]


@dataclass
class Server:
    """A server that stands beside the job, and is started again when it was harmed."""

    model: Path
    log: Path
    vllm: Path | None = None
    """The Python of vLLM's environment; none: a stand-in."""
    port: int = field(default_factory=free_port)
    process: "subprocess.Popen[bytes] | None" = None
    again_at: float | None = None
    there: bool = False
    """Whether it has answered since it was started."""

    def start(self) -> None:
        """Begin; it answers a few seconds later, a real one a minute later."""
        words = [sys.executable, __file__, "--stand-in", str(self.model), "--port", str(self.port)]
        environment = dict(os.environ)
        if self.vllm is not None:
            real = Started(str(self.vllm), self.log.parent, self.port, 64, True, args=["--max-model-len", "512"])
            words, environment = real.command(self.model, "float32"), real.environment()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(words, stdout=log, stderr=log, env=environment, start_new_session=True)
        self.again_at, self.there = None, False

    def wait(self) -> None:
        """Until it answers."""
        while not self.there:
            time.sleep(BETWEEN)
            self.tend()

    def tend(self) -> None:
        """Start it again, if it is time; see whether it is there."""
        if self.again_at is not None and time.monotonic() > self.again_at:
            self.end()
            self.start()
        if not self.there:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                self.there = True

    def end(self) -> None:
        """Now, with all that it has started."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def parts(self) -> Iterator[tuple[str, int]]:
        """What it consists of, and the pid of each."""
        if self.process is not None and self.there and self.again_at is None:
            yield "server", self.process.pid
            for child in psutil.Process(self.process.pid).children(recursive=True):
                if child.cmdline()[:1] and child.cmdline()[0].startswith("VLLM::Engine"):
                    yield "engine", child.pid


@dataclass(frozen=True)
class Victim:
    """A process that may be harmed."""

    what: str
    pid: int
    marks: tuple[str, ...]
    server: Server | None = None


class Job:
    """A job that runs, and all that is heard of it. Times are seconds since its start."""

    def __init__(self, folder: Path, name: str, given: argparse.Namespace, servers: list[Server]) -> None:
        sampler = {"urls": [f"http://127.0.0.1:{each.port}" for each in servers]} if servers else {
            "servers": 2, "python": str(Path(given.vllm).absolute()), "args": ["--max-model-len", "512"]}  # fmt: skip
        sampler |= {"kind": "vllm", "weights": str(folder / "weights")}
        listed = ", ".join(f"{key} = {json.dumps(value)}" for key, value in sampler.items())
        (folder / "rewards.py").write_text(REWARD)
        (folder / f"{name}.toml").write_text(
            RECIPE.format(
                name=name, policy=SHARED / "models" / given.policy, root=ROOT, steps=given.steps,
                kept=given.checkpoint_every, seed=given.seed, sampler=f"{{ {listed} }}",
            )
        )  # fmt: skip
        self.servers, self.run, self.steps = servers, folder / "runs" / name, given.steps
        self.said = folder / f"{name}.txt"
        words = [
            "launch",
            f"{name}.toml",
            "--processes",
            "2",
            "--restarts",
            str(given.restarts),
            *["--ray"] * given.ray,
        ]
        path = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")]))
        with self.said.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "kedge", *words], cwd=folder, stdout=file, stderr=subprocess.STDOUT,
                env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path},
            )  # fmt: skip
        self.begun = time.monotonic()
        self.harms: list[Harm] = []
        self.messages: list[tuple[float, str]] = []
        self.silences: list[tuple[float, float]] = []
        """How long each was, and when it ended."""
        self.step, self.done_again = 0, 0
        self._read, self._heard, self._size = 0, 0.0, -1

    @property
    def now(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self.begun

    @property
    def silence(self) -> float:
        """Seconds since anything was heard."""
        return self.now - self._heard

    def listen(self) -> None:
        """Note what there is to hear since the last time."""
        with self.said.open("rb") as file:
            file.seek(self._read)
            new = file.read()
        whole, _, _ = new.rpartition(b"\n")
        if whole:
            self._read += len(whole) + 1
            self.sign()
            for line in whole.decode(errors="replace").splitlines():
                self._message(line)
        with suppress(FileNotFoundError, ValueError, IndexError):
            text = (self.run / "metrics.jsonl").read_bytes()
            if len(text) != self._size:
                self._size = len(text)
                self._stepped(json.loads(text.splitlines()[-1])["step"])
        for server in self.servers:
            server.tend()

    def sign(self) -> None:
        """A silence has ended now."""
        self.silences.append((self.silence, self.now))
        self._heard = self.now

    def _message(self, line: str) -> None:
        self.messages.append((self.now, line))
        for harm in self.harms:
            if harm.noticed is None and any(mark in line for mark in harm.marks):
                harm.noticed, harm.said = self.now, line

    def _stepped(self, step: int) -> None:
        self.sign()
        self.done_again += max(0, self.step - step)
        if step > self.step or not step:
            for harm in self.harms:
                harm.went_on = harm.went_on if harm.went_on is not None else self.now
        self.step = step

    def victims(self) -> list[Victim]:
        """Who may be harmed now: those that are there and well."""
        found: list[Victim] = []
        for each in self.servers:
            with suppress(psutil.NoSuchProcess):
                found += [Victim(f"{what} {each.port}", pid, (f":{each.port}:",), each) for what, pid in each.parts()]
        with suppress(psutil.NoSuchProcess):
            found += filter(None, map(self._victim, psutil.Process(self.process.pid).children(recursive=True)))
        return found

    def _victim(self, process: psutil.Process) -> Victim | None:
        """What it is, if it is one of those that compute."""
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            words, pid = process.cmdline(), process.pid
            if process.status() in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE) or not words:
                return None
            if words[1:4] == ["-m", "kedge", "ppo"]:
                return Victim(f"trainer {process.environ()['RANK']}", pid, (f"(pid {pid} ",))
            if words[0].startswith("ray::Actor"):
                ranks = [each.environ().get("RANK", "?") for each in process.children()]
                marks = tuple(f"process {rank} (pid" for rank in ranks)
                return Victim(f"actor of {', '.join(ranks)}", pid, marks)
            served = process if "--served-model-name" in words else process.parent()
            front = [] if served is None else served.cmdline()
            if "--served-model-name" in front and (words[0].startswith("VLLM::Engine") or words[1:2] == ["-m"]):
                port = front[front.index("--port") + 1]
                part = "engine" if words[0].startswith("VLLM") else "front"
                return Victim(f"{part} of {port}", pid, (f":{port}:",))
        return None

    def harm(self, rng: random.Random) -> None:
        """One of them, in one way."""
        if not (victims := self.victims()):
            return
        victim, number = rng.choice(victims), rng.choice([signal.SIGKILL, signal.SIGSTOP])
        self.harms.append(Harm(self.now, f"{number.name} {victim.what}", victim.marks))
        with suppress(ProcessLookupError):
            os.kill(victim.pid, number)
        if victim.server is not None:
            victim.server.again_at = time.monotonic() + AGAIN[number]

    def end(self) -> None:
        """With all that it has started."""
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(20)
        self.process.kill()
        self.process.wait()

    def faults(self, patience: float) -> list[str]:
        """What should not have been."""
        steps = [each["step"] for each in metrics(self.run)]
        twice = len(steps) - len({*steps})
        missing = len({*range(1, max(steps, default=0) + 1)} - {*steps})
        if not self.process.returncode:
            missing += self.steps - max(steps, default=0)
        longest, when = max(self.silences)
        found = [f"{twice} steps twice"] * bool(twice) + [f"{missing} steps missing"] * bool(missing)
        found += [f"silent for {longest:.0f} s until second {when:.0f}"] * (longest > patience)
        if self.process.returncode and not any(ERROR in line for _, line in self.messages[-20:]):
            found.append(f"ended with {self.process.returncode} and no error")
        return found


def metrics(run: Path) -> list[dict[str, float]]:
    """Of each step."""
    lines = (run / "metrics.jsonl").read_text().splitlines() if (run / "metrics.jsonl").is_file() else []
    return [row for row in map(json.loads, lines) if row["step"] > 0]


@contextmanager
def shaken(discipline: list[str]) -> Iterator[None]:
    """Packets are delayed and dropped, and never for longer than this."""
    subprocess.run(["tc", "qdisc", "replace", "dev", "lo", "root", *discipline], check=True)
    try:
        yield
    finally:
        subprocess.run(["tc", "qdisc", "del", "dev", "lo", "root"], check=True)


def disturb(job: Job, given: argparse.Namespace) -> None:
    """Harm the job again and again, until it ends or the time is up; and listen until it has ended."""
    rng, turn = random.Random(given.seed), 0
    following = given.first
    with ExitStack() as network:
        calm_at: float | None = None
        while job.process.poll() is None and job.silence < 3 * given.patience:
            job.listen()
            if calm_at is not None and job.now > calm_at:
                network.close()
                calm_at = None
            if following < job.now < 60 * given.minutes:
                turn, following = turn + 1, following + given.every
                if given.tc and turn % 4 == 0:
                    network.enter_context(shaken(given.tc.split()))
                    calm_at = job.now + SHAKEN
                    job.harms.append(Harm(job.now, f"packets, for {SHAKEN:g} s", ()))
                else:
                    job.harm(rng)
                print(f"{job.now:5.0f} s, step {job.step}: {job.harms[-1].what}" if job.harms else "", flush=True)
            time.sleep(BETWEEN)
    job.listen()
    job.sign()


def leave_alone(job: Job, given: argparse.Namespace) -> None:
    """Listen until it has ended."""
    while job.process.poll() is None and job.silence < 3 * given.patience:
        job.listen()
        time.sleep(BETWEEN)
    job.listen()


def worked(folder: Path, name: str, given: argparse.Namespace, how: Callable[[Job, argparse.Namespace], None]) -> Job:
    """A job from its start to its end."""
    with ExitStack() as stack:
        model = SHARED / "models" / given.policy
        vllm = Path(given.vllm).absolute() if given.vllm else None
        logs = [] if given.vllm and not given.beside else [folder / f"{name}-server-{i}.txt" for i in range(2)]
        servers = [Server(model, log, vllm) for log in logs]
        for server in servers:
            stack.callback(server.end)
            server.start()
        for server in servers:  # a job waits for none
            server.wait()
        job = Job(folder, name, given, servers)
        stack.callback(job.end)
        how(job, given)
    return job


def stand_in(model: str, port: int) -> None:
    """Serve, until killed."""
    sys.path.insert(0, str(ROOT / "tests" / "sampling"))
    from stand_in import StandIn, serving

    with serving(StandIn(model), port):
        signal.pause()


def told(job: Job, undisturbed: list[dict[str, float]], given: argparse.Namespace) -> int:
    """Print what came of it; returns the exit status."""
    heads = ["second", "harm", "what was said", "noticed after s", "a step after s"]
    show("harms", heads, [harm.row() for harm in job.harms], {})
    seen, faults = metrics(job.run), job.faults(given.patience)
    by_step = {row["step"]: row for row in undisturbed}
    pairs = [(row, by_step[row["step"]]) for row in seen if row["step"] in by_step]
    names = ("objective/scores", "objective/kl", "policy/approxkl_avg", "loss/value_avg")
    far = {name: max((abs(one[name] - two[name]) for one, two in pairs if name in one), default=0.0) for name in names}
    last = [sum(each[side]["objective/scores"] for each in pairs[-10:]) / max(1, len(pairs[-10:])) for side in (0, 1)]
    spread = statistics.stdev(one["objective/scores"] for _, one in pairs[-10:]) if len(pairs) > 1 else math.nan
    other = [one["step"] for one, two in pairs if abs(one["objective/scores"] - two["objective/scores"]) > ROUNDING]
    longest, when = max(job.silences)
    found = {
        "steps": len(seen), "ended with": job.process.returncode, "seconds": round(job.now), "harms": len(job.harms),
        "attempts": 1 + sum("the job begins again" in line for _, line in job.messages),
        "steps done again from a checkpoint": job.done_again,
        "longest silence": f"{longest:.1f} s, until second {when:.0f}",
        "scores of the last 10 steps, undisturbed": f"{last[0]:.4f}, {last[1]:.4f}",
        "spread of a step's score there": round(spread, 4),
        "first step with another score": other[0] if other else None,
        "largest difference in any step": far, "faults": faults,
    }  # fmt: skip
    print(json.dumps(found, indent=2))
    for _, line in job.messages[-3:] if job.process.returncode else []:
        print(line)
    return 1 if faults else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", default="stories3M", help="a folder of shared/models")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--checkpoint-every", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=20, help="after so many nothing is harmed any more")
    parser.add_argument("--every", type=float, default=30, help="seconds between two harms")
    parser.add_argument("--first", type=float, default=30, help="seconds until the first one")
    parser.add_argument("--patience", type=float, default=60, help="seconds without a step or a message")
    parser.add_argument("--restarts", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tc", metavar="QDISC", default="", help='such as "netem delay 20ms loss 1%%"')
    parser.add_argument("--vllm", metavar="PYTHON", help="of vLLM's environment: real servers")
    parser.add_argument("--beside", action="store_true", help="those are started here, not by kedge")
    parser.add_argument("--ray", action="store_true")
    parser.add_argument("--folder", type=Path, help="a new one, which is kept")
    parser.add_argument("--undisturbed", type=Path, metavar="RUN", help="of before")
    parser.add_argument("--only-undisturbed", action="store_true")
    parser.add_argument("--apart", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--stand-in", metavar="MODEL", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.stand_in:
        stand_in(given.stand_in, given.port)
    if given.tc and not given.apart:  # nobody else's packets
        inside = 'ip link set lo up && exec "$@"'
        words = ["unshare", "--net", "sh", "-c", inside, "sh", sys.executable, *sys.argv, "--apart"]
        os.execvp(words[0], words)
    os.environ.setdefault("COLUMNS", "170")  # for tables in a file
    end_in_order()
    with ExitStack() as stack:
        folder = (given.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))).absolute()
        folder.mkdir(exist_ok=True)
        run = given.undisturbed or worked(folder, "undisturbed", given, leave_alone).run
        if given.only_undisturbed:
            return 0
        return told(worked(folder, "chaos", given, disturb), metrics(run), given)


if __name__ == "__main__":
    sys.exit(main())
