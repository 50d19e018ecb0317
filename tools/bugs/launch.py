"""Mistakes of starting several processes, and of noticing that one is lost."""

from bugs.mutant import Mutant

HEARTBEAT, JOB, LOG, ENVIRONMENT = (f"launch/{name}.py" for name in ("heartbeat", "job", "log", "environment"))
SIGNS, JOBS, LOGS = (f"tests/launch/test_{name}.py" for name in ("heartbeat", "job", "log"))
TOLD = ("tests/launch/test_environment.py",)

LAUNCH = [
    Mutant(
        "any-sign-is-a-sign-of-life",
        HEARTBEAT,
        "if sign != self._before.get(rank) or sign == _LEFT:",
        "if sign:",
        (SIGNS,),
        "the last sign of a process that was stopped stands in the store for ever",
    ),
    Mutant(
        "who-left-is-missed",
        HEARTBEAT,
        " or sign == _LEFT",
        "",
        (SIGNS,),
        "a job that ends well on one machine first ends with an error on the others",
    ),
    Mutant(
        "a-store-that-hangs-is-waited-for",
        HEARTBEAT,
        "            self._unanswered += awake\n",
        "",
        (SIGNS,),
        "where the machine of the store is gone the wrong process is named",
    ),
    Mutant(
        "all-were-stopped-together",
        HEARTBEAT,
        "awake = min(now - then, 2 * TICK)",
        "awake = now - then",
        (SIGNS,),
        "a job that goes on after Ctrl-Z takes everybody for lost",
    ),
    Mutant(
        "the-first-to-end-is-the-cause",
        JOB,
        "cause = min(failures, key=lambda failure: failure.order)",
        "cause = failures[0]",
        (JOBS,),
        "the process that lost a companion is blamed, and not the one that was killed",
    ),
    Mutant(
        "errors-of-the-user-are-tried-again",
        JOB,
        "(*ASKED, PAUSED, MENDED_BY_THE_USER)",
        "(*ASKED, PAUSED)",
        (JOBS,),
        "a wrong recipe is started five times",
    ),
    Mutant(
        "restarts-overwrite",
        JOB,
        'if word not in ("--overwrite", "--resume")] + ["--resume"]',
        'if word != "--resume"] + ["--resume"]',
        (JOBS,),
        "the job that begins again deletes what it has done",
    ),
    Mutant(
        "what-has-not-begun-is-resumed",
        JOB,
        "        if log.begun:",
        "        if True:",
        (JOBS,),
        "a run that was to be overwritten is gone on with",
    ),
    Mutant(
        "the-log-goes-to-whatever-is-there",
        LOG,
        "not in (None, self._before)",
        "is not None",
        (LOGS,),
        "lines of a job that was refused stand in somebody else's run",
    ),
    Mutant(
        "a-gpu-each-and-no-number",
        ENVIRONMENT,
        "gpus = [gpu for place in host for gpu in place.gpus]",
        "gpus = [*host[0].gpus]",
        TOLD,
        "the second process of a node has no GPU of its number",
    ),
    Mutant(
        "numbers-of-the-whole-job",
        ENVIRONMENT,
        '"LOCAL_RANK": str(local)',
        '"LOCAL_RANK": str(len(found))',
        TOLD,
        "processes of the second node look for GPUs that it has not",
    ),
    Mutant(
        "loopback-is-taken-for-the-network",
        "launch/interfaces.py",
        "if each and not ipaddress.ip_address(each).is_loopback]",
        "if each]",
        ("tests/launch/test_interfaces.py",),
        "hosts whose own name stands for 127.0.1.1 wait for each other",
    ),
]
