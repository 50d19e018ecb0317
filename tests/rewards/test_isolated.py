"""Reward functions in worker processes: whatever one sample does, the others keep their scores and the run goes on."""

import gc
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import unruly

from kedge.data.records import Prompt
from kedge.errors import ConfigError, RewardError
from kedge.parallel import ALONE, Processes
from kedge.rewards.build import build_reward
from kedge.rewards.foreign import TrainerState
from kedge.rewards.function import FunctionReward
from kedge.rewards.scores import judge
from kedge.sampling.completion import Completion

DEEDS = {
    "sleep": ("timeouts", r"took more than time_limit=0.6 seconds"),
    "regex": ("timeouts", r"took more than time_limit=0.6 seconds"),
    "helper": ("timeouts", r"took more than time_limit=0.6 seconds"),
    "raise": ("errors", r"raised IndexError: list index out of range \(.*unruly.py, line \d+\)"),
    "leave": ("errors", r"raised SystemExit: tired"),
    "nan": ("errors", r"gave nan, which is not a finite number"),
    "two": ("errors", r"returned 2 scores for 1 completions"),
    "nothing": ("errors", r"returned None; it must return a list of 1 scores"),
    "lambda": ("errors", r"raised .*[Pp]ickle"),
    "riddle": ("errors", r"raised AttributeError: 'str' object has no attribute 'no_such_thing'"),
    "exit": ("deaths", r"ended its worker process \(exit status 3\)"),
    "kill": ("deaths", r"ended its worker process \(killed by SIGKILL\)"),
}


def samples(*answers):
    prompts = [Prompt(f"ask {i}", {}, f"f.jsonl: row {i + 1}") for i in range(len(answers))]
    return prompts, [Completion([5], [7, 8], [0.0, 0.0], answer, "eos") for answer in answers]


def spec(function="unruly:misbehaves", **settings):
    return {"function": function, "workers": 2, "time_limit": 0.6} | settings


@pytest.fixture(scope="module")
def lenient():
    """One pool for all that goes wrong."""
    return build_reward(spec(default=-1.5))


def alive(pid):
    """Whether the process runs; one that has ended and waits to be looked at does not."""
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def soon(condition):
    """Whether it comes true."""
    for _ in range(600):  # half a minute: on a busy machine a process takes its time
        if condition():
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("deed", DEEDS)
def test_a_sample_that_fails_gets_the_default_and_is_counted(lenient, deed):
    reason, said = DEEDS[deed]
    scores = lenient(*samples("fine", deed, "fine", "fine"))
    assert scores.total == [2.0, -1.5, 2.0, 2.0]
    assert scores.components == {"misbehaves": [2.0, -1.5, 2.0, 2.0]}
    counts = {"timeouts": 0, "errors": 0, "deaths": 0}
    assert scores.failure_counts() == {"misbehaves": counts | {reason: 1}}
    [failure] = scores.failures["misbehaves"]
    with pytest.raises(RewardError, match=said):
        raise RewardError(failure.said)
    assert "f.jsonl: row 2" in failure.said
    assert lenient(*samples(*["fine"] * 5)).total == [2.0] * 5  # and the pool is as good as new


@pytest.mark.parametrize("deed", ["sleep", "raise", "nan", "nothing", "exit"])
def test_without_a_default_the_run_stops_and_names_the_sample(deed):
    reward = build_reward(spec(name="politeness"))
    with pytest.raises(RewardError, match=DEEDS[deed][1]) as error:
        reward(*samples("fine", "fine", deed))
    for word in ("'politeness'", "f.jsonl: row 3", "'ask 2'", repr(deed)):
        assert word in str(error.value)
    assert "row 1" not in str(error.value)
    if deed not in ("nan", "nothing"):
        assert "default=" in str(error.value)
    assert reward(*samples("fine", "fine")).total == [2.0, 2.0]


def test_many_failures_among_many_samples(lenient):
    answers = ["kill" if i % 7 == 3 else "raise" if i % 5 == 0 else "fine" for i in range(40)]
    scores = lenient(*samples(*answers))
    assert scores.total == [2.0 if answer == "fine" else -1.5 for answer in answers]
    assert (answers.count("kill"), answers.count("raise")) == (6, 7)
    assert scores.failure_counts() == {"misbehaves": {"timeouts": 0, "errors": 7, "deaths": 6}}


def test_the_wait_for_a_worker_does_not_count():
    reward = build_reward(spec("unruly:naps", workers=1, time_limit=1.0, default=-1.0))
    assert reward(*samples(*["0.3"] * 4)).total == [0.3] * 4


CHAT = [{"role": "user", "content": "hello"}]


@pytest.mark.parametrize("ask", ["ask", CHAT], ids=["text", "chat"])
def test_the_scores_are_those_of_the_function_called_in_this_process(ask):
    prompts = [
        Prompt(ask, {"level": 1, "answer": "a"}),
        Prompt(ask, {"answer": "bc"}),
        Prompt(ask, {"level": 3}),
        Prompt(ask),
        Prompt(ask, {"level": 2}),
    ]
    texts = ["one", "tokens", "none", "three", "four"]
    answers = [Completion([5], list(range(n + 1)), [0.0] * (n + 1), text, "eos") for n, text in enumerate(texts)]
    there, here = (
        build_reward([function, unruly.process_id])(prompts, answers)
        for function in (spec("unruly:by_sample"), unruly.by_sample)
    )
    assert repr(there.components["by_sample"]) == repr(here.components["by_sample"])  # as text: NaN is itself
    assert there.per_token == here.per_token
    assert there.per_token[1] == [0.0, 1.0]
    assert there.total == here.total
    assert there.sums()[0] - os.getpid() == len(ask if ask == "ask" else "hello") + 30 + 100 + 1000


def test_a_coroutine_function_in_workers():
    reward = build_reward(spec("unruly:ponders", default=-1.0))
    assert reward(*samples("a", "sleep", "abc"), TrainerState(global_step=2)).total == [21.0, -1.0, 23.0]


def test_workers_do_not_import_torch():
    assert build_reward(spec("unruly:loaded_modules"))(*samples("a", "b")).total == [0.0, 0.0]


def test_functions_that_are_not_names():
    assert build_reward(spec(unruly.Judge(4.0)))(*samples("a", "b")).total == [4.0, 4.0]
    assert build_reward(spec(unruly.misbehaves))(*samples("a", "b")).total == [2.0, 2.0]


def test_what_cannot_be_sent_is_refused_at_once():
    points = 3.0
    for function in (lambda prompts, completions: [points], lambda prompts, completions: [1.0]):
        with pytest.raises(ConfigError, match=r"cannot be sent to a worker: .*function='module:name'"):
            build_reward(spec(function))


def test_what_a_worker_cannot_load_is_refused_at_once(tmp_path, monkeypatch):
    (tmp_path / "kedge_loads_once.py").write_text(
        "import os\n"
        "if os.environ.get('KEDGE_LOADED'): raise OSError('only once')\nos.environ['KEDGE_LOADED'] = '1'\n"
        "def judge(prompts, completions): return [1.0] * len(prompts)\n"
    )
    monkeypatch.delenv("KEDGE_LOADED", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"'judge': a worker cannot load it: OSError: only once \(.*_once.py, line 2"):
        build_reward(spec("kedge_loads_once:judge"))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"function": "a:b", "time_limit": 1.0}, "time_limit: not used with workers=none; set workers, or take"),
        ({"function": "a:b", "default": 0.0}, "default: not used with workers=none"),
        ({"model": "a", "workers": 2}, "workers: not used with function=none"),
        ({"function": "a:b", "workers": 0}, "workers: .* greater than or equal to 1"),
        ({"function": "a:b", "workers": 1, "time_limit": 0}, "time_limit: .* greater than 0"),
        ({"function": "a:b", "workers": 1, "default": float("nan")}, "default: .* finite"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, said):
    with pytest.raises(ConfigError, match=said):
        build_reward(settings)


def test_a_worker_killed_from_outside_between_two_steps_is_replaced():
    reward = build_reward(spec("unruly:process_id"))
    before = {int(pid) for pid in reward(*samples(*"abcdefgh")).total}
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    assert soon(lambda: not any(map(alive, before)))
    after = {int(pid) for pid in reward(*samples(*"abcdefgh")).total}
    assert after
    assert not after & before


def test_a_worker_killed_while_it_starts_is_replaced(tmp_path, monkeypatch):
    (tmp_path / "starts.py").write_text(
        "import os, pathlib, signal, time\n"
        "starts = pathlib.Path(__file__).with_name('starts.txt')\n"
        "with starts.open('a') as file: file.write('x')\n"
        "if len(starts.read_text()) == 4: os.kill(os.getpid(), signal.SIGKILL)\n"  # after the run and two workers
        "def f(prompts, completions):\n"
        "    if completions == ['exit']: os._exit(3)\n"
        "    time.sleep(0.3)\n"
        "    return [2.0]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    scores = build_reward(spec("starts:f", default=-1.5, time_limit=9))(*samples("exit", *"abcd"))
    assert scores.total == [-1.5, 2.0, 2.0, 2.0, 2.0]
    assert len((tmp_path / "starts.txt").read_text()) == 5


def test_what_a_worker_prints_is_not_the_commands_output(capfd, tmp_path, monkeypatch):
    (tmp_path / "chatty.py").write_text("def f(prompts, completions): print('here'); return [1.0]\n")
    monkeypatch.syspath_prepend(tmp_path)
    reward = build_reward(spec("chatty:f", time_limit=9))
    assert reward(*samples("a")).total == [1.0]
    del reward
    gc.collect()
    assert capfd.readouterr().out == ""


def test_workers_end_with_the_reward():
    reward = build_reward(spec("unruly:process_id"))
    workers = [worker.process.pid for worker in reward.parts[0][1].pool._workers]
    assert len(workers) == 2
    assert all(map(alive, workers))
    del reward
    gc.collect()
    assert not any(map(alive, workers))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_a_function_started_ends_with_its_time(lenient):
    before = children("sleep")
    lenient(*samples("helper", "helper"))
    assert soon(lambda: children("sleep") <= before)


def children(name):
    """Ids of the running processes of that name."""
    found = set()
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if (path / "comm").read_text().strip() == name and alive(path.name):
                found.add(int(path.name))
        except FileNotFoundError:
            pass
    return found


SCRIPT = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # where the tests run in the background it is ignored
from kedge.rewards.pool import WorkerPool
pool = WorkerPool("unruly:misbehaves", 3, None, who="it")
print(*(worker.process.pid for worker in pool._workers), flush=True)
deeds = sys.argv[1:]
for reply in pool.run([{"prompts": ["a"], "completions": [deed]} for deed in deeds]):
    pass
print("done", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def started():
    """``started(deed, ...)``: a process with three workers, each at one of the deeds or idle, and the workers' ids."""
    everybody = []

    def start(*deeds):
        path = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, *deeds],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": path},
            start_new_session=True,
        )
        workers = [int(pid) for pid in process.stdout.readline().split()]
        everybody.extend([process.pid, *workers])
        return process, workers

    yield start
    for pid in filter(alive, everybody):  # a test that fails leaves nothing running
        os.killpg(pid, signal.SIGKILL)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_no_worker_outlives_the_run(started, signum):
    before = children("sleep")
    process, workers = started("sleep", "regex", "helper")
    assert soon(lambda: children("sleep") > before)
    assert all(map(alive, workers))
    process.send_signal(signum)
    process.wait()
    assert soon(lambda: not any(map(alive, workers)))
    assert soon(lambda: children("sleep") <= before)


def test_ctrl_c_is_the_runs_own_matter(started):
    process, workers = started("sleep")
    os.killpg(process.pid, signal.SIGINT)  # as the terminal does: to every process of the session
    _, err = process.communicate(timeout=30)
    assert err.count("Traceback") == 1
    assert err.strip().endswith("KeyboardInterrupt")
    assert "worker.py" not in err
    assert soon(lambda: not any(map(alive, workers)))


class Pair(Processes):
    """Two processes, played by one."""

    def gather(self, compute):
        parts = []
        for rank in (0, 1):
            object.__setattr__(self, "rank", rank)
            parts += pickle.loads(pickle.dumps(list(compute())))
        object.__setattr__(self, "rank", 0)
        return parts


def test_failures_of_several_processes_come_together(lenient, capsys):
    scores = judge(lenient, *samples("fine", "raise", "exit", "raise", "fine"), Pair(size=2))
    assert scores.total == [2.0, -1.5, -1.5, -1.5, 2.0]
    assert scores.failure_counts() == {"misbehaves": {"timeouts": 0, "errors": 2, "deaths": 1}}
    said = capsys.readouterr().err
    assert said.startswith("3 of 5 samples got the default score of 'misbehaves'; the first: reward function")
    assert said.count("samples got") == 1
    assert "row 2" in said


def test_failures_of_all_parts_are_told_once(lenient, capsys):
    reward = build_reward([spec(default=-1.5), spec(default=7.0, weight=2.0), unruly.process_id])
    scores = judge(reward, *samples("fine", "raise", "nan"), ALONE)
    assert scores.components["misbehaves_2"] == [2.0, 7.0, 7.0]
    assert scores.total == [6.0 + os.getpid(), 12.5 + os.getpid(), 12.5 + os.getpid()]
    counts = {"timeouts": 0, "errors": 2, "deaths": 0}
    assert scores.failure_counts() == {"misbehaves": counts, "misbehaves_2": counts}
    said = capsys.readouterr().err
    for name in ("misbehaves", "misbehaves_2"):
        assert said.count(f"2 of 3 samples got the default score of {name!r}; the first") == 1
    assert said.count("row 2") == 2
    assert "row 3" not in said
    assert judge(FunctionReward(unruly.process_id), *samples("a"), ALONE).failure_counts() == {}
