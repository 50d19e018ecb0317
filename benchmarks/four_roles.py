"""An update of PPO with policy, reference, critic and reward model: whole models, one trunk with adapters, half of the
layers frozen; beside TRL.

    python benchmarks/four_roles.py                                       stories3M, three rounds in turns
    python benchmarks/four_roles.py --models 2M 8M 25M 110M --rounds 1    random Llamas of so many weights
    python benchmarks/four_roles.py --response 256 --ways shared half     longer answers, some of the ways

64 answers of 64 tokens, four passes, one optimizer step each, two threads. kedge's reward is a reward model of the same
base in every way (with an adapter where the policy has one), and so is TRL 1.12's; TRL 0.9.6 (the classic trainer, with
a value head on the policy) is scored by VADER, so it is compared with kedge's time without the reward. ``sampling`` is
kedge's engine alone. Every measurement is a process of its own: seconds are the median of its updates but the first,
memory is the most it ever held. TRL runs by the scripts in ../shared/peers, each in an environment of its own (made at
the first call, in benchmarks/.peers).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from workload import EPISODES, EPOCHS, RESPONSE, SHARED, STORIES, prompts, show

PEERS = Path(__file__).parent / ".peers"
TRL = {  # script, environment, what is in it, what else it is told
    "TRL 1.12": ("trl_ppo", "trl-ppo", ["trl==1.12.0", "transformers<5.20"], []),
    "TRL 0.9.6, LoRA": ("trl_classic_lora", "trl-classic", [], []),
    "TRL 0.9.6": ("trl_classic_lora", "trl-classic", [], ["--full"]),
}
CLASSIC = [
    "trl==0.9.6", "transformers==4.46.3", "peft==0.13.2", "accelerate==1.1.1", "datasets==3.1.0", "pyarrow<20", "rich",
]  # fmt: skip
LORA = {"method": "lora", "r": 16, "lora_alpha": 32, "target_modules": "all-linear"}
WAYS = ("separate", "shared", "lora", "half", "half, lora", "sampling")
SIZES: dict[str, dict[str, int]] = {
    "2M": {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 6},
    "8M": {"hidden_size": 320, "intermediate_size": 864, "num_hidden_layers": 6, "num_attention_heads": 10},
    "25M": {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "num_attention_heads": 8},
    "110M": {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 12},
}
UPDATES = 5


def made(name: str, folder: Path) -> Path:
    """The folder of a model: stories3M, or a random Llama of such a size."""
    if name == "stories3M":
        return SHARED / "models/stories3M"
    target = folder / name
    if not target.exists():
        tokenizer = AutoTokenizer.from_pretrained(STORIES)
        if name == "110M":
            tokenizer.add_tokens([f"<unused {i}>" for i in range(32_000 - len(tokenizer))])
        config = AutoConfig.for_model(
            "llama", vocab_size=len(tokenizer), max_position_embeddings=2048, tie_word_embeddings=True, pad_token_id=0,
            bos_token_id=1, eos_token_id=2, **SIZES[name],
        )  # fmt: skip
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(target)
        tokenizer.save_pretrained(target)
    return target


def kedge(way: str, model: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each update but the first, in this process."""
    from kedge import PPO
    from kedge.models.adapters import add_adapter
    from kedge.models.language_model import load_language_model
    from kedge.models.reward_loading import new_reward_model
    from kedge.models.reward_model import adapted_part
    from kedge.sampling.local.engine import Engine
    from kedge.sampling.settings import Sampling

    texts, seconds, phases = prompts(4096), [], {}
    if way == "sampling":
        lm = load_language_model(model, device="cpu")
        engine, ids = Engine(lm), [lm.tokenizer(text).input_ids for text in texts[: arguments.episodes]]
        for seed in range(3):
            start = time.perf_counter()
            engine.generate(ids, Sampling(arguments.response), seed=seed)
            seconds.append(time.perf_counter() - start)
    else:
        reward = new_reward_model(model, device="cpu")
        settings: dict[str, Any] = {
            "steps": arguments.updates, "batch_size": arguments.episodes, "mini_batch_size": arguments.episodes,
            "num_ppo_epochs": EPOCHS, "response_length": arguments.response, "learning_rate": 1e-4,
            "target_kl": "none", "samples_per_step": 0, "device": "cpu",
            "critic": "separate" if way == "separate" else "shared",
        }  # fmt: skip
        if arguments.micro_batch_tokens:
            settings["micro_batch_tokens"] = arguments.micro_batch_tokens
        if "lora" in way:
            add_adapter(adapted_part(reward), LORA, seed=1)
            settings["adapter"] = LORA
        if "half" in way:
            settings["num_layers_unfrozen"] = AutoConfig.from_pretrained(model).num_hidden_layers // 2
        reward.module.requires_grad_(False)
        ppo = PPO(model, texts, reward, settings, progress=False)
        for _ in range(arguments.updates):
            start = time.perf_counter()
            phases = {name: s for name, s in ppo.step().items() if name.startswith("time/")}
            ppo.step_done += 1
            seconds.append(time.perf_counter() - start)
    return {"seconds_per_update": statistics.median(seconds[1:]), **phases}


def measured(command: Sequence[str | Path]) -> dict[str, Any]:
    """What a process prints last, and the most memory that it held, in MiB."""
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen([str(word) for word in command], stdout=out, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{' '.join(map(str, command))}: ended with {process.returncode}")
        out.seek(0)
        found: dict[str, Any] = json.loads(out.read().strip().splitlines()[-1])
    return found | {"mib": usage.ru_maxrss // 1024}


def peer(name: str, model: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """TRL on the same work."""
    script, environment, wanted, more = TRL[name]
    python = PEERS / environment / "bin/python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", PEERS / environment], check=True)
        packages = ["torch==2.13.0", "vaderSentiment", *(wanted or CLASSIC)]
        subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=True)
    size = sizes(arguments)
    return measured([python, SHARED / "peers" / f"{script}.py", model, *size, *more])


def sizes(arguments: argparse.Namespace) -> list[Any]:
    """As kedge's own process and TRL's scripts take them."""
    found = {"response": arguments.response, "episodes": arguments.episodes, "updates": arguments.updates}
    return [word for name, value in found.items() for word in (f"--{name}", value)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["stories3M"], choices=["stories3M", *SIZES])
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--peers", nargs="*", default=list(TRL), choices=list(TRL))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--response", type=int, default=RESPONSE)
    parser.add_argument("--episodes", type=int, default=EPISODES)
    parser.add_argument("--updates", type=int, default=UPDATES)
    parser.add_argument("--micro-batch-tokens", type=int, default=0, help="kedge's; by default as it chooses")
    parser.add_argument("--child", nargs=2, metavar=("WAY", "MODEL"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    if arguments.child:
        print(json.dumps(kedge(*arguments.child, arguments)))
        return
    rows, result = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.models:
            model = made(name, Path(folder))
            runs: dict[str, list[dict[str, Any]]] = {}
            for _ in range(arguments.rounds):
                for way in arguments.ways:
                    how = ["--micro-batch-tokens", str(arguments.micro_batch_tokens)]
                    own = [sys.executable, __file__, "--child", way, model, *sizes(arguments), *how]
                    runs.setdefault(way, []).append(measured(own))
                for other in arguments.peers:
                    runs.setdefault(other, []).append(peer(other, model, arguments))
            middle = {
                way: {
                    key: statistics.median(run.get(key, 0.0) for run in found)
                    for key in ("seconds_per_update", "time/reward", "mib")
                }
                for way, found in runs.items()
            }
            for way, found in middle.items():
                seconds, alone = found["seconds_per_update"], found["seconds_per_update"] - found["time/reward"]
                ratios = [
                    f"{middle[peer]['seconds_per_update'] / (seconds if peer == 'TRL 1.12' else alone):.2f}"
                    for peer in arguments.peers
                ]
                rows.append((name, way, seconds, alone, int(found["mib"]), *ratios))
            result[name] = runs
    columns = (
        "model", "way", "seconds", "without the reward", "MiB",
        *(f"times as fast as {name}" for name in arguments.peers),
    )  # fmt: skip
    title = f"An update: {arguments.episodes} answers of {arguments.response} tokens, {EPOCHS} passes"
    show(title, columns, rows, {"benchmark": "four_roles", "runs": result})


if __name__ == "__main__":
    main()
