"""The words of the support desk: everything a customer or an agent can say.

A limited vocabulary and a regular grammar on purpose, so that a model of half a million parameters learns it from
scratch in a minute. Two marks are used in the phrases:

- `{item}`, `{time}`, ... are slots that the generator (`world.py`) fills in;
- `[...]` marks what the gold score (`gold.py`) recognises the sentence by. The marks are part of the phrases,
  so that generator and score cannot drift apart; `plain` takes them off.
"""

PRODUCTS = ("kettle", "toaster", "camera", "printer", "desk lamp", "coffee maker")

# --- what a customer says --------------------------------------------------------------------------------

REQUESTS: dict[str, tuple[str, ...]] = {
    "refund": (
        "I want my money back for the {item}, so please give me a refund.",
        "Please refund the {item}, I want my money back.",
        "Can I get a refund and my money back for the {item}?",
    ),
    "delivery": (
        "My {item} has not arrived yet, where is the parcel?",
        "Where is the parcel with the {item}? It has not arrived.",
        "The parcel with my {item} is late and has not arrived.",
    ),
    "broken": (
        "My {item} is broken and stopped working.",
        "The {item} has a fault and stopped working.",
        "There is a fault in my {item}, I think it is broken.",
    ),
    "cancel": (
        "I want to cancel my order, please do not send the {item}.",
        "Please cancel the order for the {item}.",
        "Do not send the {item}, I want to cancel it.",
    ),
    "account": (
        "I cannot log in to my account to see the {item}.",
        "I forgot the password of my account with the {item}.",
        "My account with the {item} is locked, I cannot log in.",
    ),
    "setup": (
        "How do I set up the {item}? I cannot turn it on.",
        "How do I turn on the {item} and set it up?",
        "Which button do I press to set up the {item}?",
    ),
}
INTENTS = tuple(REQUESTS)

COLOURS = ("", "", "blue", "red", "green", "black", "white", "grey", "yellow", "silver", "pink")
GREETINGS = ("", "", "", "Hello!", "Hi!", "Good morning!", "Good evening!", "Dear team!")
BOUGHT = ("I bought it", "I ordered it", "I paid for it", "I found it in your shop")
WHEN = (
    "yesterday", "last week", "last month", "two weeks ago", "three weeks ago", "ten days ago", "in March",
    "in June", "in October", "last Monday", "last Friday", "over the weekend", "before the holidays",
    "in the summer sale",
)  # fmt: skip
PURPOSES = (
    "It is a gift for my {person}.",
    "My {person} has a birthday soon.",
    "I need it for {event}.",
    "I ordered it for {event}.",
    "My {person} uses it every day.",
    "My {person} told me to ask you.",
)
PEOPLE = (
    "mother", "father", "sister", "brother", "daughter", "son", "wife", "husband", "neighbour", "friend",
    "grandmother", "boss",
)  # fmt: skip
EVENTS = ("my work", "our new flat", "a long trip", "a family party", "the school fair", "a wedding")
TONES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {  # what comes before the request, and after it
    "neutral": (
        ("", "", "I have a question."),
        ("", "", "Please let me know."),
    ),
    "upset": (
        ("", "", "I am really upset.", "I have had enough."),
        ("", "", "This is not acceptable.", "I want an answer now!"),
    ),
    "friendly": (
        ("", "", "I hope you are well.", "I like your shop a lot."),
        ("", "", "Thanks a lot!", "Have a good day!"),
    ),
}

# --- what an agent says ----------------------------------------------------------------------------------

SALUTATIONS = ("Hello!", "Hi there!", "Good day!")
EMPATHY = (
    "[I am sorry to hear] that.",
    "[I am sorry about] {item}.",
    "[I understand how] annoying this is.",
    "[We are sorry that] this happened.",
)
ANSWERS: dict[str, tuple[str, ...]] = {
    "refund": (
        "We [refund] {item} [in full], and the money goes back to your card.",
        "You get [your money back for] {item}, the refund goes to your card.",
    ),
    "delivery": (
        "[The parcel with] {item} [is in the van], and the driver is close to your door.",
        "I found the parcel, and the driver [brings] {item} [to your door first].",
    ),
    "broken": (
        "Our workshop will [repair] {item} [free of charge] with a spare part.",
        "The workshop has [a spare part for] {item}, and the repair is free of charge.",
    ),
    "cancel": (
        "I have [stopped the order for] {item}, it is cancelled and nothing is charged.",
        "The order for {item} [is now cancelled], and nothing is charged.",
    ),
    "account": (
        "I have [unlocked your account with] {item}, and here is a new password.",
        "Here is [a new password for your account], and {item} is listed there.",
    ),
    "setup": (
        "Plug in {item} and [press the round button], then follow the three steps.",
        "Turn on {item}, [follow the three steps] on the screen and press the button.",
    ),
}
UNNAMED = "the item"  # what an agent says who does not name the product
EVASIONS = (
    "I do not know anything about that.",
    "Another team may know more.",
    "We get many such questions.",
)
STEPS = (
    "You will get an email {time}.",
    "We will write again {time}.",
    "I will check on it {time}.",
)
INTENT_STEPS = {
    "refund": "You will see the money {time}.",
    "delivery": "The driver will ring {time}.",
    "broken": "The driver will collect it {time}.",
    "cancel": "You will get a note {time}.",
    "account": "You will be able to log in {time}.",
    "setup": "A colleague will call you {time}.",
}
STEP_ACTORS = ("you", "we", "i", "colleague", "team", "driver")
TIMES = ("today", "tomorrow", "by Friday", "within two days", "before the weekend")
CLOSINGS = (
    "[Thank you] for your patience.",
    "[Please write] again any time.",
    "[Kind regards] from the support desk.",
)
RUDE = (
    "That is [not our fault].",
    "[Stop complaining] about it.",
    "[Calm down] and wait.",
)
FILLERS = (
    "Our shop was founded by two brothers.",
    "The weather here is grey today.",
    "We sell many fine things.",
)


def plain(phrase: str) -> str:
    """The phrase as it is said, without the marks of the score."""
    return phrase.replace("[", "").replace("]", "")
