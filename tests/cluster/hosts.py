"""Two hosts on this machine: network namespaces with a cable between them, and with names of their own."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

CABLE = Path(__file__).with_name("cable.py")
INSIDE = 'mount --bind "$1/ray" /tmp/ray && mount --bind "$1/names" /etc/hosts && hostname "$2" && shift 2 && exec "$@"'
"""Ray takes hosts that share their /tmp/ray for one."""
ADDRESSES = {"host-a": "10.99.0.1", "host-b": "10.99.0.2"}
RAY = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": uuid.uuid4().hex}
"""Said to all nodes, or those of a user who has once used Ray disagree on whether they want a token."""


class Host:
    """A namespace; :meth:`words` runs a command in it."""

    interface = "eth0"

    def __init__(self, name):
        self.name, self.address = name, ADDRESSES[name]
        self.namespace = f"kedge-{os.getpid()}-{name}"
        self.own = Path(tempfile.mkdtemp(prefix="host-"))
        (self.own / "ray").mkdir()
        names = ADDRESSES | {name: "127.0.1.1"}  # as Debian has it, and gloo would take it
        (self.own / "names").write_text(
            "127.0.0.1 localhost\n" + "".join(f"{address} {each}\n" for each, address in names.items())
        )

    def words(self, *words):
        inside = ["unshare", "--uts", "sh", "-c", INSIDE, "sh", self.own, self.name]
        return [str(each) for each in ("ip", "netns", "exec", self.namespace, *inside, *words)]

    def torchrun(self, first, *words, elastic=False):
        """This host's one process of two hosts', which meet at the first one."""
        if elastic:
            whose = ["--rdzv-backend", "c10d", "--rdzv-id", "job", "--rdzv-endpoint", f"{first.address}:29400"]
            whose += ["--rdzv-conf", f"is_host={int(self is first)}", "--local-addr", self.address]
        else:
            whose = ["--node-rank", int(self is not first), "--master-addr", first.name, "--master-port", 29400]
        words = ["--nnodes", 2, "--nproc-per-node", 1, *whose, "-m", "kedge", *words]
        return self.words(sys.executable, "-m", "torch.distributed.run", *words)

    def ray(self, python, first):
        """Start a node of Ray's; the first host has the head."""
        if self is first:
            whose = ["--head", "--port", "6379", "--include-dashboard", "false"]
        else:
            whose = ["--address", f"{first.address}:6379"]
        words = [python, "-m", "ray.scripts.scripts", "start", "--node-ip-address", self.address, "--num-cpus", 1]
        done = subprocess.run(
            self.words(*words, *whose), env=os.environ | RAY, capture_output=True, text=True, check=False, timeout=90
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def unplug(self):
        _ip("-n", self.namespace, "link", "set", self.interface, "down")

    def close(self):
        pids = subprocess.run(["ip", "netns", "pids", self.namespace], capture_output=True, text=True, check=False)
        for pid in pids.stdout.split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        subprocess.run(["ip", "netns", "del", self.namespace], capture_output=True, check=False)
        shutil.rmtree(self.own, ignore_errors=True)


@contextmanager
def two_hosts(delay=0.0, loss=0.0):
    """Two of them.

    Args:
        delay: seconds that a packet takes.
        loss: share of packets that do not arrive.
    """
    if shutil.which("ip") is None or os.geteuid():
        pytest.skip("two hosts on one machine are made by root, with `ip` (apt-get install iproute2)")
    hosts = [Host(name) for name in ADDRESSES]
    with ExitStack() as at_the_end:
        for host in hosts:
            at_the_end.callback(host.close)
            _ip("netns", "add", host.namespace)
            _ip("-n", host.namespace, "link", "set", "lo", "up")
        ends = [f"k{os.getpid()}{letter}" for letter in "ab"]
        cable = subprocess.Popen(
            [sys.executable, CABLE, *ends, str(delay), str(loss)], stdout=subprocess.PIPE, text=True
        )
        at_the_end.callback(cable.wait)
        at_the_end.callback(cable.kill)
        assert cable.stdout.readline() == "there\n"
        Path("/tmp/ray").mkdir(exist_ok=True)
        for host, end in zip(hosts, ends, strict=True):
            _ip("link", "set", end, "netns", host.namespace, "name", host.interface)
            _ip("-n", host.namespace, "addr", "add", f"{host.address}/24", "dev", host.interface)
            _ip("-n", host.namespace, "link", "set", host.interface, "up")
        yield hosts


def _ip(*words):
    subprocess.run(["ip", *words], check=True)
