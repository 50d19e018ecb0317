"""What the tests of the engine share: prompts, and what a plain forward pass says of an answer."""

import torch
from transformers import LogitsProcessorList, MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

LENGTHS = [3, 5, 12, 1, 40, 60, 19, 20]  # some share a batch, some are far apart


def random_prompts(lengths=LENGTHS, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(5, 300, (n,), generator=generator).tolist() for n in lengths]


@torch.no_grad()
def fresh(lm, completion, temperature, top_k=0, top_p=1.0, min_p=0.0):
    """Log-probabilities of a completion's tokens from one plain forward pass and transformers' own warpers."""
    start, ids = len(completion.prompt_ids), completion.prompt_ids + completion.ids
    logits = lm.model(torch.tensor([ids])).logits[0, start - 1 : -1].float() / temperature
    warpers = LogitsProcessorList()
    warpers += [TopKLogitsWarper(top_k)] if top_k else []
    warpers += [TopPLogitsWarper(top_p)] if top_p < 1 else []
    warpers += [MinPLogitsWarper(min_p)] if min_p else []
    distribution = warpers(None, logits).log_softmax(-1)
    return [distribution[t, token].item() for t, token in enumerate(completion.ids)]
