"""vLLM servers that kedge starts on this machine, with the settings that docs/fleet.md names, and ends with the job."""

import os
import random
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from kedge.errors import ConfigError
from kedge.sampling.fleet.kept import Kept
from kedge.sampling.fleet.server import ServerFailure
from kedge.sampling.fleet.signs import Signs, signs_below

KEEPER = Path(__file__).with_name("keeper.py")
MODULE = "vllm.entrypoints.launchers.api_server.entry"
ON_CPU = (
    "--enforce-eager", "--block-size", "32", "--kv-cache-memory-bytes", "268435456",
    # A prompt that is read in parts costs vLLM's engine its life there, where requests have seeds.
    "--no-enable-chunked-prefill",
)  # fmt: skip
SWITCHED_ON = ("VLLM_SERVER_DEV_MODE", "VLLM_NO_USAGE_STATS", "VLLM_ALLOW_RUNTIME_LORA_UPDATING")
PORTS = range(20_000, 32_000)
"""Below those that Linux and others give to connections."""
SPARE = 8
"""Answers that a server may write beside those that it is asked for: the one by which it is tried need not wait."""
SHOWN = 1500
"""Characters of its log that an error shows."""


@dataclass
class Started(Kept):
    """A server that kedge starts.

    Args:
        python: of vLLM's environment.
        folder: for its log, and for what it imports of kedge's.
        port: on this machine.
        concurrency: answers that it is asked for at once.
        on_cpu: whether it has no GPU.
        device: what ``CUDA_VISIBLE_DEVICES`` should say; None: as it is.
        args: more of vLLM's arguments, which prevail over those here.
        host: an address of this machine, under which it is reached.
    """

    python: str
    folder: Path
    port: int
    concurrency: int
    on_cpu: bool
    device: str | None = None
    args: Sequence[str] = ()
    host: str = "127.0.0.1"
    _process: "subprocess.Popen[bytes] | None" = field(default=None, init=False)
    _lifeline: int | None = field(default=None, init=False)

    @property
    def takes_adapters(self) -> bool:
        # Not by itself on a CPU, where writing costs more with one than publishing merged weights.
        return "--no-enable-lora" not in self.args and (not self.on_cpu or "--enable-lora" in self.args)

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def log(self) -> Path:
        return self.folder / f"server-{self.port}.log"

    def start(self, model: Path, dtype: str, rank: int = 0) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        held, self._lifeline = os.pipe()
        with self.log.open("ab") as log:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", str(KEEPER), str(held), *self.command(model, dtype, rank)],
                    env=self.environment(),
                    pass_fds=(held,),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # Ctrl-C is the job's, which ends it in its own time
                )
            finally:
                os.close(held)

    def command(self, model: Path, dtype: str, rank: int = 0) -> list[str]:
        """What is run."""
        return [
            self.python, "-m", MODULE, "--model", str(model), "--served-model-name", "policy", "--host", self.host,
            "--port", str(self.port), "--dtype", dtype, "--max-num-seqs", str(self.concurrency + SPARE),
            "--logprobs-mode", "processed_logprobs", "--enable-scale-out",
            "--worker-extension-cls", "kedge_vllm.FromFolder", *(ON_CPU if self.on_cpu else ()),
            *(["--enable-lora", "--max-lora-rank", str(rank)] if rank else ()), *self.args,
        ]  # fmt: skip

    def environment(self) -> dict[str, str]:
        """Its variables. Of kedge's packages it sees the one for vLLM alone, and none of what is beside that."""
        spec = find_spec("kedge_vllm")
        assert spec is not None
        assert spec.submodule_search_locations
        beside = self.folder / "plugin"
        shutil.copytree(spec.submodule_search_locations[0], beside / "kedge_vllm", dirs_exist_ok=True)
        own = dict.fromkeys(SWITCHED_ON, "1") | {"PYTHONPATH": str(beside)}
        if self.on_cpu:
            own["VLLM_CPU_NUM_OF_RESERVED_CPU"] = "1"
        if self.device is not None:
            own["CUDA_VISIBLE_DEVICES"] = self.device
        others = {name: value for name, value in os.environ.items() if name not in OF_THE_JOB}
        return {**others, **own}

    def refuse_ended(self) -> None:
        process = self._process
        status = None if process is None else process.poll()
        if status is not None:
            raise ServerFailure(f"{self.url}: ended with status {status}; {self.last_words()}")

    def last_words(self) -> str:
        said = self.log.read_bytes()[-SHOWN:].decode(errors="replace")
        return f"the end of {self.log}:\n{said}"

    def signs(self) -> Signs | None:
        process = self._process
        return None if process is None else signs_below(process.pid, self.log)

    @property
    def runs(self) -> bool:
        process = self._process
        return process is not None and process.poll() is None

    def let_go(self) -> None:
        lifeline, self._lifeline = self._lifeline, None
        if lifeline is not None:
            os.close(lifeline)

    def end(self) -> None:
        self.let_go()
        process, self._process = self._process, None
        if process is not None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(15)
            process.kill()  # the keeper, and with it whatever it keeps
            process.wait()


OF_THE_JOB = {
    "RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE",
    "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_USE_AGENT_STORE",
}  # fmt: skip
"""Variables by which torchrun tells the processes of a job who they are: a server is none of them."""


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Ports of this machine that nobody listens on now, and that it gives nobody who has not asked for them: a server
    takes its own half a minute later.

    Raises:
        ConfigError: there are none.
    """
    found: list[int] = []
    for port in random.SystemRandom().sample(PORTS, len(PORTS)):
        with socket.socket() as tried:
            try:
                tried.bind((host, port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise ConfigError(f"sampler: servers: no {count} ports are free from {PORTS[0]} to {PORTS[-1]}")


def refuse_no_python(python: str) -> str:
    """The program, found as a shell would.

    Raises:
        ConfigError: there is none.
    """
    found = shutil.which(Path(python).expanduser())
    if found is None:
        raise ConfigError(f"sampler: python: {python!r} is no program; name the Python of vLLM's environment")
    return found
