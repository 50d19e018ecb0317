"""Who is to blame, what the exit status is, and when a job begins again: with processes that only pretend."""

import pytest

from kedge.errors import LostError, SamplerError, Stopped
from kedge.launch import job
from kedge.launch.job import run_job
from kedge.launch.log import Log
from kedge.launch.supervisor import Look, Place

RUNS = Look((), 7)


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(job, "GRACE", 0.05)


class Pretended:
    """Processes that look as they are told, look by look; the last one again and again."""

    def __init__(self, *looks, hosts=("a", "a")):
        self.looks, self.places = list(looks), [Place(host, "10.0.0.1", 1) for host in hosts]
        self.words, self.signals, self.closed = None, [], False

    def free_port(self):
        return 1

    def start(self, words, environments, folder):
        self.words = list(words)

    def look(self):
        return self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]

    def signal(self, number):
        self.signals.append(number)

    def close(self):
        self.closed = True


@pytest.fixture
def run(tmp_path):
    """Runs a job of these crews, one an attempt; returns the lines that were shown."""

    def go(*crews, restarts=0, words=("ppo", "r.toml"), begins=True):
        shown, waiting = [], list(crews)
        log = Log(tmp_path / "run", shown.append)

        def make(attempt):
            if begins and not (tmp_path / "run").exists():
                (tmp_path / "run").mkdir()
                (tmp_path / "run/recipe.toml").write_text("")
            return waiting.pop(0)

        run_job(words, make, log, restarts=restarts)
        return shown

    return go


def dead(status, at, *lines, pid=7):
    return Look(lines, pid, status, at)


def test_all_end_well(run):
    crew = Pretended([Look(["hello"], 1), Look(["there"], 2)], [dead(0, 1.0, "bye"), dead(0, 1.0)])
    assert run(crew) == ["[0] hello", "[1] there", "[0] bye"]
    assert crew.closed


SECOND = "process 1 (pid 8 on b) "
BLAMED = {
    "killed-before-an-error": ([dead(1, 1.0), dead(-9, 2.0, pid=8)], 137, f"{SECOND}was killed by SIGKILL"),
    "first-of-two-errors": ([dead(1, 2.0), dead(1, 1.0, pid=8)], 1, f"{SECOND}ended with exit status 1"),
    "own-error-before-a-lost-companion": ([dead(4, 1.0), dead(2, 2.0, pid=8)], 2, f"{SECOND}ended with exit status 2"),
    "nccl-abort-after-a-kill": ([dead(-6, 1.0), dead(-11, 2.0, pid=8)], 139, f"{SECOND}was killed by SIGSEGV"),
    "actor": ([dead(1, 1.0), Look((), 8, lost="its actor died: x")], 4, f"{SECOND}is lost: its actor died: x"),
    "stopped": ([RUNS, Look((), 8, stopped=11.0)], 4, f"{SECOND}has been stopped (SIGSTOP) for 11 s"),
    "one-goes-on": ([RUNS, dead(1, 1.0, pid=8)], 1, f"{SECOND}ended with exit status 1"),
    "heard-nothing": ([dead(4, 1.0), Look((), 8, stopped=2.0)], 4, "process 0 (pid 7 on a) ended with exit status 4"),
}


@pytest.mark.parametrize(("looks", "status", "said"), BLAMED.values(), ids=BLAMED)
def test_the_cause_is_named(run, looks, status, said, tmp_path):
    crew = Pretended(looks, hosts=("a", "b"))
    with pytest.raises(LostError) as ended:
        run(crew)
    assert str(ended.value).startswith(said)
    assert ended.value.exit_status == status
    assert crew.closed
    assert said in (tmp_path / "run/launch.log").read_text()


def test_a_short_stop_is_borne(run):
    run(Pretended([RUNS, Look((), 8, stopped=9.0)], [dead(0, 1.0), dead(0, 1.0)]))


@pytest.mark.parametrize("status", [130, 143, 3])
def test_who_was_asked_to_stop_has_stopped(run, status):
    with pytest.raises(Stopped) as ended:
        run(Pretended([dead(status, 1.0), dead(status, 1.0)]), restarts=5)
    assert ended.value.exit_status == status


def test_what_the_user_must_mend_is_not_tried_again(run):
    with pytest.raises(LostError, match="all have ended as it did") as ended:
        run(Pretended([dead(2, 1.0), dead(2, 1.0)]), restarts=5)
    assert ended.value.exit_status == 2
    assert "--resume" not in str(ended.value)


def test_it_begins_again_where_it_was(run):
    lost, well = Pretended([RUNS, dead(-9, 1.0, pid=8)]), Pretended([dead(0, 1.0), dead(0, 1.0)])
    shown = run(lost, well, restarts=1, words=["ppo", "r.toml", "ppo.steps=3", "--overwrite"])
    assert lost.words == ["ppo", "r.toml", "ppo.steps=3", "--overwrite"]
    assert well.words == ["ppo", "r.toml", "ppo.steps=3", "--resume"]
    assert lost.closed
    assert "was killed by SIGKILL" in shown[0]
    assert "begins again, 1 of 1" in shown[0]


def test_a_job_without_servers_is_tried_again(run):
    """They may have been started again meanwhile, by whoever did it first."""
    status = SamplerError.exit_status
    away, well = Pretended([dead(status, 1.0), dead(status, 1.1)]), Pretended([dead(0, 1.0), dead(0, 1.0)])
    assert "ended with exit status 5" in run(away, well, restarts=1)[0]
    assert well.words == ["ppo", "r.toml", "--resume"]


def test_what_has_not_begun_is_not_resumed(run):
    """A run that is to be overwritten is there still: to resume it would go on with what the user wants deleted."""
    lost, well = Pretended([RUNS, dead(-9, 1.0, pid=8)]), Pretended([dead(0, 1.0), dead(0, 1.0)])
    run(lost, well, restarts=1, words=["ppo", "r.toml", "--overwrite"], begins=False)
    assert well.words == ["ppo", "r.toml", "--overwrite"]


def test_so_often_and_no_more(run):
    crews = [Pretended([RUNS, dead(-9, 1.0, pid=8)]) for _ in range(3)]
    with pytest.raises(LostError, match="SIGKILL"):
        run(*crews, restarts=2)
    assert all(crew.closed for crew in crews)
