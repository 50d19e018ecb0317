"""What two processes do for test_sharded: ``torchrun sharded_work.py FOLDER``; what they found goes to ``found.pt``."""

import shutil
import sys
from pathlib import Path

import torch

from kedge import PPO
from kedge.errors import StorageError
from kedge.models import writing
from kedge.models.forward import forward_tokens
from kedge.models.language_model import load_language_model
from kedge.models.sharding import Sharding, whole
from kedge.parallel import gathered, join, leave, local
from kedge.training.optimization import clip_gradients


def loss_of(lm, tokens):
    mask = torch.arange(tokens.shape[1]).expand(tokens.shape) > 1
    outputs = forward_tokens(lm, tokens, mask, temperature=0.8, with_entropy=True)
    return (outputs.logprobs + 0.1 * outputs.entropy).sum()


def tokens_of(rows):
    return torch.randint(2, 300, (rows, 9), generator=torch.Generator().manual_seed(3))


def spread(folder, processes):
    """Loss and gradients of a model whose every process sees half of the rows."""
    lm = load_language_model(folder, device="cpu", dtype="stored")
    lm.shard(Sharding(torch.device("cpu"), processes.size), torch.float32)
    loss = loss_of(lm, processes.share(tokens_of(4)))
    loss.backward()
    loss = loss.detach()
    processes.sum_(loss)
    gradients = {name: weight.grad for name, weight in lm.model.named_parameters() if weight.grad is not None}
    found = {"loss": loss, "gradients": {name: gathered(each) for name, each in gradients.items()}}
    found["held"] = sum(local(weight).numel() for weight in lm.model.parameters())
    found["norm"] = clip_gradients([*lm.model.parameters()], 1.0)
    found["clipped"] = {name: gathered(each) for name, each in gradients.items()}
    with whole(lm.model), torch.no_grad():
        if processes.leads:  # the other one makes no pass at all
            found["alone"] = loss_of(lm, tokens_of(3))
            found["logits"] = lm.model(tokens_of(2)).logits
    found["held after"] = sum(local(weight).numel() for weight in lm.model.parameters())
    return lm, found


def saved(lm, folder, processes):
    """Written in files of a few weights each, changed, and read again."""
    at_a_time, writing.BYTES = writing.BYTES, 2**14
    lm.save(folder if processes.leads else None)
    writing.BYTES = at_a_time
    processes.wait()
    kept = {name: gathered(weight).clone() for name, weight in lm.weights().items()}
    with torch.no_grad():
        for weight in lm.model.parameters():
            weight.mul_(3)
    lm.load_weights(folder)
    again = {name: gathered(weight) for name, weight in lm.weights().items()}
    return {name: float((again[name] - kept[name]).abs().max()) for name in kept}


SETTINGS = {
    "steps": 2, "batch_size": 4, "mini_batch_size": 4, "response_length": 5, "learning_rate": 1e-3,
    "critic": "separate", "device": "cpu", "micro_batch_tokens": 40, "lr_scheduler_type": "constant",
}  # fmt: skip
PROMPTS = ["the cat", "a dog", "the", "ship"]


def tripled(lm):
    """The loss after a pass that nobody has gone back over and a step of the optimizer."""
    weights = [*lm.model.parameters()]  # as an optimizer has them
    loss_of(lm, tokens_of(3))
    with torch.no_grad():
        for weight in weights:
            weight.mul_(3)
        return loss_of(lm, tokens_of(3))


def trained(world, **more):
    """PPO whose reward and critic begin with a reward model."""
    settings = SETTINGS | {"critic_init": "reward"} | more
    ppo = PPO(world / "llama", PROMPTS, str(world / "rm"), settings, progress=False)
    ppo.train()
    return ppo


def length(completions):
    return [float(len(completion)) for completion in completions]


def begin(world, run, **more):
    """Four steps, or as many as more says, with a checkpoint after each second."""
    settings = SETTINGS | {"steps": 4, "checkpoint_every": 2} | more
    PPO(world / "llama", PROMPTS, length, settings, run=world / run, progress=False).train()


def go_on(world, run, **more):
    PPO.resume(world / run, prompts=PROMPTS, reward=length, progress=False, steps=4, **more).train()


def kept(world, processes):
    """Runs of two processes, with a break and without; one for another number of processes; and one of one."""
    begin(world, "whole", shard=True)
    begin(world, "broken", shard=True, steps=2)
    if processes.leads:
        for run in ("to-one", "to-four"):
            shutil.copytree(world / "broken", world / run, symlinks=True)
    go_on(world, "broken")
    go_on(world, "from-one", shard=True)


def held(world):
    """What the weights of roles are held in: as one process holds them, whatever they stand in and have in common."""
    settings = SETTINGS | {"shard": True}
    low = {"dtype": "bfloat16", "num_layers_unfrozen": 1}
    named = PPO(world / "llama", PROMPTS, str(world / "rm"), settings | low, progress=False)
    lm = load_language_model(world / "llama", device="cpu", dtype="bfloat16")
    del settings["device"]
    given = PPO(lm.model, PROMPTS, length, settings, tokenizer=lm.tokenizer, progress=False)
    [reward] = named.reward.models()
    models = {"named": named.policy, "its reference": named.reference, "its reward": reward, "given": given.policy}
    kinds = {name: {weight.dtype for weight in role.module.parameters()} for name, role in models.items()}
    return {name: [str(dtype) for dtype in each] for name, each in kinds.items()}


def full(ppo, folder, processes):
    """What all processes say where the first one's disk is full after a part of the policy."""
    own, at_a_time = writing.save_file, writing.BYTES
    written = []

    def save_file(*given, **more):
        if written:
            raise OSError("No space left")
        written.append(own(*given, **more))

    writing.save_file, writing.BYTES = save_file, 2**14

    def said():
        try:
            ppo.save(folder)
        except StorageError as error:
            return [str(error)]
        return ["nothing"]

    found = said()
    writing.save_file, writing.BYTES = own, at_a_time
    return processes.gather(lambda: found)


def main(world):
    processes = join()
    torch.set_num_threads(1)
    found = {}
    for folder in sorted((world / "architectures").iterdir()):
        lm, found[folder.name] = spread(folder, processes)
        if folder.name in ("llama", "tied"):
            found[folder.name]["changed"] = saved(lm, world / f"written-{folder.name}", processes)
        found[folder.name]["tripled"] = tripled(lm)
    ppo = trained(world, shard=True)
    ppo.save(world / "ppo")
    found["full"] = full(ppo, world / "full", processes)
    found["held in"] = held(world)
    found["scores"] = ppo.experience.scores.sums()
    kept(world, processes)
    if processes.leads:
        torch.save(found, world / "found.pt")


if __name__ == "__main__":
    if join().size == 4:
        go_on(Path(sys.argv[1]), "to-four")
    else:
        main(Path(sys.argv[1]))
    leave()
