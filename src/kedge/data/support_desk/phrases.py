"""The words of the support desk: everything a customer or an agent can say.

A limited vocabulary and a regular grammar on purpose, so that a model of a million parameters learns it from
scratch in a minute. Two marks are used in the phrases:

- `{item}`, `{time}`, ... are slots that the generator (`world.py`) fills in;
- `[...]` marks what the gold score (`gold.py`) recognises the sentence by. The marks are part of the phrases,
  so that generator and score cannot drift apart; `plain` takes them off.
"""

PRODUCTS = ("kettle", "toaster", "camera", "keyboard", "printer", "heater", "desk lamp", "coffee maker")

# --- what a customer says --------------------------------------------------------------------------------

REQUESTS: dict[str, tuple[str, ...]] = {
    "refund": (
        "I would like my money back for the {item}.",
        "Please refund the {item}, I do not need it.",
        "Can I get a refund for the {item}?",
        "The {item} is not what I hoped for, and I want my money back.",
    ),
    "delivery": (
        "My {item} has not arrived yet.",
        "Where is the {item} that I ordered?",
        "I am still waiting for my {item} to arrive.",
        "The parcel with my {item} is late.",
    ),
    "broken": (
        "My {item} stopped working.",
        "The {item} came with a crack in it.",
        "My {item} arrived broken.",
        "There is a fault in my {item}, and it gets too hot.",
    ),
    "cancel": (
        "I want to cancel my order for the {item}.",
        "Please stop the order for the {item}.",
        "Can you cancel the {item} before it is sent?",
        "Do not send the {item}, I have changed my mind.",
    ),
    "account": (
        "I cannot log in to see my {item}.",
        "I forgot my password and need to register the {item}.",
        "My account is locked, and the {item} is in it.",
        "How do I get into my account to find the {item}?",
    ),
    "setup": (
        "How do I set up the {item}?",
        "I cannot get the {item} to start for the first time.",
        "The {item} came without instructions, how do I turn it on?",
        "Which button do I press to set up my {item}?",
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
        ("", "I am really upset.", "I am writing once more.", "I have had enough."),
        ("", "This is not acceptable.", "I expected more from you.", "I want an answer now!"),
    ),
    "friendly": (
        ("", "I hope you are well.", "I like your shop a lot."),
        ("", "Thanks a lot!", "Have a good day!", "I am sure you can help."),
    ),
}

# --- what an agent says ----------------------------------------------------------------------------------

SALUTATIONS = ("Hello!", "Hi there!", "Good day!")
EMPATHY = (
    "[I am sorry to hear] that.",
    "[I am so sorry about] the trouble.",
    "[I am so sorry about] the trouble with {item}.",
    "[I understand how] annoying this must be.",
    "[I can see why] this worries you.",
    "[We are sorry that] this happened to you.",
    "[I know how much] this matters to you.",
)
ANSWERS: dict[str, tuple[str, ...]] = {
    "refund": (
        "I have sent [the full price of] {item} [back to your card].",
        "You get [all your money back for] {item}, without any fee.",
        "We [refund] {item} [in full], and no reason is needed.",
    ),
    "delivery": (
        "I have found {item}, and [the parcel is on its way].",
        "Our driver had a delay, but {item} [is now in the van to you].",
        "I asked the driver to [bring] {item} [to your door first].",
    ),
    "broken": (
        "The fault is ours, so we [repair] {item} [free of charge].",
        "I have ordered [a spare part for] {item} at no cost.",
        "Our workshop will [fix the fault in] {item} for you.",
    ),
    "cancel": (
        "I have [stopped the order for] {item}, and nothing is charged.",
        "The order for {item} [is now cancelled].",
        "We have taken {item} [off your order before it was packed].",
    ),
    "account": (
        "I have [opened your account again], and {item} is listed there.",
        "Use [the link to set a new password], and then you can see {item}.",
        "I have [unlocked your login], so {item} is back in your list.",
    ),
    "setup": (
        "Plug in {item} and [press the round button until the light is green].",
        "First charge {item}, and [then hold the start button] for a moment.",
        "Turn on {item} and [follow the three steps on the screen].",
    ),
}
UNNAMED = ("the item", "your purchase")  # what an agent says who does not name the product
EVASIONS = (
    "Such things happen, and there is not much to say.",
    "I do not know anything about that.",
    "You may find something on our website.",
    "Maybe another team can tell you more.",
    "We get many questions like this one.",
    "It depends on a lot of things.",
)
STEPS = (
    "You will get an email about it {time}.",
    "A colleague will call you {time}.",
    "We will write to you again {time}.",
    "I will check on it myself {time}.",
    "You will hear from our team {time}.",
)
INTENT_STEPS = {
    "refund": "You will see the money {time}.",
    "delivery": "The driver will ring at your door {time}.",
    "broken": "The driver will collect it {time}.",
    "cancel": "You will get a short note that it is done {time}.",
    "account": "You will be able to log in {time}.",
    "setup": "A colleague will call and guide you {time}.",
}
STEP_ACTORS = ("you", "we", "i", "colleague", "team", "driver")
TIMES = (
    "today", "tomorrow", "tomorrow morning", "by Monday", "by Friday", "within one hour", "within two days",
    "within three days", "before the weekend", "next week",
)  # fmt: skip
CLOSINGS = (
    "[Thank you] for your patience.",
    "[Please write] again if you need anything.",
    "[Kind regards] from the support desk.",
    "[Have a lovely] day.",
    "[Thank you] for shopping with us.",
)
RUDE = (
    "That is [not our fault].",
    "You [should have read the manual].",
    "[Stop complaining] about it.",
    "Other people [manage just fine].",
    "Do not [waste our time].",
    "This is really [your own problem].",
    "[Calm down] and wait.",
)
FILLERS = (
    "By the way, our shop was founded by two brothers.",
    "The weather here is grey today.",
    "We have a big team and sell many fine things.",
    "As you may know, our new catalogue is out.",
    "It is often said that good things take time.",
    "Some say that the old shop was nicer.",
)


def plain(phrase: str) -> str:
    """The phrase as it is said, without the marks of the score."""
    return phrase.replace("[", "").replace("]", "")
