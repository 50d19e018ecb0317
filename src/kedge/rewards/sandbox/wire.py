"""Calls between two processes that do not trust each other: values as JSON, everything else as a handle.

What arrives is rebuilt here from plain parts, by types that are listed: whatever the other side has done to its own
classes, a ``list`` that arrives is Python's own. Of what has no such form (a generator, an object of the other side's
own class) there is a :class:`Remote`, which equals no value.
"""

import builtins
import json
import operator
import socket
import struct
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from types import FunctionType, LambdaType
from typing import Any

LARGEST = 64 * 2**20
"""Bytes of a message."""


class Gone(BaseException):
    """The other process has ended, or talks nonsense. No test may catch it as an answer's error."""


class Channel:
    """One end: asks the other side for things, and answers what it asks meanwhile."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.mine: dict[int, Any] = {}
        """What the other side has handles of."""
        self.serving: Callable[[str, list[Any]], Any] = self._called_back

    def ask(self, what: str, *operands: Any) -> Any:
        """Have it done over there.

        Raises:
            Gone: there is nobody. Whatever was raised there, if it is a built-in exception, else an AnswerError.
        """
        self._send([what, [self.encoded(each) for each in operands]])
        while True:
            reply = self._received()
            if len(reply) == 2:
                self.answer(*reply)
                continue
            status, value, changed = reply
            if status == "raised":
                raise _exception(*value)
            for operand, now in zip(_arguments(operands), changed if value is None else [], strict=False):
                _refresh(operand, self.decoded(now))
            return self.decoded(value)

    def tell(self, plain: Any) -> None:
        """Something that is no question."""
        self._send(["told", plain])

    def heard(self) -> Any:
        """What the other side tells."""
        return self._received()[1]

    def serve(self) -> None:
        """Answer until the other side has gone."""
        while True:
            self.answer(*self._received())

    def answer(self, what: str, operands: Any) -> None:
        """Do what is asked, and tell what came of it."""
        try:
            given = [self.decoded(each) for each in operands]
            result = self.serving(what, given)
            # By convention a function that changes its arguments returns None: then they go back.
            changed = [self.encoded(each) for each in _arguments(given)] if result is None else []
            self._send(["done", self.encoded(result), changed])
        except Gone:
            raise
        except BaseException as error:  # noqa: BLE001  SystemExit too is only what this call came to
            with suppress(Exception):
                self._send(["raised", [type(error).__name__, str(error)[:500]], []])

    def _called_back(self, what: str, operands: list[Any]) -> Any:
        function = operands[0]
        if what != "call" or not isinstance(function, FunctionType | LambdaType):
            raise TypeError("only functions that were given away are called back")
        return function(*operands[1], **operands[2])

    def encoded(self, value: Any) -> Any:
        """As JSON has it."""
        if value is None or value is True or value is False:
            return value
        if isinstance(value, str):
            return str.__str__(value)  # of a subclass too
        if isinstance(value, int | float):
            return int.__int__(value) if isinstance(value, int) else float.__float__(value)
        if isinstance(value, Remote):
            return {"yours": value._handle}
        if type(value).__module__ == "numpy" and hasattr(value, "item") and not getattr(value, "shape", None):
            return self.encoded(value.item())
        if isinstance(value, list):
            return [self.encoded(each) for each in list.__iter__(value)]
        if isinstance(value, dict):
            return {"dict": [[self.encoded(k), self.encoded(v)] for k, v in dict.items(value)]}
        for name, (form, parts, _) in FORMS.items():
            if isinstance(value, form):
                return {name: self.encoded(parts(value))}
        named = value.__name__ if isinstance(value, type) else ""
        if named and getattr(builtins, named, None) is value:
            return {"builtin": named}
        self.mine[id(value)] = value
        return {"mine": id(value)}

    def decoded(self, coded: Any) -> Any:
        """As Python has it."""
        if isinstance(coded, list):
            return [self.decoded(each) for each in coded]
        if not isinstance(coded, dict):
            return coded
        [(name, value)] = coded.items()
        if name == "dict":
            return {self.decoded(k): self.decoded(v) for k, v in value}
        if name == "mine":
            return Remote(self, int(value))
        if name == "yours":
            return self.mine[value]
        if name == "builtin" and isinstance(kind := getattr(builtins, value), type):
            return kind
        return FORMS[name][2](self.decoded(value))

    def _send(self, message: Any) -> None:
        packed = json.dumps(message).encode()
        if len(packed) > LARGEST:
            raise ValueError(f"more than {LARGEST} bytes")
        try:
            self.connection.sendall(struct.pack("!I", len(packed)) + packed)
        except OSError:
            raise Gone from None

    def _received(self) -> list[Any]:
        try:
            [length] = struct.unpack("!I", self._exactly(4))
            message = json.loads(self._exactly(length)) if length <= LARGEST else None
        except (OSError, ValueError, RecursionError):
            raise Gone from None
        if not isinstance(message, list) or len(message) not in (2, 3):
            raise Gone
        return message

    def _exactly(self, count: int) -> bytes:
        parts = bytearray()
        while len(parts) < count:
            part = self.connection.recv(min(count - len(parts), 2**20))
            if not part:
                raise Gone
            parts += part
        return bytes(parts)


class AnswerError(Exception):
    """An exception of a class that is the other side's own."""


class Remote:
    """A thing of the other side's. It may be called, looked into and gone through; values are compared here.

    With a value of this side's it is never equal, nor smaller, nor does arithmetic work with one: the result would be
    whatever the other side says. Two of the other side's are compared there.
    """

    _channel: Channel
    _handle: int

    def __init__(self, channel: Channel, handle: int) -> None:
        object.__setattr__(self, "_channel", channel)
        object.__setattr__(self, "_handle", handle)

    def __call__(self, *args: Any, **named: Any) -> Any:
        return self._channel.ask("call", self, list(args), named)

    def __getattr__(self, name: str) -> Any:
        return self._channel.ask("getattr", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._channel.ask("setattr", self, name, value)

    def __getitem__(self, key: Any) -> Any:
        return self._channel.ask("getitem", self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._channel.ask("setitem", self, key, value)

    def __len__(self) -> int:
        return int(self._channel.ask("len", self))

    def __bool__(self) -> bool:
        return bool(self._channel.ask("bool", self))

    def __str__(self) -> str:
        return str(self._channel.ask("str", self))

    def __repr__(self) -> str:
        return str(self._channel.ask("repr", self))

    def __iter__(self) -> Iterator[Any]:
        there = self._channel.ask("iter", self)
        while True:
            more = self._channel.ask("next", there)
            if not more:
                return
            yield more[0]

    def __contains__(self, value: Any) -> bool:
        return any(value == each for each in self)

    def __hash__(self) -> int:
        return hash(self._handle)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Remote) and (
            other._handle == self._handle or self._channel.ask("eq", self, other) is True
        )

    def __lt__(self, other: Any) -> bool:
        if not isinstance(other, Remote):
            return NotImplemented
        return self._channel.ask("lt", self, other) is True


def _next(iterator: Iterator[Any]) -> list[Any]:
    for each in iterator:
        return [each]
    return []


ACTS: dict[str, Callable[..., Any]] = {
    "call": lambda function, args, named: function(*args, **named),
    "getattr": getattr,
    "setattr": setattr,
    "getitem": operator.getitem,
    "setitem": operator.setitem,
    "len": len,
    "bool": bool,
    "str": str,
    "repr": repr,
    "iter": iter,
    "next": _next,
    "eq": lambda a, b: bool(a == b),
    "lt": lambda a, b: bool(a < b),
}
"""What the answer's side does for the other."""

FORMS: dict[str, tuple[type, Callable[[Any], Any], Callable[[Any], Any]]] = {
    "tuple": (tuple, list, tuple),
    "set": (set, list, set),
    "frozenset": (frozenset, list, frozenset),
    "bytes": (bytes, list, bytes),
    "bytearray": (bytearray, list, bytearray),
    "deque": (deque, list, deque),
    "range": (range, lambda r: [r.start, r.stop, r.step], lambda parts: range(*parts)),
    "slice": (slice, lambda s: [s.start, s.stop, s.step], lambda parts: slice(*parts)),
    "complex": (complex, lambda z: [z.real, z.imag], lambda parts: complex(*parts)),
    "Fraction": (Fraction, lambda f: [f.numerator, f.denominator], lambda parts: Fraction(*parts)),
    "Decimal": (Decimal, str, Decimal),
    "datetime": (datetime, lambda d: d.isoformat(), datetime.fromisoformat),
    "date": (date, lambda d: d.isoformat(), date.fromisoformat),
    "time": (time, lambda t: t.isoformat(), time.fromisoformat),
    "timedelta": (timedelta, lambda d: [d.days, d.seconds, d.microseconds], lambda parts: timedelta(*parts)),
    "dict_keys": (type({}.keys()), list, lambda keys: dict.fromkeys(keys).keys()),
    "dict_values": (type({}.values()), list, list),
    "dict_items": (type({}.items()), list, list),
    "odict_keys": (type(OrderedDict().keys()), list, lambda keys: dict.fromkeys(keys).keys()),
}
"""``{name: (type, its parts, the type from its parts)}``; a subclass arrives as the type."""


def _arguments(operands: Any) -> list[Any]:
    """Of a call the arguments by position; of the rest nothing."""
    return operands[1] if len(operands) == 3 and isinstance(operands[1], list) else []


def _refresh(mine: Any, now: Any) -> None:
    """What the call has made of an argument."""
    if type(mine) is not type(now):
        return
    if isinstance(mine, list):
        mine[:] = now
    elif isinstance(mine, dict | set):
        mine.clear()
        mine.update(now)


def _exception(name: str, said: str) -> Exception:
    kind = getattr(builtins, str(name), None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        with suppress(TypeError):  # UnicodeDecodeError wants more
            return kind(said)
    return AnswerError(f"{name}: {said}")
