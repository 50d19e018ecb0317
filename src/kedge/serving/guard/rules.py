"""What a guard's file says: rules, each with one test and what is done where it finds something."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from kedge.config.settings import Config, Several, read_recipe
from kedge.errors import ConfigError, KedgeError
from kedge.rewards.build import refuse_missing_columns
from kedge.serving.guard.finding import compiled, longest_written

TESTS = ("pattern", "words", "reward")

Where = Literal["prompt", "answer"]


class Rule(Config):
    """One rule: where it looks, its test, and what is done."""

    name: str = Field(min_length=1, max_length=64)
    """Under which its decisions are kept, and clients hear of it."""
    on: Literal["prompt", "answer", "both"] = "both"
    """What it looks at: every message of a prompt, whoever is said to have written it; or the answer."""
    pattern: str | None = None
    """A regular expression that is looked for, in any case; ``(?-i:...)`` around what has only one."""
    words: Several[str] = ()
    """Words, or several in a row, that are looked for in any case: as whole words, and in scripts without spaces
    anywhere."""
    reward: Any = None
    """Any reward, as a recipe's ``ppo.reward`` has it; it judges an answer to its prompt, and of a prompt its text."""
    below: float | None = None
    """The reward's score under which something is done."""
    above: float | None = None
    """The reward's score over which something is done."""
    do: Literal["block", "replace", "review"]
    """``block``: it is not answered, or the answer not given; ``replace``: ``message`` stands in its place; ``review``:
    it is answered and given, and somebody looks at it later."""
    message: str = ""
    """What the client hears of what is blocked, and what stands in place of what is replaced."""
    whole: bool = False
    """All of the text is replaced and not only what was found; a reward finds no place in it, and always does so."""
    on_error: Literal["block", "pass"] = "block"
    """What is done where the test fails or takes too long."""

    USED_WHEN: ClassVar[Mapping[str, tuple[str, tuple[object, ...]]]] = {
        "below": ("reward", ()),
        "above": ("reward", ()),
        "message": ("do", ("block", "replace")),
        "whole": ("do", ("replace",)),
    }

    @property
    def stops(self) -> bool:
        """Whether nothing else of a text is given where it finds something."""
        return self.do == "block" or (self.do == "replace" and (self.whole or self.reward is not None))

    def looks_at(self, where: Where) -> bool:
        """Whether it is asked about prompts, or about answers."""
        return self.on in (where, "both")

    @model_validator(mode="after")
    def _is_one_line(self) -> Self:
        if not self.name.isprintable():
            raise ValueError(f"name: {self.name!r} has characters that cannot be printed")
        return self

    @model_validator(mode="after")
    def _has_one_test(self) -> Self:
        given = [key for key in TESTS if getattr(self, key) not in (None, ())]
        if len(given) != 1:
            raise ValueError(f"exactly one of pattern, words, reward; there is {' and '.join(given) or 'none'}")
        if given == ["reward"]:
            if (self.below is None) == (self.above is None):
                raise ValueError("reward: with below = or above =, one of the two")
            if self.do == "replace" and self.on != "answer":
                raise ValueError('do: a reward finds no place in a prompt; block or review it, or say on = "answer"')
        return self

    @model_validator(mode="after")
    def _can_be_tested(self) -> Self:
        if self.pattern is not None and compiled(self.pattern).search(""):
            raise ValueError(f"pattern: {self.pattern!r} is found in every text, also where there is none")
        if not all(word.strip() for word in self.words):
            raise ValueError("words: one of them is empty")
        if self.reward is not None:
            try:
                refuse_missing_columns(self.reward, ())
            except KedgeError as error:
                raise ValueError("\n".join(f"reward: {line}" for line in str(error).splitlines())) from None
        return self


class Rules(Config):
    """A guard's file."""

    hold: int | Literal["answer"] = Field(200)
    """Characters of an answer that a stream keeps back, since the rules on patterns and words may still find something
    in them; ``answer``: all of it, to its end."""
    seconds: float = Field(10.0, gt=0)
    """A test may take."""
    rule: tuple[Rule, ...] = Field(min_length=1)
    """The rules, as ``[[rule]]``."""

    @model_validator(mode="after")
    def _names_are_different(self) -> Self:
        names = [rule.name for rule in self.rule]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"rule {name!r}: there are two of this name")
        return self

    @model_validator(mode="after")
    def _holds_enough(self) -> Self:
        if self.hold == "answer":
            return self
        if self.hold < 1:
            raise ValueError(f"hold: {self.hold} characters; 1 at least")
        for rule in self.rule:
            for word in rule.words:
                if rule.looks_at("answer") and longest_written(word) >= self.hold:
                    raise ValueError(
                        f"hold: the word {word!r} of rule {rule.name!r} does not fit into {self.hold} characters; "
                        f"{longest_written(word) + 1} at least"
                    )
        return self

    def looking_at(self, where: Where) -> Sequence[Rule]:
        """The rules on prompts, or on answers."""
        return [rule for rule in self.rule if rule.looks_at(where)]


def read_rules(path: Path) -> Rules:
    """The rules of a file.

    Raises:
        ConfigError: it cannot be read; or what is wrong in it, by the rule's name and the key.
    """
    if not path.is_file():
        raise ConfigError(f"--guard: there is no file {path}")
    try:
        tables = read_recipe(path)
        rules = tables.get("rule", [])
        if not isinstance(rules, list) or not all(isinstance(table, dict) for table in rules):
            raise ConfigError("rule: write each one as [[rule]]")
        return Rules(**tables | {"rule": tuple(_rule(number, table) for number, table in enumerate(rules, 1))})
    except ConfigError as error:
        raise ConfigError("\n".join(f"--guard: {path}: {line}" for line in str(error).splitlines())) from None


def _rule(number: int, table: Mapping[str, Any]) -> Rule:
    called = repr(table["name"]) if "name" in table else str(number)
    try:
        return Rule(**table)
    except ConfigError as error:
        raise ConfigError("\n".join(f"rule {called}: {line}" for line in str(error).splitlines())) from None
