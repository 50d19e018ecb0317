"""The support desk's generator: customers' messages, agents' replies of very mixed quality, and the files.

A message is intent x product x details x tone. A reply is put together from parts, each of which goes wrong
independently and often: the average reply is mediocre and a perfect one rare, but a model that chooses well
part by part can write it, and that is what PPO is to find. In pairs some replies are wild (cut off, looping,
shuffled, stuffed, endless), so that a reward model has seen what an optimiser may try.
"""

import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

from kedge.tasks.support_desk import phrases
from kedge.tasks.support_desk.gold import JUDGE_TEMPERATURE, gold_score, preference_probability

MESSAGE_WORDS = range(4, 26)
REPLY_WORDS = range(4, 46)
WILD_WORDS = 50  # where a wild reply is cut off, as generation would
NEAR_TIE = 0.1  # a person asked to choose between replies as close as this cannot say, so nobody is asked
CARE = 0.8  # of the agents who wrote the demonstrations: how often one answers what was asked, names what it is about
CARE_IN_PAIRS = 0.55
WILD_IN_PAIRS = 0.12  # the share of wild replies among those the judge compares

Row = dict[str, object]


@dataclass(frozen=True)
class Ticket:
    """A customer's message, and what it is about."""

    message: str
    intent: str
    """One of `INTENTS`."""
    product: str
    """One of `PRODUCTS`."""


@dataclass(frozen=True)
class DeskFiles:
    """The files of a support desk, all .jsonl."""

    demonstrations: Path
    """`messages`: a customer's message and an agent's reply, good or bad."""
    preferences: Path
    """`prompt`, `chosen`, `rejected`: messages; labelled by the noisy judge."""
    preferences_heldout: Path
    """The same with `gold_chosen` and `gold_rejected`; the ceiling is the share with the first one higher."""
    prompts: Path
    """`prompt`, `intent`, `product`: what the policy answers; the columns are for the gold score."""
    prompts_heldout: Path
    """The same; no text of it is in a training file."""

    @classmethod
    def of(cls, folder: Path) -> Self:
        """Where they stand in a folder."""
        return cls(**{field.name: folder / f"{field.name.replace('_', '-')}.jsonl" for field in fields(cls)})


def write_support_desk(
    folder: Path,
    *,
    seed: int = 0,
    demonstrations: int = 8000,
    pairs: int = 24000,
    heldout_pairs: int = 2000,
    prompts: int = 2000,
    heldout_prompts: int = 256,
    temperature: float = JUDGE_TEMPERATURE,
) -> DeskFiles:
    """Writes a support desk's files into the folder, byte for byte the same for the same arguments.

    The counts are rows a file; `temperature` is the judge's noise. Held-out messages are unique and in no
    training file, and do not change with the size of the training files.
    """
    counts = {
        "demonstrations": demonstrations,
        "pairs": pairs,
        "heldout_pairs": heldout_pairs,
        "prompts": prompts,
        "heldout_prompts": heldout_prompts,
    }
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be at least 1, not {count}")
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, not {temperature}")

    def rng(name: str) -> random.Random:
        # A stream a file, so that the length of one never moves another.
        return random.Random(f"kedge support desk, {name}, {seed}")

    desk = DeskFiles.of(folder)
    folder.mkdir(parents=True, exist_ok=True)

    heldout: set[str] = set()  # filled first, so that training can keep clear of it
    stream = rng("heldout prompts")
    _write(desk.prompts_heldout, map(_prompt_row, _unique_tickets(stream, heldout_prompts, heldout)))
    stream = rng("heldout pairs")
    tickets = _unique_tickets(stream, heldout_pairs, heldout)
    _write(desk.preferences_heldout, (_pair_row(stream, each, temperature, gold=True) for each in tickets))

    stream = rng("demonstrations")
    tickets = _training_tickets(stream, demonstrations, heldout)
    _write(desk.demonstrations, (_demonstration_row(stream, each) for each in tickets))
    stream = rng("pairs")
    tickets = _training_tickets(stream, pairs, heldout)
    _write(desk.preferences, (_pair_row(stream, each, temperature, gold=False) for each in tickets))
    stream = rng("prompts")
    _write(desk.prompts, map(_prompt_row, _training_tickets(stream, prompts, heldout)))
    return desk


def draw_ticket(rng: random.Random) -> Ticket:
    """A customer's message of 4 to 25 words."""
    while True:
        intent, product = rng.choice(phrases.INTENTS), rng.choice(phrases.PRODUCTS)
        before, after = phrases.TONES[rng.choice(tuple(phrases.TONES))]
        item = f"{rng.choice(phrases.COLOURS)} {product}".strip()
        person, event = rng.choice(phrases.PEOPLE), rng.choice(phrases.EVENTS)
        parts = [rng.choice(phrases.GREETINGS), rng.choice(before)]
        parts.append(rng.choice(phrases.REQUESTS[intent]).format(item=item))
        details = [
            f"{rng.choice(phrases.BOUGHT)} {rng.choice(phrases.WHEN)}.",
            rng.choice(phrases.PURPOSES).format(person=person, event=event),
        ]
        rng.shuffle(details)
        parts += details[: rng.random() < 0.25]
        parts.append(rng.choice(after))
        message = _join(parts)
        if len(message.split()) in MESSAGE_WORDS:
            return Ticket(message, intent, product)


def draw_reply(rng: random.Random, ticket: Ticket, *, care: float = CARE, wild: float = 0.0) -> str:
    """An agent's reply of 4 to 45 words.

    `care` is the probability that it answers what was asked, and that it names the right product; `wild` that it
    is one of the kinds an optimiser may try.
    """
    if rng.random() < wild:
        return _cut(rng, _wild_reply(rng, ticket, care), WILD_WORDS, WILD_WORDS)
    while True:
        sentences = _sentences(rng, ticket, care)
        reply = _cut(rng, _join(sentences), 4, 8) if rng.random() < 0.03 else _join(sentences)
        if len(reply.split()) in REPLY_WORDS:
            return reply


def _sentences(rng: random.Random, ticket: Ticket, care: float) -> list[str]:
    """The sentences of a reply, its defects drawn independently."""
    item = _item(rng, ticket.product, care)
    empathy = _say(rng, phrases.EMPATHY, item) if rng.random() < 0.57 else ""
    kind = rng.random()
    if kind < care:
        answer = _say(rng, phrases.ANSWERS[ticket.intent], item)
    elif kind < (1 + care) / 2:
        answer = _say(rng, phrases.ANSWERS[_other(rng, phrases.INTENTS, ticket.intent)], item)
    else:
        answer = rng.choice(phrases.EVASIONS)
    step = _next_step(rng, ticket.intent) if rng.random() < 0.57 else ""
    closing = _say(rng, phrases.CLOSINGS, item) if rng.random() < 0.7 else ""
    order = rng.choice([(empathy, answer, step)] * 4 + [(answer, empathy, step), (empathy, step, answer)])
    body = [sentence for sentence in order if sentence]
    if rng.random() < 0.3:
        body.insert(rng.randint(0, len(body)), _say(rng, phrases.RUDE, item))
    if rng.random() < 0.25:
        at = rng.randint(0, len(body))
        body.insert(at, rng.choice(phrases.FILLERS))
    if rng.random() < 0.2:
        again = rng.randrange(len(body))
        body.insert(rng.choice([again + 1, len(body)]), body[again])
    salutation = rng.choice(phrases.SALUTATIONS) if rng.random() < 0.3 else ""
    return [sentence for sentence in (salutation, *body, closing) if sentence]


def _wild_reply(rng: random.Random, ticket: Ticket, care: float) -> str:
    sentences = _sentences(rng, ticket, care)
    kind = rng.choice(("cut", "loop", "salad", "stuffed", "endless"))
    if kind == "cut":
        return _cut(rng, _join(sentences), 1, 12)
    if kind == "loop":
        few = rng.sample(sentences, min(len(sentences), rng.randint(1, 2)))
        return _join(few * rng.randint(3, 5))
    if kind == "salad":
        words = _join(sentences).split()
        rng.shuffle(words)
        return " ".join(words)
    item = f"the {ticket.product}"
    if kind == "stuffed":
        intents = rng.sample(phrases.INTENTS, rng.randint(2, 5))
        return _join([*(_say(rng, phrases.ANSWERS[intent], item) for intent in intents), *sentences[-2:]])
    fillers = rng.sample(phrases.FILLERS, rng.randint(2, len(phrases.FILLERS)))
    return _join([*sentences, *fillers])


def _item(rng: random.Random, product: str, care: float) -> str:
    kind = rng.random()
    if kind > (1 + care) / 2:
        return phrases.UNNAMED
    named = product if kind < care else _other(rng, phrases.PRODUCTS, product)
    return f"{rng.choice(('the', 'your'))} {named}"


def _next_step(rng: random.Random, intent: str) -> str:
    steps = (*phrases.STEPS, phrases.INTENT_STEPS[intent], phrases.INTENT_STEPS[intent])
    return rng.choice(steps).format(time=rng.choice(phrases.TIMES))


def _say(rng: random.Random, choices: tuple[str, ...], item: str) -> str:
    return phrases.plain(rng.choice(choices)).format(item=item)


def _other(rng: random.Random, choices: tuple[str, ...], this: str) -> str:
    return rng.choice([choice for choice in choices if choice != this])


def _cut(rng: random.Random, text: str, least: int, most: int) -> str:
    return " ".join(text.split()[: rng.randint(least, most)])


def _join(parts: Iterable[str]) -> str:
    return " ".join(part for part in parts if part)


def _training_tickets(rng: random.Random, count: int, heldout: set[str]) -> Iterator[Ticket]:
    while count:
        ticket = draw_ticket(rng)
        if ticket.message not in heldout:
            count -= 1
            yield ticket


def _unique_tickets(rng: random.Random, count: int, taken: set[str]) -> Iterator[Ticket]:
    """Tickets whose messages are not among the taken ones; they are added to them."""
    for _ in range(count):
        while (ticket := draw_ticket(rng)).message in taken:
            pass
        taken.add(ticket.message)
        yield ticket


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def _assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def _prompt_row(ticket: Ticket) -> Row:
    return {"prompt": [_user(ticket.message)], "intent": ticket.intent, "product": ticket.product}


def _demonstration_row(rng: random.Random, ticket: Ticket) -> Row:
    return {"messages": [_user(ticket.message), _assistant(draw_reply(rng, ticket))]}


def _pair_row(rng: random.Random, ticket: Ticket, temperature: float, *, gold: bool) -> Row:
    while True:
        replies = [draw_reply(rng, ticket, care=CARE_IN_PAIRS, wild=WILD_IN_PAIRS) for _ in range(2)]
        scores = [gold_score(reply, ticket.intent, ticket.product) for reply in replies]
        if abs(scores[0] - scores[1]) >= NEAR_TIE:
            break
    first = rng.random() < preference_probability(scores[0], scores[1], temperature=temperature)
    chosen, rejected = (0, 1) if first else (1, 0)
    row: Row = {
        "prompt": [_user(ticket.message)],
        "chosen": [_assistant(replies[chosen])],
        "rejected": [_assistant(replies[rejected])],
    }
    if gold:
        row |= {"gold_chosen": scores[chosen], "gold_rejected": scores[rejected]}
    return row


def _write(path: Path, rows: Iterable[Row]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
