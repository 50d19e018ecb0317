"""Servers that Ray places, where something is wrong with Ray; tests/cluster/test_ray_servers.py has it as it is."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from kedge.errors import ConfigError
from kedge.sampling.fleet.placed import ANSWERED, PLACED, Placed, Wanted
from kedge.sampling.fleet.placed import placed as asked_for
from kedge.sampling.fleet.server import ServerFailure

PLACE = ("a node", "http://10.0.0.2:21000", 21000, Path("w/servers/10.0.0.2/server-21000.log"), True)


class RayError(Exception):
    pass


class RayActorError(RayError):
    pass


class ActorUnschedulableError(RayError):
    """Of no actor, for Ray: there was none."""


class GetTimeoutError(RayError, TimeoutError):
    pass


class RayTaskError(RayError):
    def __init__(self, cause):
        self.cause = cause


class Ray:
    """Answers of actors, one actor after the other: what each call gives, by name, or raises."""

    exceptions = SimpleNamespace(
        RayError=RayError, RayActorError=RayActorError, GetTimeoutError=GetTimeoutError, RayTaskError=RayTaskError
    )

    def __init__(self, *actors):
        self.actors, self.waits, self.killed, self.options = list(actors), [], [], []

    def remote(self, _):
        def options(**given):
            self.options.append(given)
            return SimpleNamespace(remote=lambda *_: self._begun())

        return SimpleNamespace(options=options)

    def _begun(self):
        answers = self.actors.pop(0)
        call = SimpleNamespace(remote=lambda name, *_: (name, answers))
        return SimpleNamespace(place=SimpleNamespace(remote=lambda: ("place", answers)), ask=call)

    def get(self, asked, timeout):
        name, answers = asked
        self.waits.append((name, timeout))
        found = answers.get(name, answers.get("else"))
        if isinstance(found, Exception):
            raise found
        return found

    def kill(self, actor):
        self.killed.append(actor)


@pytest.fixture(autouse=True)
def strategies(monkeypatch):
    module = SimpleNamespace(NodeAffinitySchedulingStrategy=lambda node, soft: (node, soft))
    for name in ("ray", "ray.util"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace())
    monkeypatch.setitem(sys.modules, "ray.util.scheduling_strategies", module)


def placed(*actors):
    ray = Ray(*actors)
    return ray, Placed(ray, Wanted("python", Path("w/servers"), 4), 1)


def test_one_whose_machine_is_lost_fails_as_servers_do():
    """Not the job: the others do its work."""
    gone = {"else": ActorUnschedulableError("The actor is not schedulable: the node does not exist any more")}
    ray, server = placed({"place": PLACE, "else": RayActorError("it died")}, gone)
    with pytest.raises(ServerFailure, match=r"^http://10\.0\.0\.2:21000: its actor died: The actor is not schedulable"):
        server.start(Path("m"), "float32")
    assert ray.options[-1]["scheduling_strategy"] == ("a node", False)
    assert server.signs() is None
    assert not server.runs
    server.end()
    assert len(ray.killed) == 2


def test_another_actor_has_the_time_that_the_first_one_had_to_begin():
    ray, server = placed({"place": PLACE, "else": RayActorError("it died")}, {})
    server.start(Path("m"), "float32")
    server.refuse_ended()
    assert ray.waits == [("place", PLACED), ("start", ANSWERED), ("start", PLACED), ("refuse_ended", ANSWERED)]


def test_one_that_is_over_leaves_its_place_to_others():
    """Whoever has trained with it may still hold it."""
    ray, server = placed({"place": PLACE}, {})
    server.end()
    assert not ray.killed
    server.give_back()
    assert ray.killed == [server._actor]


def test_where_there_is_room_for_one_alone_it_is_given_back(monkeypatch):
    ray = Ray({"place": PLACE}, {"place": GetTimeoutError()})
    ray.is_initialized = lambda: True
    ray.nodes, ray.cluster_resources = list, dict
    monkeypatch.setattr("kedge.sampling.fleet.placed.needed", lambda *_, **__: ray)
    with pytest.raises(ConfigError, match="sampler: ray: no place for a server with 0 GPUs in 60 s"):
        asked_for("auto", 2, Wanted("python", Path("w/servers"), 4))
    assert len(ray.killed) == 2


def test_what_is_known_without_an_actor():
    """Why a server was ended stays to be read where its actor is gone."""
    _, server = placed({"place": PLACE, "else": GetTimeoutError()})
    assert server.last_words() == f"its log is {PLACE[3]}"
    assert server.takes_adapters


def test_a_disk_is_its_machines():
    _, server = placed({"place": PLACE, "else": RayTaskError(PermissionError(13, "Permission denied", "w"))})
    with pytest.raises(ServerFailure, match=r"http://10\.0\.0\.2:21000: .*Permission denied: 'w'"):
        server.refuse_ended()


def test_where_there_is_no_such_python_the_error_says_so():
    lines = (
        "The actor died because of an error raised in its creation task, ray::Keeper.__init__() (pid=7, ip=10.0.0.2)",
        '  File "placed.py", line 47, in __init__',
        "kedge.errors.ConfigError: sampler: python: 'vllm/python' is no program; name the Python of vLLM's environment",
    )
    with pytest.raises(ConfigError, match=r"^sampler: ray: python: 'vllm/python' is no program; name the Python"):
        placed({"place": RayActorError("\n".join(lines))})
