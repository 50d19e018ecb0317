"""What a model says of a story with a new prefix before it, by the prefix's first numbers.

    python benchmarks/prefix_start.py

stories3M, nats a token of one story's beginning: without a prefix, with PEFT's first numbers (a spread of 1), with
zeros, and with those that kedge draws.
"""

import torch
from peft import PrefixTuningConfig, get_peft_model
from workload import SHARED, show

from kedge.models.adapters import add_adapter
from kedge.models.language_model import load_language_model

STORY = (
    "Once upon a time there was a little girl named Lily. She loved to play outside in the park with her dog. One day "
    "they found a big red ball."
)


@torch.no_grad()
def surprise(kind: str, tokens: int) -> float:
    """Of the story."""
    lm = load_language_model(SHARED / "models/stories3M", device="cpu")
    model = lm.model
    if kind == "kedge":
        add_adapter(model, {"method": "prefix_tuning", "num_virtual_tokens": tokens}, seed=0)
    elif kind != "none":
        torch.manual_seed(0)
        init = "zero" if kind == "zeros" else None
        config = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=tokens, init_weights=init)
        model = get_peft_model(model, config).eval()
    ids = torch.tensor([lm.tokenizer(STORY).input_ids])
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, :-1]
    return float(torch.nn.functional.cross_entropy(logits, ids[0, 1:]))


def main() -> None:
    kinds = ("PEFT", "zeros", "kedge")
    rows = [(0, *[surprise("none", 0)] * 3)]
    rows += [(tokens, *(surprise(kind, tokens) for kind in kinds)) for tokens in (4, 8, 20)]
    show("A story's loss, nats a token", ("virtual tokens", "PEFT's", "zeros", "kedge's"), rows, {"rows": rows})


if __name__ == "__main__":
    main()
