"""Servers that kedge starts: they have the weights, are started again with those of now, and end with the job."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

import kedge.sampling.fleet.server as waits
import kedge.sampling.fleet.servers as watching
import kedge.sampling.fleet.signs as signs
from kedge.errors import ConfigError, SamplerError
from kedge.models.language_model import LanguageModel
from kedge.parallel import Processes
from kedge.sampling.fleet.spec import FleetSpec
from kedge.sampling.fleet.started import PORTS, Started, free_ports
from kedge.sampling.settings import Sampling

PRETENDED = Path(__file__).with_name("pretended_vllm.py")
SAMPLING = Sampling(max_new_tokens=8, temperature=0.8)
PROMPTS = [[5, 6], [7], [8, 9, 10], [11]]


@pytest.fixture
def python(tmp_path):
    """A Python in whose environment vLLM is not what it is."""
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {PRETENDED} "$@"\n')
    program.chmod(0o755)
    return program


@pytest.fixture
def fleet(python, tmp_path, monkeypatch):
    monkeypatch.setattr(waits, "PAUSE", 0.01)
    monkeypatch.setattr(watching, "LOOKED_AT", 0.1)

    def make(servers=1, **settings):
        return FleetSpec(
            kind="vllm", servers=servers, python=str(python), weights=str(tmp_path / "weights"), **settings
        ).fleet()

    return make


def children(process):
    return [each.pid for each in psutil.Process(process.pid).children(recursive=True)]


def are_gone(pids, seconds=10):
    end = time.monotonic() + seconds
    while any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in pids):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def test_they_write_die_and_are_there_again_with_the_weights_of_now(fleet, tiny_lm, capsys):
    lm, both = tiny_lm("llama"), fleet(2, health_timeout=1.0)
    with both(lm) as sampler:
        first, second = both._own.values()
        assert first.log.read_text().startswith("child ")
        want = sampler.generate(PROMPTS, SAMPLING)
        sampler.publish(lm.weights(), 1)
        held = children(second._process)
        assert len(held) >= 2
        os.kill(held[0], signal.SIGSTOP)  # it hangs: what is asked of it goes elsewhere, and it is started again
        assert [each.ids for each in sampler.generate(PROMPTS, SAMPLING)] == [each.ids for each in want]
        assert [*both.down] == [second.url]
        sampler.publish(lm.weights(), 2)  # which is not waited for
        assert are_gone(held)
        end = time.monotonic() + 60
        while both.down:
            assert time.monotonic() < end
            time.sleep(0.1)
        found = sampler.generate(PROMPTS, SAMPLING)
        assert [each.ids for each in found] == [each.ids for each in want]
        assert {version for each in found for version in each.versions} == {2}
        held = children(first._process) + children(second._process)
    assert are_gone(held)
    assert f"{second.url}: is there again" in capsys.readouterr().err


def test_where_it_is_the_only_one_the_others_wait_for_it(fleet, tiny_lm):
    lm, one = tiny_lm("llama"), fleet()
    with one(lm) as sampler:
        want = sampler.generate(PROMPTS, SAMPLING)
        [own] = one._own.values()
        os.kill(children(own._process)[0], signal.SIGKILL)
        assert [each.ids for each in sampler.generate(PROMPTS, SAMPLING)] == [each.ids for each in want]
        os.kill(children(own._process)[0], signal.SIGKILL)
        sampler.publish(lm.weights(), 1)
        assert sampler.generate(PROMPTS, SAMPLING)[0].versions[0] == 1


def test_one_that_cannot_be_started_again_is_given_up(fleet, tiny_lm, capsys):
    with fleet()(tiny_lm("llama")) as sampler:
        [own] = sampler.fleet._own.values()
        own.args = ["--refuse", str(own.port)]
        os.kill(children(own._process)[0], signal.SIGKILL)
        with pytest.raises(SamplerError, match=r"no server is left:\n.*ended with status 1(.|\n)*no such architecture"):
            sampler.generate(PROMPTS, SAMPLING)
        with pytest.raises(SamplerError, match="no server is left"):
            sampler.publish(sampler.lm.weights(), 1)
    said = capsys.readouterr().err
    assert said.count("vLLM is being started") == 4
    assert "; it is given up" in said


def test_one_that_does_not_start_is_named_with_what_it_said(fleet, tiny_lm):
    one = fleet()
    [own] = one._own.values()
    own.args = ["--refuse", str(own.port)]
    with pytest.raises(
        SamplerError, match=r"ended with status 1; the end of .*server-\d+.log:\n.*no such architecture"
    ):
        one(tiny_lm("llama"))
    assert not own.runs


def test_the_others_are_heard_while_who_keeps_one_takes_its_time(fleet, tiny_lm, monkeypatch):
    """Such as Ray, of a machine that is lost: else the others' words come too late for whoever waits for them."""
    lm, both = tiny_lm("llama"), fleet(2)
    longest = 0.0

    async def attend():
        nonlocal longest
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.02)
            longest = max(longest, time.monotonic() - before)

    def slowly(method):
        return lambda *given: (time.sleep(1.0), method(*given))[1]

    with both(lm) as sampler:
        for name in ("start", "refuse_ended", "last_words", "end"):
            monkeypatch.setattr(Started, name, slowly(getattr(Started, name)))
        monkeypatch.setattr(Started, "runs", property(slowly(Started.runs.fget)))
        _, second = both._own.values()
        second.args = ["--refuse", str(second.port)]
        asyncio.run_coroutine_threadsafe(attend(), both._background._loop)
        sampler.publish(lm.weights(), 1)
        os.kill(children(second._process)[0], signal.SIGKILL)
        until = time.monotonic() + 60
        while "no such architecture" not in both.down.get(second.url, ""):
            assert time.monotonic() < until
            time.sleep(0.1)
        monkeypatch.undo()
    assert longest < 0.8


@pytest.fixture
def beginning(fleet, tmp_path, monkeypatch):
    """One server, whose starts go as the words say, and which hangs when nothing is heard of it for so long."""

    monkeypatch.setattr(signs, "WORKED", 0.02)  # of a second in place of most of a minute

    def make(words, silence=3.0, servers=1):
        file = tmp_path / "begins"
        file.write_text(words)
        return fleet(servers, args=["--begins", str(file)], start_silence=silence, start_timeout=60), file

    return make


def test_one_that_is_slow_finds_its_model_whatever_was_published_since(beginning, tiny_lm, capsys):
    """It is told at its start where the model is, and reads it later; the weights of then are gone by then."""
    lm, (both, file) = tiny_lm("llama"), beginning("at-once", silence=30.0, servers=2)
    with both(lm) as sampler:
        _, second = both._own.values()
        sampler.publish(lm.weights(), 1)
        file.write_text("says")
        os.kill(children(second._process)[0], signal.SIGKILL)
        until = time.monotonic() + 120
        for version in range(2, 1000):
            sampler.publish(lm.weights(), version)
            sampler.generate(PROMPTS, SAMPLING)
            if version > 2 and not both.down:
                break
            time.sleep(0.2)
            assert time.monotonic() < until
    said = capsys.readouterr().err
    assert said.count("vLLM is being started") == 3, said
    assert "is there again" in said


def test_one_that_is_slow_finds_its_model_where_another_sampler_was_in_between(beginning, tiny_lm, capsys):
    """Such as the reference's, whose folder goes with it."""
    both, file = beginning("at-once", silence=30.0, servers=2)
    with both(tiny_lm("llama")) as sampler:
        _, second = both._own.values()
        file.write_text("says")
        with both(tiny_lm("llama", seed=1)):
            os.kill(children(second._process)[0], signal.SIGKILL)
            until = time.monotonic() + 120
            while file.read_text() == "says":
                assert time.monotonic() < until
                time.sleep(0.05)
        while both.down:
            assert time.monotonic() < until
            time.sleep(0.1)
        assert len(sampler.generate(PROMPTS, SAMPLING)) == len(PROMPTS)
    said = capsys.readouterr().err
    assert said.count("vLLM is being started") == 3, said


@pytest.mark.parametrize("how", ["sleeps", "stopped"])
def test_one_that_hangs_while_it_starts_is_started_again(beginning, tiny_lm, capsys, how):
    one, _ = beginning(how)
    with one(tiny_lm("llama")) as sampler:
        assert len(sampler.generate(PROMPTS, SAMPLING)) == len(PROMPTS)
    said = capsys.readouterr().err
    seen = {"sleeps": "1 processes, 0.0", "stopped": "stopped, as by SIGSTOP: process "}[how]
    assert f"no sign of life for 3 s while it starts (start_silence): {seen}" in said
    assert said.count("vLLM is being started") == 2, said


def test_one_that_hangs_at_every_start_is_given_up(beginning, tiny_lm, capsys):
    one, _ = beginning("says " + "sleeps " * 9)
    [own] = one._own.values()
    with one(tiny_lm("llama")) as sampler:
        os.kill(children(own._process)[0], signal.SIGKILL)
        seen = (
            r"no server is left:\nhttp.*: no sign of life for 3 s(.|\n)*; the end of .*server-\d+.log:\n(.|\n)*loading"
        )
        with pytest.raises(SamplerError, match=seen):
            sampler.generate(PROMPTS, SAMPLING)
    assert capsys.readouterr().err.count("vLLM is being started") == 4
    assert not own.runs


def test_one_that_hangs_at_its_first_starts_is_given_up(beginning, tiny_lm, capsys):
    one, file = beginning("sleeps " * 9)
    with pytest.raises(SamplerError, match="no sign of life for 3 s"):
        one(tiny_lm("llama"))
    assert capsys.readouterr().err.count("vLLM is being started") == 3
    assert len(file.read_text().split()) == 6


@pytest.mark.parametrize("how", ["says", "computes"])
def test_one_that_is_slow_is_let_be(beginning, tiny_lm, capsys, how):
    """It begins to load this library later than one may be silent."""
    one, _ = beginning(how)
    with one(tiny_lm("llama")):
        assert capsys.readouterr().err.count("vLLM is being started") == 1


def test_weights_that_take_long_to_write_are_waited_for(fleet, tiny_lm, capsys, monkeypatch):
    """Until they are there nobody starts, so nobody is missed."""
    save = LanguageModel.save
    monkeypatch.setattr(LanguageModel, "save", lambda *given: (time.sleep(0.5), save(*given)))
    with fleet()(tiny_lm("llama")):
        said = capsys.readouterr().err
    assert said.count("vLLM is being started") == 1
    assert "left out" not in said


JOB = """
import sys, time, os
from kedge.sampling.fleet.started import Started
from pathlib import Path
own = Started(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), 4, True)
own.start(Path(sys.argv[4]), "float32")
time.sleep(1.0)
print(own._process.pid, flush=True)
time.sleep(100)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_they_end_with_the_job_however_that_ends(python, tmp_path, how):
    [port] = free_ports(1)
    words = [sys.executable, "-c", JOB, python, tmp_path / "weights", str(port), tmp_path]
    job = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    keeper = psutil.Process(int(job.stdout.readline()))
    end = time.monotonic() + 20
    while len(held := [each.pid for each in keeper.children(recursive=True)]) < 2:
        assert time.monotonic() < end
        time.sleep(0.1)
    job.send_signal(how)
    job.wait()
    assert are_gone([keeper.pid, *held])


def test_ports_that_nobody_gets_by_chance():
    ports = free_ports(50)
    assert len({*ports}) == 50
    assert max(ports) < 32768  # where Linux begins with those of connections
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", ports[0]))
        assert ports[0] not in free_ports(len(PORTS) // 2)


def test_what_is_run(tmp_path):
    own = Started("vllm/bin/python", tmp_path, 8101, 64, False, "2,3", ["--tensor-parallel-size", "2"])
    words = own.command(Path("m"), "bfloat16")
    given = dict(pairwise(words))
    assert words[:2] == ["vllm/bin/python", "-m"]
    assert given["--max-num-seqs"] == "72"
    assert given["--dtype"] == "bfloat16"
    assert given["--logprobs-mode"] == "processed_logprobs"
    assert words[-2:] == ["--tensor-parallel-size", "2"]
    assert "--enforce-eager" not in words
    assert "--enable-lora" not in words
    assert dict(pairwise(own.command(Path("m"), "bfloat16", 32)))["--max-lora-rank"] == "32"
    assert own.environment()["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "1"
    assert own.environment()["CUDA_VISIBLE_DEVICES"] == "2,3"
    assert own.environment()["VLLM_SERVER_DEV_MODE"] == "1"
    assert "--no-enable-chunked-prefill" in Started("p", tmp_path, 1, 1, True).command(Path("m"), "float32")


@pytest.mark.parametrize(
    ("on_cpu", "args", "does"),
    [
        (True, [], False),
        (True, ["--enable-lora"], True),
        (False, [], True),
        (False, ["--no-enable-lora"], False),
    ],
)
def test_who_takes_adapters(tmp_path, on_cpu, args, does):
    assert Started("p", tmp_path, 1, 1, on_cpu, None, args).takes_adapters == does


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"servers": 1}, "python: missing; name that of vLLM's environment"),
        ({"servers": 1, "python": "no-such-python"}, "python: 'no-such-python' is no program"),
        ({"servers": 1, "python": "python3", "urls": ["http://a:1"]}, "urls: a list of servers, or servers = 2"),
        ({}, "urls: a list of servers, or servers = 2"),
        ({"urls": ["http://a:1"], "python": "python3"}, "python: .*servers"),
        ({"servers": 2, "python": "python3", "devices": ["0"]}, "devices: 1 for servers=2"),
    ],
)
def test_settings_that_do_not_fit(tmp_path, settings, error):
    with pytest.raises(ConfigError, match=error):
        FleetSpec.of({"kind": "vllm", "weights": str(tmp_path), **settings}).fleet()


def test_what_the_leading_process_cannot_start_all_know(tmp_path, monkeypatch):
    """The others wait for what it starts."""
    told = []
    monkeypatch.setattr(
        "torch.distributed.all_gather_object", lambda parts, mine: (told.append(mine), parts.__setitem__(0, mine))
    )
    monkeypatch.setattr("kedge.sampling.fleet.spec.joined", lambda: Processes(0, 2))
    with pytest.raises(ConfigError, match="'no-such-python' is no program"):
        FleetSpec(kind="vllm", servers=1, python="no-such-python", weights=str(tmp_path)).fleet()
    [mine] = told
    assert isinstance(mine, ConfigError)


def test_a_job_names_them(fleet, python, tiny_lm, tmp_path):
    """As a recipe does, with answers that run ahead; nothing is left but what the servers have said."""
    from kedge import PPO

    lm = tiny_lm("llama")
    sampler = {"kind": "vllm", "servers": 1, "python": str(python), "weights": str(tmp_path / "weights")}
    settings = {"steps": 3, "batch_size": 4, "mini_batch_size": 4, "response_length": 6, "max_staleness": 1}
    ppo = PPO(lm.model, ["a b", "c d"], lambda prompts, completions: [float(len(c)) for c in completions], settings,
              tokenizer=lm.tokenizer, sampler=sampler, progress=False)  # fmt: skip
    with closing(ppo):
        assert [each["sampler/servers"] for each in ppo] == [1, 1, 1]
    assert [each.name for each in (tmp_path / "weights").iterdir()] == ["servers"]
