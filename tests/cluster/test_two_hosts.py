"""A job over two hosts, by torchrun and by Ray: the step that one process computes, over a bad cable too, and no hang
where the cable is cut."""

import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import hosts
import pytest

for _each in ("launch", "sampling"):
    sys.path.append(str(Path(__file__).parents[1] / _each))

import worlds  # noqa: E402
from exchanges import MODEL  # noqa: E402

from environments import python_with  # noqa: E402
from kedge.sampling.fleet import started  # noqa: E402

pytestmark = pytest.mark.cluster
STEPS = 4


@pytest.fixture(scope="session")
def ray_python():
    return python_with("ray", "ray>=2.40")


@pytest.fixture
def world(tiny_lm, tmp_path):
    return lambda steps=STEPS, **model: worlds.make(tmp_path.resolve(), tiny_lm("llama", **model), steps)


@contextmanager
def running(folder, *commands):
    """Processes, by the command of each, and the files that have what they say."""
    path = os.pathsep.join(filter(None, [str(worlds.ROOT / "src"), os.environ.get("PYTHONPATH")]))
    environment = os.environ | hosts.RAY | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    begun, files = [], []
    try:
        for number, command in enumerate(commands):
            files.append(folder / f"said-{number}.txt")
            with files[-1].open("wb") as file:
                begun.append(
                    subprocess.Popen(command, cwd=folder, env=environment, stdout=file, stderr=subprocess.STDOUT)
                )
        yield begun, files
    finally:
        for each in begun:
            each.kill()
            each.wait()


def ended(folder, *commands, within=150):
    """The exit status of each, and what it said."""
    until = time.monotonic() + within
    with running(folder, *commands) as (begun, files):
        try:
            statuses = [each.wait(until - time.monotonic()) for each in begun]
        except subprocess.TimeoutExpired:
            raise AssertionError("hangs:\n" + "\n".join(file.read_text() for file in files)) from None
    return statuses, [file.read_text(errors="replace") for file in files]


def alone(folder, *words):
    statuses, said = ended(folder, [sys.executable, "-m", "kedge", "ppo", "r.toml", "ppo.run=runs/alone", *words])
    assert statuses == [0], said


def assert_alike(lines, folder, *names):
    first, *others = (lines(folder / "runs" / name, "metrics.jsonl") for name in names)
    assert len(first) == STEPS + 1
    for other in others:
        for one, two in zip(first, other, strict=True):
            assert two == pytest.approx(one, abs=1e-4, rel=1e-3, nan_ok=True)


@pytest.mark.parametrize(
    ("delay", "loss", "elastic"), [(0.0, 0.0, False), (0.0, 0.0, True), (0.02, 0.01, False)],
    ids=["cable", "c10d", "bad cable"],
)  # fmt: skip
def test_torchrun(world, lines, delay, loss, elastic):
    folder = world()
    alone(folder)
    with hosts.two_hosts(delay, loss) as both:
        words = ["ppo", "r.toml", "ppo.shard=true", "ppo.run=runs/both"]
        statuses, said = ended(folder, *(each.torchrun(both[0], *words, elastic=elastic) for each in both))
    assert statuses == [0, 0], said
    assert_alike(lines, folder, "alone", "both")


def assert_ends_when_cut(folder, host, *commands):
    """What each says, which ends within a minute."""
    with running(folder, *commands) as (begun, files):
        worlds.wait_for_steps(begun[0], folder / "runs/both", 2)
        host.unplug()
        until = time.monotonic() + 60
        for each in begun:
            assert each.wait(until - time.monotonic())
        print(f"ended {60 - until + time.monotonic():.1f} s after the cut")
        return [file.read_text(errors="replace") for file in files]


def test_a_cable_that_is_cut_under_torchrun(world):
    folder = world(4000)
    with hosts.two_hosts() as (a, b):
        words = ["ppo", "r.toml", "ppo.shard=true", "ppo.run=runs/both"]
        first, second = assert_ends_when_cut(folder, a, *(each.torchrun(a, *words) for each in (a, b)))
    assert "process 1 (pid " in first
    assert " on host-b): no sign of life for 30 s" in first
    assert f"nobody at {a.name}:29400 has answered for 30 s" in second


def test_ray(world, lines, ray_python):
    folder = world()
    alone(folder)
    with hosts.two_hosts() as (a, b):
        for each in (a, b):
            each.ray(ray_python, a)
        words = ["launch", "r.toml", "--nodes", "2", "--address", f"{a.address}:6379", "ppo.run=runs/both"]
        statuses, said = ended(folder, a.words(ray_python, "-m", "kedge", *words, "ppo.shard=true"))
    assert statuses == [0], said
    assert_alike(lines, folder, "alone", "both")


def test_a_cable_that_is_cut_under_ray(world, ray_python):
    folder = world(4000)
    with hosts.two_hosts() as (a, b):
        for each in (a, b):
            each.ray(ray_python, a)
        words = ["launch", "r.toml", "--nodes", "2", "--address", f"{a.address}:6379", "ppo.run=runs/both"]
        [said] = assert_ends_when_cut(folder, a, a.words(ray_python, "-m", "kedge", *words))
    assert "its actor has not answered for 20 s" in said


@contextmanager
def vllm(python, folder, host):
    """The URL of a server there, which can be asked from the hosts alone."""
    port = 8101
    log = folder / "server.txt"
    environment = os.environ | {
        "PYTHONPATH": str(worlds.ROOT / "src"), "VLLM_SERVER_DEV_MODE": "1", "VLLM_CPU_NUM_OF_RESERVED_CPU": "1",
        "VLLM_NO_USAGE_STATS": "1", "VLLM_HOST_IP": host.address,
    }  # fmt: skip
    words = [
        python, "-m", started.MODULE, "--model", folder / "model", "--served-model-name", "policy",
        "--host", host.address, "--port", port, "--dtype", "float32", "--max-model-len", 128, "--max-num-seqs", 72,
        "--logprobs-mode", "processed_logprobs", "--enable-scale-out",
        "--worker-extension-cls", "kedge_vllm.FromFolder", *started.ON_CPU,
    ]  # fmt: skip
    with log.open("wb") as file:
        server = subprocess.Popen(host.words(*words), cwd=folder, env=environment, stdout=file, stderr=file)
    ask = "import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=5)"
    url, until = f"http://{host.address}:{port}", time.monotonic() + 180
    try:
        while subprocess.run(
            host.words(sys.executable, "-c", ask, f"{url}/health"), capture_output=True, check=False
        ).returncode:
            assert server.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < until
            time.sleep(1)
        yield url
    finally:
        server.kill()
        server.wait()


def test_trainers_here_and_the_sampler_there(world, lines, vllm_python, ray_python):
    """One trainer; one on each host by torchrun; the same on Ray: all with answers of a server on the second host."""
    folder = world(**MODEL)
    with hosts.two_hosts() as (a, b), vllm(vllm_python, folder, b) as url:
        sampler = f'ppo.sampler={{ kind = "vllm", urls = ["{url}"], weights = "{folder}/weights" }}'
        words = ["r.toml", sampler, "ppo.shard=true"]
        statuses, said = ended(folder, a.words(sys.executable, "-m", "kedge", "ppo", *words, "ppo.run=runs/one"))
        assert statuses == [0], said
        torchrun = [each.torchrun(a, "ppo", *words, "ppo.run=runs/torchrun") for each in (a, b)]
        statuses, said = ended(folder, *torchrun)
        assert statuses == [0, 0], said
        for each in (a, b):
            each.ray(ray_python, a)
        on_ray = ["--nodes", "2", "--address", f"{a.address}:6379", "ppo.run=runs/ray"]
        statuses, said = ended(folder, a.words(ray_python, "-m", "kedge", "launch", *words, *on_ray))
        assert statuses == [0], said
        words = ["ppo", *words, "ppo.steps=4000", "ppo.run=runs/both"]
        [said] = assert_ends_when_cut(folder, a, a.words(sys.executable, "-m", "kedge", *words))
        assert f"{url}: " in said
    assert all(row["sampler/agreement"] < 1e-4 for row in lines(folder / "runs/ray", "metrics.jsonl") if row["step"])
    assert_alike(lines, folder, "one", "torchrun", "ray")
