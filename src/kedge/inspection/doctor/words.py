"""Checks of text: what becomes of prompts on the way into the model, and of answers on the way out."""

import statistics

import torch

from kedge.data.encode import answer_start, encode_whole
from kedge.data.records import Text, is_begun, joined, plain
from kedge.inspection.doctor.finding import Examined, Finding
from kedge.models.head import vocabulary_rows

LOOKED_AT = 64
NEVER = 1e-6
"""A probability of the EOS at which it will not be met."""


def round_trip(examined: Examined) -> Finding:
    """Text -> ids -> text; and a conversation's ids, answered, begin with the ids that asked for the answer."""
    check, prompts = "tokenizer round trip", examined.ppo.prompts[:LOOKED_AT]
    for prompt in prompts:
        trouble = _lost(examined, prompt.record.text, prompt.ids)
        if trouble:
            return Finding(check, "fail", f"{prompt.record.origin}: {trouble}", "give the model its own tokenizer and "
                           "template (tokenizer=...), or mend the template")  # fmt: skip
    kind = "text" if all(isinstance(prompt.record.text, str) for prompt in prompts) else "chat template"
    return Finding(check, "pass", f"{len(prompts)} prompts come back as they went in ({kind})")


def _lost(examined: Examined, text: Text, ids: list[int]) -> str | None:
    tokenizer = examined.ppo.policy.tokenizer
    if isinstance(text, str):
        back, words = tokenizer.decode(ids, skip_special_tokens=True), text
        for token in tokenizer.added_tokens_decoder.values():
            words = words.replace(token.content, "") if token.special else words
        # Some tokenizers put spaces around the special tokens of a text that was rendered before.
        found = back.strip() == text.strip() or (words != text and back.split() == words.split())
        return None if found else f"{text[:60]!r} comes back as {back[:60]!r}"
    back = tokenizer.decode(ids, skip_special_tokens=True)
    gone = [message["content"] for message in text if message["content"].strip() not in back]
    if gone:
        return f"the chat template leaves out {gone[0][:60]!r}"
    answered = encode_whole(tokenizer, joined(text, "Yes."), ends=())
    if is_begun(text):  # in the midst of a message tokens may merge
        same = tokenizer.decode(answered).startswith(tokenizer.decode(ids).rstrip())
    else:
        same = answer_start(ids, answered) == len(ids)
    if not same:
        return "the chat template renders the same messages otherwise once they are answered"
    return None


def ending(examined: Examined) -> Finding:
    """Some token ends an answer, the model can reach it, and it is trained on, even where pad is the same one."""
    check, policy, experience = "answers can end", examined.ppo.policy, examined.experience
    beyond = [i for i in policy.eos_ids if not 0 <= i < vocabulary_rows(policy.model)]
    remedy = "name the tokens that end an answer: stop_tokens = [...]"
    if beyond or not policy.eos_ids:
        found = f"EOS ids {beyond} are not in the model's vocabulary" if beyond else "no EOS token"
        return Finding(check, "fail", found, remedy)
    trained, counts = experience.batch.mask.sum(-1).tolist(), [len(c.ids) for c in experience.completions]
    if examined.ppo.config.cutoff != "mask" and trained != counts:
        return Finding(check, "fail", "some tokens of the answers are not trained on", "report this as a bug")
    ended = sum(c.finish_reason != "length" for c in experience.completions) / len(counts)
    likeliest = _likeliest_end(examined)
    found = f"{ended:.0%} of the answers ended; probability of the EOS up to {likeliest:.2g}"
    if policy.pad_id in policy.eos_ids:
        found += "; pad is the same token, told apart by position"
    if likeliest <= NEVER:
        return Finding(check, "fail", found, f"fine-tune on answers that end (kedge sft), or {remedy}")
    return Finding(check, "pass", found)


@torch.no_grad()
def _likeliest_end(examined: Examined) -> float:
    """The largest probability of any EOS anywhere in a few answers."""
    policy, completions = examined.ppo.policy, examined.experience.completions[:8]
    highest = 0.0
    for answer in completions:
        logits = policy.model(torch.tensor([answer.prompt_ids + answer.ids], device=policy.device)).logits[0]
        ends = logits[len(answer.prompt_ids) - 1 :].float().softmax(-1)[:, list(policy.eos_ids)]
        highest = max(highest, float(ends.sum(-1).max()))
    return highest


def lengths(examined: Examined) -> Finding:
    """Prompts and answers fit the model's positions; and what became of those that do not."""
    sizes = [len(prompt.ids) for prompt in examined.ppo.prompts]
    positions, answer = examined.ppo.policy.positions, examined.ppo.config.response_length
    room = "any length" if positions is None else f"{positions} positions"
    found = f"prompts of {min(sizes)} to {max(sizes)} tokens, median {statistics.median(sizes):.0f}, answers of up to "
    told = "".join(f". {note}" for note in examined.ppo.notes)
    return Finding("prompt lengths", "warn" if told else "pass", f"{found}{answer}; room for {room}{told}")


def cut_off(examined: Examined) -> Finding:
    """Answers that the length limit cuts are scored, or left out, as if they were whole."""
    check, config, completions = "answers cut off", examined.ppo.config, examined.experience.completions
    share = sum(c.finish_reason == "length" for c in completions) / len(completions)
    found = f"{share:.0%} of {len(completions)} answers reach response_length = {config.response_length}"
    if config.cutoff == "mask" and share == 1.0:
        remedy = 'raise response_length, or set cutoff = "keep": with "mask" there is nothing to train on'
        return Finding(check, "fail", found, remedy)
    if share > 0.5:
        shown = plain(completions[0].text if completions else "")[-40:]
        remedy = f'raise response_length, or set cutoff = "penalty" (the first one ends: {shown!r})'
        return Finding(check, "warn", found, remedy)
    return Finding(check, "pass", found)
