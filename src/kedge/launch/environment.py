"""What each process of a job must know of the others, in the variables that torchrun sets too."""

from collections.abc import Mapping, Sequence
from itertools import groupby

from kedge.launch.supervisor import Place

TRAVELS = ("KEDGE_", "HF_", "TRANSFORMERS_", "TOKENIZERS_", "NCCL_", "GLOO_", "TORCH_", "WANDB_")
TRAVELS_TOO = ("OMP_NUM_THREADS", "PYTHONPATH")
"""Variables of the launcher that processes elsewhere get as well."""


def environments(places: Sequence[Place], port: int, launchers: Mapping[str, str]) -> list[dict[str, str]]:
    """One for each process.

    Args:
        places: of all processes, by rank.
        port: where the first one listens.
        launchers: the launcher's own environment.
    """
    hosts = [list(group) for _, group in groupby(places, key=lambda place: (place.host, place.address))]
    own = {name: value for name, value in launchers.items() if name.startswith(TRAVELS) or name in TRAVELS_TOO}
    several = len(hosts) > 1
    found: list[dict[str, str]] = []
    for number, host in enumerate(hosts):
        gpus = [gpu for place in host for gpu in place.gpus]
        for local in range(len(host)):
            found.append(
                {"OMP_NUM_THREADS": str(max(1, host[local].cores // len(host)))}
                | ({"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {})  # each has the one of its own number
                | own
                | {
                    "RANK": str(len(found)),
                    "WORLD_SIZE": str(len(places)),
                    "LOCAL_RANK": str(local),
                    "LOCAL_WORLD_SIZE": str(len(host)),
                    "GROUP_RANK": str(number),
                    "MASTER_ADDR": places[0].address if several else "127.0.0.1",
                    "MASTER_PORT": str(port),
                }
            )
    return found
